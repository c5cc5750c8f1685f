"""`tec-zarr train`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tec_zarr.errors import ConfigError
from tec_zarr.evaluate.plots import training_plot

if TYPE_CHECKING:
    from collections.abc import Mapping


Data = Annotated[
    str, typer.Argument(help="A Zarr archive, a folder of .npy/.npz, or one with an index.json.")
]
Out = Annotated[Path, typer.Argument(help="Folder of checkpoint, log and model.")]
From = Annotated[str | None, typer.Option("--from", help="Model to go on from: name or hash.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps in all.")]
Batch = Annotated[int, typer.Option(min=1, help="Frames a step.")]
Crop = Annotated[int, typer.Option(min=32, help="Side of a frame, a multiple of 32.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate. [0.001, with --from 0.0002]")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of all that is random.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of torch. [its default]")]
Frames = Annotated[int, typer.Option(min=10, help="To measure the result on.")]
Every = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
Device = Annotated[str, typer.Option(help='"cpu", "cuda:0" ...; "auto": a GPU if there is one.')]
Bands = Annotated[str | None, typer.Option(help="B02,B03,..., if DATA does not say it.")]
Nodata = Annotated[float | None, typer.Option(help="Stored value without data (may be nan).")]
Scale = Annotated[float | None, typer.Option(help="Digital numbers per stored unit.")]
Offset = Annotated[float | None, typer.Option(help="Digital number of a stored 0.")]
Plot = Annotated[bool, typer.Option("--plot", help="Draw OUT/log.png at the end.")]


def train(  # noqa: PLR0913 - the options of one command
    data: Data,
    out: Out,
    *,
    start: From = None,
    steps: Steps = 20_000,
    batch: Batch = 8,
    crop: Crop = 128,
    rate: Rate = None,
    seed: Seed = 0,
    threads: Threads = None,
    frames: Frames = 600,
    save_every: Every = 1000,
    device: Device = "auto",
    bands: Bands = None,
    nodata: Nodata = None,
    scale: Scale = None,
    offset: Offset = None,
    plot: Plot = False,
) -> None:
    """Train a TEC-FP on DATA, or go on where a run in OUT stopped; the result is a model file."""
    if plot and not find_spec("matplotlib"):
        raise ConfigError("--plot needs matplotlib: pip install 'tec-zarr[train]'")
    from tec_zarr.cli.app import out as console
    from tec_zarr.train import fit, loop

    usual = loop.TrainConfig.rate if start is None else fit.FINE_TUNING_RATE
    names = None if bands is None else [name.strip() for name in bands.split(",")]
    reading = _said(bands=names, nodata=nodata, scale=scale, offset=offset)
    pace: Any = {"steps": steps, "batch": batch, "crop": crop, "save_every": save_every}
    options: Any = {"start": start, "seed": seed, "device": device, "reading": reading, **pace}
    path, identity = fit.fit(
        loop.TrainConfig(data=data, out=out, rate=rate or usual, **options),
        frames=frames,
        threads=threads,
        report=lambda record: console.print(_line(record, steps)),
    )
    console.print(f"{path}: model {identity}", f"to use it: tec-zarr models add {path}", sep="\n")
    if plot:
        training_plot(out / "log.jsonl", out / "log.png")


def _said(**options: object) -> dict[str, object]:
    """The options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def _line(record: Mapping[str, Any], steps: int) -> str:
    """A record of the log; rates in bits per pixel of all bands."""
    points = [
        f"{held['bits_per_pixel']:.3g} at {held['psnr']:.2f} dB" for held in record["held_out"]
    ] or ["nothing"]
    done = f"step {record['step']} of {steps}, {record['seconds']:.0f} s"
    return f"{done}: {record['bits_per_pixel']:.3g} bits/pixel; held out {', '.join(points)}"
