"""Speed of this version beside another one, turn by turn in one run, at equal PSNR.

    git worktree add ../first a78c7fb
    python benchmarks/beside.py --other ../first --data FOLDER

The other is a checkout whose dependencies this environment has. Both write the cube of `speed.py`
with their own `tec-fp-s2l2a` through `to_zarr`, and read it through `load`, each in a process that
waits while the other works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

CHUNK = 512
PSNR = 44.0
QUALITIES = np.arange(28, 56.1, 0.25)


def main() -> None:
    """Measure and print, or be one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="checkout of the other version")
    parser.add_argument("--data", type=Path, help="folder of the samples")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    if options.other is None:
        parser.error("--other is needed")
    own = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        measured = compare({"this": own, "other": options.other.resolve()}, Path(folder), options)
    show(measured)


def compare(
    places: dict[str, Path], folder: Path, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """What each version says of itself, and its seconds turn by turn."""
    from speed import make_cube

    np.save(folder / "cube.npy", make_cube(options.data))
    workers = {name: started(place, folder / name) for name, place in places.items()}
    measured = {name: answer(worker) for name, worker in workers.items()}
    for _ in range(options.turns):
        for task in ("encode", "decode"):
            for name, worker in workers.items():
                measured[name].setdefault(task, []).append(answer(worker, task)["seconds"])
    for worker in workers.values():
        worker.communicate()
    return measured


def started(place: Path, folder: Path) -> subprocess.Popen[str]:
    """A process that imports the package from `place` and works in `folder`."""
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", str(folder)],
        env=os.environ | {"PYTHONPATH": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(worker: subprocess.Popen[str], task: str = "") -> dict[str, Any]:
    """What a process says, after it was told a task."""
    if worker.stdin is None or worker.stdout is None:
        raise RuntimeError("a process without pipes")
    if task:
        worker.stdin.write(f"{task}\n")
        worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError("a version stopped: see its error above")
    found: dict[str, Any] = json.loads(line)
    return found


def work(folder: Path) -> None:
    """Find the quality, say it, then do as told."""
    import tec_zarr

    cube, path = np.load(folder.parent / "cube.npy"), folder / "cube.zarr"
    quality = QUALITIES[bisect_left(QUALITIES, PSNR, key=lambda q: psnr(cube[:1], path, q))]
    reached = psnr(cube, path, quality)
    stored = sum(file.stat().st_size for file in (path / "s2").rglob("*") if file.is_file())
    times = {"quality": float(quality), "psnr": reached, "ratio": cube.nbytes / stored}
    print(json.dumps({**times, "place": str(Path(tec_zarr.__file__).parents[1])}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        write(cube, path, quality) if line.strip() == "encode" else read(path)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def psnr(cube: np.ndarray, path: Path, quality: float) -> float:
    """PSNR in dB at peak 10000 of an archive."""
    write(cube, path, quality)
    errors = read(path).astype(np.float64) - cube
    return float(10 * np.log10(1e8 / np.square(errors).mean()))


def write(cube: np.ndarray, path: Path, quality: float) -> None:
    """Write an archive."""
    bands = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
    data = xr.Dataset({"s2": (("time", "band", "y", "x"), cube)}, {"band": np.array(bands, object)})
    chunks = {"y": CHUNK, "x": CHUNK}
    data.tec.to_zarr(path, mode="w", chunks=chunks, consolidated=False, quality=float(quality))


def read(path: Path) -> np.ndarray:
    """Read it."""
    values: np.ndarray = xr.open_zarr(path, consolidated=False)["s2"].load().values
    return values


def show(measured: dict[str, dict[str, Any]]) -> None:
    """Print MB/s of both and their ratios."""
    size = 4 * 12 * 1024 * 1024 * 2 / 1e6
    for name, own in measured.items():
        print(f"{name}: {own['place']}")
        print(f"  quality {own['quality']}, {own['psnr']:.2f} dB, {own['ratio']:.1f} times smaller")
        for task in ("encode", "decode"):
            speeds = size / np.array(own[task])
            print(f"  {task}: {speeds.max():.1f} MB/s at best, median {np.median(speeds):.1f}")
    for task in ("encode", "decode"):
        mine, theirs = (np.array(measured[name][task]) for name in ("this", "other"))
        best, middle = theirs.min() / mine.min(), np.median(theirs) / np.median(mine)
        print(f"{task}: {best:.2f} times as fast as the other, of medians {middle:.2f}")


if __name__ == "__main__":
    main()
