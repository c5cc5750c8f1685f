"""What fine-tuning to an archive gains, on a part of the archive that it has not seen.

The frames of one validation source are cut in two across their longer side, with some pixels
between the parts that nobody sees. The larger part becomes a Zarr archive, on which `tec-zarr train
--from` goes on; the smaller one is coded before and after. Printed: bytes at equal PSNR, and their
mean difference (BD-rate). `--also` codes other sources too: a model that is tuned to one archive
may lose on them.

    python benchmarks/finetune.py --source majortom --steps 1000
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from tec_zarr.cli import main as tec_zarr
from tec_zarr.errors import TecError
from tec_zarr.evaluate import sweep
from tec_zarr.evaluate.curves import bd_rate, bytes_at
from tec_zarr.evaluate.frames import DATA_VARIABLE, NODATA, load_series
from tec_zarr.models import artifact
from tec_zarr.models.shelf import CACHE_VARIABLE, SUFFIX

if TYPE_CHECKING:
    from tec_zarr.evaluate.curves import Curve
    from tec_zarr.evaluate.tally import Series

QUALITIES = np.arange(28, 56.1, 4).tolist()
POINTS = (32, 36, 40, 44, 48, 52)
RANGE = (30.0, 56.0)
SHARE = 0.75
"""Part of the longer side that is trained on, the gap included."""

GAP = 64
"""Pixels between the parts, which nobody sees."""


def main() -> None:
    """Cut, train, measure, print."""
    options = arguments()
    sources = load_series(options.data)
    if missing := {options.source, *options.also} - set(sources):
        raise TecError(f"no source {', '.join(missing)}; there are {', '.join(sources)}")
    parts = [cut(series) for series in sources[options.source]]
    seen = {"held out": [unseen for _, unseen in parts]}
    seen |= {name: sources[name] for name in options.also}
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder
        before = measured(options.start, seen)
        identity = tuned(Path(folder), [known for known, _ in parts], options)
        after = measured(identity, seen)
    for name in seen:
        show(f"{options.source}, {name}" if name == "held out" else name, before[name], after[name])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", default="majortom", help="a source of the validation data")
    add("--also", nargs="*", default=[], help="other sources to code before and after")
    add("--start", default="tec-fp-s2l2a", help="the model to go on from")
    add("--steps", type=int, default=1000)
    add("--frames", type=int, default=300, help="to measure the tuned model's tables on")
    add("--threads", type=int, default=1)
    add("--data", type=Path, help=f"folder of the samples; default: {DATA_VARIABLE}")
    return parser.parse_args()


def cut(series: Series) -> tuple[Series, Series]:
    """A series in two: to train on, and to measure."""
    axis = 2 if series.data.shape[2] > series.data.shape[3] else 3
    size = series.data.shape[axis]
    border = int(SHARE * size)

    def part(start: int, stop: int) -> Series:
        at = np.arange(start, stop)
        return series._replace(
            data=series.data.take(at, axis), kinds=series.kinds.take(at, axis - 1)
        )

    return part(0, border - GAP), part(border, size)


def tuned(folder: Path, parts: list[Series], options: argparse.Namespace) -> str:
    """Write archives of the parts, go on from the model, and make the result known."""
    archive, out = folder / "archive.zarr", folder / "tuned"
    for number, series in enumerate(parts):
        image = xr.DataArray(
            series.data,
            {"band": np.array(series.bands, object)},
            ("time", "band", "y", "x"),
            attrs={"_FillValue": NODATA},
        )
        chunks = (1, *image.shape[1:2], *(min(256, size) for size in image.shape[2:]))
        xr.Dataset({"s2": image}).to_zarr(
            archive, group=f"part{number}", mode="a", zarr_format=2, consolidated=False,
            encoding={"s2": {"chunks": chunks}},
        )  # fmt: skip
    pace = {"steps": options.steps, "save-every": options.steps, "frames": options.frames}
    pace |= {"threads": options.threads}
    words = [word for name, value in pace.items() for word in (f"--{name}", value)]
    run("train", "--from", options.start, "--data", archive, "--out", out, *words)
    run("models", "add", out / f"model{SUFFIX}")
    return artifact.load(out / f"model{SUFFIX}").identity()


def run(*words: object) -> None:
    """A command of `tec-zarr`, as a user would give it."""
    sys.argv = ["tec-zarr", *map(str, words)]
    try:
        tec_zarr()
    except SystemExit as err:
        if err.code:
            raise TecError(f"{' '.join(sys.argv)} failed") from err


def measured(model: str, sources: sweep.Sources) -> dict[str, Curve]:
    """Curves of a model, a chunk a frame."""
    return sweep.sweep(sweep.meter(sweep.by_frame(sweep.tec(model))), QUALITIES, sources)


def show(name: str, before: Curve, after: Curve) -> None:
    """Bytes at equal PSNR, and their mean difference."""
    print(f"\n{name}: {before.frames} frames, {before.values} values")
    print("PSNR dB   before    after   change")
    for point in POINTS:
        sizes = bytes_at(before, point), bytes_at(after, point)
        if None not in sizes:
            old, new = (float(size or 0) for size in sizes)
            print(f"{point:7} {old:8.0f} {new:8.0f} {100 * (new / old - 1):+7.1f} %")
    change = bd_rate(after, before, *RANGE)
    if change is not None:
        print(f"BD-rate, {RANGE[0]:g} to {RANGE[1]:g} dB: {100 * change:+.1f} %")


if __name__ == "__main__":
    try:
        main()
    except TecError as err:
        sys.exit(f"finetune: {err}")
