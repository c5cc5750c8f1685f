"""`tec-zarr train`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tec_zarr.errors import ConfigError
from tec_zarr.evaluate.plots import training_plot

if TYPE_CHECKING:
    from tec_zarr.train.fit import Fitted
    from tec_zarr.train.journal import Record, Report

Data = Annotated[
    str, typer.Option(help="A Zarr archive, a folder of .npy/.npz, or one with an index.json.")
]
Out = Annotated[Path, typer.Option(help="Folder of checkpoint, log and model.")]
From = Annotated[
    str | None, typer.Option("--from", help="Model to go on from: name, hash or .pt file.")
]
Family = Annotated[
    str | None, typer.Option(help="fp, elic, tt or flextec. [that of --from, or fp]")
]
Layout = Annotated[
    str | None, typer.Option(help="patch (as bundled) or strided (as published: CompressAI's).")
]
Quality = Annotated[float, typer.Option(min=0, help="In strided layout: lambda.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps in all.")]
Batch = Annotated[int, typer.Option(min=1, help="Frames a step.")]
Crop = Annotated[
    int, typer.Option(min=32, help="Side of a frame, a multiple of 32; of 64 in strided layout.")
]
Rate = Annotated[float | None, typer.Option(help="Learning rate. [as usual for the model]")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of all that is random.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of torch. [its default]")]
Frames = Annotated[int, typer.Option(min=10, help="To measure the result on.")]
Every = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
Device = Annotated[str, typer.Option(help='"cpu", "cuda:0" ...; "auto": a GPU if there is one.')]
Bands = Annotated[str | None, typer.Option(help="B02,B03,..., if DATA does not say it.")]
Nodata = Annotated[float | None, typer.Option(help="Stored value without data (may be nan).")]
Scale = Annotated[float | None, typer.Option(help="Digital numbers per stored unit.")]
Offset = Annotated[float | None, typer.Option(help="Digital number of a stored 0.")]
Summary = Annotated[str | None, typer.Option(help="For the card: one line. [what was done]")]
Licence = Annotated[str | None, typer.Option(help="For the card: of the weights. [of --from]")]
Attribution = Annotated[str | None, typer.Option(help="For the card: of DATA. [as DATA say]")]
Plot = Annotated[bool, typer.Option("--plot", help="Draw OUT/log.png at the end.")]


def train(  # noqa: PLR0913 - the options of one command
    *,
    data: Data,
    out: Out = Path("trained"),
    start: From = None,
    family: Family = None,
    layout: Layout = None,
    quality: Quality = 10,
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
    summary: Summary = None,
    licence: Licence = None,
    attribution: Attribution = None,
    plot: Plot = False,
) -> None:
    """Train a model on DATA, or go on where a run in OUT stopped; the result is a model file."""
    _check(plot)
    from tec_zarr.train import fit, kinds, loop

    reading = _said(bands=_names(bands), nodata=nodata, scale=scale, offset=offset)
    model = kinds.chosen(family, layout, start, quality)
    pace: Any = {"steps": steps, "batch": batch, "crop": crop, "rate": rate, "seed": seed}
    rest: Any = {"start": start, "save_every": save_every, "device": device, "reading": reading}
    config = loop.TrainConfig(data=data, out=out, model=model, **pace, **rest)
    own: Any = {"frames": frames, "threads": threads, "report": _reporter(steps)}
    said: Any = _said(summary=summary, licence=licence, data=attribution)
    _tell(fit.fit(config, said=said, **own), plot)


def _check(plot: bool) -> None:
    """Raise ConfigError before the work if there could be no plot after it."""
    if plot and not find_spec("matplotlib"):
        raise ConfigError("--plot needs matplotlib: pip install 'tec-zarr[evaluate]'")


def _names(bands: str | None) -> list[str] | None:
    return None if bands is None else [name.strip() for name in bands.split(",")]


def _said(**options: object) -> dict[str, object]:
    """The options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def _reporter(steps: int) -> Report:
    """Prints records of the log; rates in bits per pixel of all bands."""
    from tec_zarr.cli.app import out as console

    def tell(record: Record) -> None:
        points = [
            f"{held['bits_per_pixel']:.3g} at {held['psnr']:.2f} dB" for held in record["held_out"]
        ] or ["nothing"]
        done = f"step {record['step']} of {steps}, {record['seconds']:.0f} s"
        rate = f"{record['bits_per_pixel']:.3g} bits/pixel"
        console.print(f"{done}: {rate}; held out {', '.join(points)}")

    return tell


def _tell(fitted: Fitted, plot: bool) -> None:
    from tec_zarr.cli.app import out as console

    path, identity = fitted
    console.print(f"{path}: model {identity}", f"to use it: tec-zarr models add {path}", sep="\n")
    if plot:
        training_plot(path.with_name("log.jsonl"), path.with_name("log.png"))
