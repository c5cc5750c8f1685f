"""`tec-zarr train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping


Data = Annotated[
    str, typer.Argument(help="A Zarr archive, a folder of .npy/.npz, or one with an index.json.")
]
Out = Annotated[Path, typer.Argument(help="Folder of checkpoint, log and model.")]


def train(  # noqa: PLR0913 - the options of one command
    data: Data,
    out: Out,
    *,
    start: Annotated[
        str | None, typer.Option("--from", help="Model to go on from: name or hash.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps in all.")] = 20_000,
    batch: Annotated[int, typer.Option(min=1, help="Frames a step.")] = 8,
    crop: Annotated[int, typer.Option(min=32, help="Side of a frame, a multiple of 32.")] = 128,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate at its highest.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch. [its default]")] = None,
    frames: Annotated[int, typer.Option(min=10, help="To measure the result on.")] = 600,
) -> None:
    """Train a TEC-FP on DATA, or go on where a run in OUT stopped; the result is a model file."""
    from tec_zarr.cli.app import out as console
    from tec_zarr.train.fit import fit
    from tec_zarr.train.loop import TrainConfig

    options: dict[str, Any] = {"start": start, "steps": steps, "batch": batch, "crop": crop}
    config = TrainConfig(data=data, out=out, rate=rate, seed=seed, **options)
    path, identity = fit(
        config,
        frames=frames,
        threads=threads,
        report=lambda record: console.print(_line(record, steps)),
    )
    console.print(f"{path}: model {identity}", f"to use it: tec-zarr models add {path}", sep="\n")


def _line(record: Mapping[str, Any], steps: int) -> str:
    """A record of the log; rates in bits per pixel of all bands."""
    points = (
        f"{held['bits_per_pixel']:.3g} at {held['psnr']:.2f} dB" for held in record["held_out"]
    )
    done = f"step {record['step']} of {steps}, {record['seconds']:.0f} s"
    return f"{done}: {record['bits_per_pixel']:.3g} bits/pixel; held out {', '.join(points)}"
