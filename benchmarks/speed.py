"""Encoding, decoding and memory of a 4 x 12 x 1024 x 1024 uint16 cube, beside JPEG 2000.

TEC goes all the way, through `to_zarr` and `load` on a disk, in chunks of 12 x 512 x 512; those of
temporal models hold all four dates, which are views of one scene and help little. JPEG 2000 codes
512 x 512 images of single bands in memory, all cores busy, at the level whose PSNR is TEC's. Turns
alternate within one run. Memory is the peak of a fresh process less what it had with torch loaded
and the cube in memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

import tec_zarr
from tec_zarr.bands import S2L2A
from tec_zarr.errors import TecError
from tec_zarr.evaluate import baselines, sweep
from tec_zarr.evaluate.frames import load_frames
from tec_zarr.evaluate.machine import machine, memory, peak_memory, versions
from tec_zarr.evaluate.metrics import Distortion

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Cube = NDArray[np.uint16]

SIDE, CHUNK = 1024, 512
PSNR = 44.0
QUALITIES = np.arange(28, 56.1, 0.25)
TARGETS = {"encode": 3.0, "decode": 0.4}
MEMORY = 1e9


def main() -> None:
    """Measure and print, or be the fresh process that memory is measured in."""
    options = arguments()
    if options.memory:
        print(memory_of(options))
        return
    cube = make_cube(options.data)
    options.quality = options.quality or quality_for(options.model, cube[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cube.zarr"
        result = compare(cube, path, options)
        tasks = ("encode", "decode")
        result["memory"] = {task: fresh_memory(task, path, options.quality) for task in tasks}
    show(result)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result | {"machine": machine(), "versions": versions()}, indent=1)
    (options.out / "speed.json").write_text(text + "\n", "utf-8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tec-fp-s2l2a")
    parser.add_argument("--quality", type=float, help=f"default: what gives {PSNR:g} dB")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--archive", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_cube(data: Path | None) -> Cube:
    """Four frames of one scene, turned and mirrored; of the sample patches if there is no data."""
    try:
        frames = load_frames(data)
        scene = max((frame for own in frames.values() for frame in own), key=smaller_side)
    except TecError:
        scene = tec_zarr.sample()["s2"].values[0]
    times = -(-SIDE // smaller_side(scene))
    mirrored = np.pad(
        scene, [(0, 0), *[(0, size * (times - 1)) for size in scene.shape[1:]]], "wrap"
    )
    square = mirrored[:, :SIDE, :SIDE]
    views = [square, square[:, ::-1], square[:, :, ::-1], square.transpose(0, 2, 1)]
    return np.ascontiguousarray(np.stack(views))


def smaller_side(frame: Cube) -> int:
    """Of height and width."""
    return min(frame.shape[1:])


def quality_for(model: str, frame: Cube) -> float:
    """The least quality whose PSNR on a frame is what both codecs are compared at."""
    codec = sweep.tec(model)

    def reaches(quality: float) -> bool:
        return Distortion.between(frame, codec(frame, quality)[1], 0).psnr >= PSNR

    place = bisect_left(QUALITIES.tolist(), True, hi=len(QUALITIES) - 1, key=reaches)
    return float(QUALITIES[place])


def dataset(cube: Cube) -> xr.Dataset:
    """The cube as xarray has it."""
    return xr.Dataset({"s2": (("time", "band", "y", "x"), cube)}, {"band": np.array(S2L2A, object)})


def tec_encode(cube: Cube, path: Path, options: argparse.Namespace) -> None:
    """Write an archive."""
    chunks = {"y": CHUNK, "x": CHUNK}
    dataset(cube).tec.to_zarr(
        path, mode="w", chunks=chunks, consolidated=False, model=options.model,
        quality=options.quality,
    )  # fmt: skip


def tec_decode(path: Path) -> Cube:
    """Read it."""
    values: Cube = xr.open_zarr(path, consolidated=False)["s2"].load().values
    return values


def blocks(cube: Cube) -> Cube:
    """(…, CHUNK, CHUNK): what the chunks of both codecs cover."""
    count = SIDE // CHUNK
    split = cube.reshape(*cube.shape[:2], count, CHUNK, count, CHUNK)
    return np.ascontiguousarray(split.swapaxes(3, 4))


def compare(cube: Cube, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every turn, sizes and PSNR."""
    tec_encode(cube, path, options)
    psnr = Distortion.between(cube, tec_decode(path), 0).psnr
    images = blocks(cube)
    level = baselines.jpeg2000_level(images[:1], psnr)
    streams = baselines.jpeg2000_encode(images, level)
    shown = baselines.jpeg2000_decode(streams, images.shape)
    work: dict[str, Callable[[], object]] = {
        "tec encode": lambda: tec_encode(cube, path, options),
        "jpeg2000 encode": lambda: baselines.jpeg2000_encode(images, level),
        "tec decode": lambda: tec_decode(path),
        "jpeg2000 decode": lambda: baselines.jpeg2000_decode(streams, images.shape),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.turns):
        for name, task in work.items():
            if name == "tec encode":
                shutil.rmtree(path)  # to delete an archive is no encoding, and a disk's own pace
            seconds[name].append(timed(task))
    stored = sum(file.stat().st_size for file in (path / "s2").rglob("*") if file.is_file())
    return {
        "model": options.model,
        "quality": options.quality,
        "chunks": xr.open_zarr(path, consolidated=False)["s2"].encoding["chunks"],
        "bytes": {"raw": cube.nbytes, "tec": stored, "jpeg2000": sum(map(len, streams))},
        "psnr": {"tec": psnr, "jpeg2000": Distortion.between(images, shown, 0).psnr},
        "seconds": seconds,
    }


def timed(task: Callable[[], object]) -> float:
    """Seconds that a task takes."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def fresh_memory(task: str, path: Path, quality: float) -> int:
    """Bytes above the start, measured in a process of its own."""
    own = ["--memory", task, "--archive", str(path), "--quality", str(quality)]
    command = [sys.executable, __file__, *sys.argv[1:], *own]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def memory_of(options: argparse.Namespace) -> int:
    """Peak of this process while it encodes or decodes, less what it has before."""
    import torch

    torch.ones(64, 64) @ torch.ones(64, 64)
    cube = make_cube(options.data) if options.memory == "encode" else None
    before = memory()
    if cube is None:
        tec_decode(options.archive)
    else:
        tec_encode(cube, options.archive.with_name("other.zarr"), options)
    return peak_memory() - before


def show(result: dict[str, Any]) -> None:
    """Print what was measured, and the targets beside."""
    raw = result["bytes"]["raw"]
    chunks = " x ".join(map(str, result["chunks"]))
    print(f"{result['model']}, 4 x 12 x {SIDE} x {SIDE}, chunks {chunks}, {result['quality']:g}")
    print(f"{'MB/s of uint16':18}{'best':>8}{'median':>8}")
    speeds = {name: [raw / 1e6 / one for one in own] for name, own in result["seconds"].items()}
    for name, own in speeds.items():
        print(f"{name:18}{max(own):8.1f}{np.median(own):8.1f}")
    for codec, psnr in result["psnr"].items():
        print(f"{codec}: {psnr:.2f} dB, {raw / result['bytes'][codec]:.1f} times smaller")
    for task, target in TARGETS.items():
        ours, theirs = speeds[f"tec {task}"], speeds[f"jpeg2000 {task}"]
        best, middle = max(ours) / max(theirs), np.median(ours) / np.median(theirs)
        print(f"{task}: {best:.2f} times JPEG 2000, of medians {middle:.2f} (target {target:g})")
    for task, used in result["memory"].items():
        print(f"{task}: {used / 1e6:.0f} MB above the start (target {MEMORY / 1e6:.0f})")


if __name__ == "__main__":
    main()
