"""The sample cube, there and back: what a user gets, in one table and one picture."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import tec_zarr
from tec_zarr import archive
from tec_zarr.errors import TecError
from tec_zarr.evaluate import baselines
from tec_zarr.evaluate.metrics import Distortion
from tec_zarr.evaluate.plots import comparison_picture

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from numpy.typing import NDArray

    Pixels = NDArray[Any]

QUALITY = 44
SHOWN = (0, 1, 2)
"""Patches in the picture."""

REMARKS = """Bytes of pixels, without metadata. PSNR in dB at peak 10000, errors in digital numbers.
Most of these small patches are training data of the model, and too small for its full
speed: benchmarks/rate.py and speed.py measure what nothing was fitted to."""

READ_IT = """
import sys, time
import numpy as np, xarray as xr
cube = xr.open_zarr(sys.argv[1])["s2"].load()
seconds = []
for _ in range(3):
    start = time.perf_counter()
    xr.open_zarr(sys.argv[1])["s2"].load()
    seconds.append(time.perf_counter() - start)
print(min(seconds))
np.save(sys.argv[2], cube.values)
"""
"""A reader that knows nothing of this package. The first time it reads, it loads torch."""


def main() -> None:
    """Write, read, verify, compare, draw."""
    warnings.filterwarnings("ignore", "Consolidated metadata")  # xarray writes them in format 3
    folder = arguments().out
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out, cube = Console(highlight=False, soft_wrap=True), tec_zarr.sample()
    out.print(f"{cube.attrs['title']}: {dict(cube['s2'].sizes)}, {cube['s2'].dtype}\n")
    ours = there_and_back(cube, folder / "archive.zarr")
    out.print(f"Wrote {folder / 'archive.zarr'}; a fresh process opened it with xr.open_zarr.")
    cube.to_zarr(folder / "original.zarr", zarr_format=2)
    problems = archive.verify(folder / "archive.zarr", folder / "original.zarr").problems
    out.print(f"Verified against {folder / 'original.zarr'}: {len(problems)} problems.", *problems)
    original = cube["s2"].values
    out.print(compared(original, [ours, jpeg2000(original, ours), blosc(original)]))
    out.print(REMARKS)
    chosen, title = list(SHOWN), f"{original.nbytes / ours.size:.1f} times smaller"
    comparison_picture(original[chosen], ours.decoded[chosen], folder / "picture.png", title)
    out.print(f"Picture: {folder / 'picture.png'}")
    sys.exit(1 if problems else 0)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    return parser.parse_args()


class Outcome(NamedTuple):
    """What a codec made of the cube."""

    name: str
    size: int
    """Bytes."""

    decoded: Pixels
    writing: float
    """Seconds, like `reading`."""

    reading: float


def timed(task: Callable[[], object]) -> float:
    """Seconds that a task takes, once everything is warm: the best of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def there_and_back(cube: xr.Dataset, path: Path) -> Outcome:
    """Write an archive here and read it in another process."""
    result = path.with_suffix(".npy")
    options: Any = {"quality": QUALITY, "mode": "w"}
    writing = timed(lambda: cube.tec.to_zarr(path, **options))
    command = [sys.executable, "-c", READ_IT, str(path), str(result)]
    reading = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    decoded = np.load(result)
    result.unlink()
    chunks = [file for file in (path / "s2" / "c").rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in chunks)
    return Outcome(f"TEC, quality {QUALITY}", size, decoded, writing, float(reading))


def jpeg2000(original: Pixels, ours: Outcome) -> Outcome:
    """JPEG 2000 of every band by itself, at the PSNR of TEC."""
    level = baselines.jpeg2000_level(original, Distortion.between(original, ours.decoded, 0).psnr)
    streams = baselines.jpeg2000_encode(original, level)
    writing = timed(lambda: baselines.jpeg2000_encode(original, level))
    reading = timed(lambda: baselines.jpeg2000_decode(streams, original.shape))
    decoded = baselines.jpeg2000_decode(streams, original.shape)
    return Outcome("JPEG 2000 per band", sum(map(len, streams)), decoded, writing, reading)


def blosc(original: Pixels) -> Outcome:
    """Blosc (zstd, bit shuffling), a chunk a patch."""
    codec = baselines.blosc()
    data = [codec.encode(patch) for patch in original]
    writing = timed(lambda: [codec.encode(patch) for patch in original])
    reading = timed(lambda: [codec.decode(part) for part in data])
    return Outcome("Blosc, lossless", sum(map(len, data)), original, writing, reading)


def compared(original: Pixels, outcomes: list[Outcome]) -> Table:
    """A row for each codec."""
    table = Table(box=SIMPLE, pad_edge=False)
    for column in ("", "bytes", "ratio", "PSNR", "max error", "write MB/s", "read MB/s"):
        table.add_column(column, justify="right" if column else "left")
    for one in outcomes:
        error = Distortion.between(original, one.decoded, 0)
        speeds = [original.nbytes / 1e6 / seconds for seconds in (one.writing, one.reading)]
        cells = [f"{one.size:,}", f"{original.nbytes / one.size:.1f}", f"{error.psnr:.2f}"]
        cells += [f"{error.max_error:g}", *(f"{speed:.1f}" for speed in speeds)]
        table.add_row(one.name, *cells)
    return table


if __name__ == "__main__":
    try:
        main()
    except TecError as err:
        sys.exit(f"demo: {err}")
