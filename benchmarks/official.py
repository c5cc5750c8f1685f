"""The published sizes of TEC-TT and FlexTEC with random weights, beside the package `terracodec`.

    python benchmarks/official.py --terracodec-python ENVIRONMENT/bin/python
    python benchmarks/official.py --ours-only

The environment is that of tests/golden/parity/make.py. Both sides get the same 225 million weights,
frames and number of threads, each in a process that waits while the other works. What is timed is
all of it, network and coder: `encode_chunk` and `decode_chunk` here, `compress` and `decompress`
there. The first frame of a series has nothing before it and costs less here, so that series of one
frame and of several are measured, and the difference is what each later frame costs. Published
models were trained on series of four. With `--tiles` a chunk has several side by side: ours go
through the network together, the package takes one after another.

Bytes are not compared: what random weights forecast is far from any frame. Reading checks the
checksums of all integers that writing made. Fails if a process of ours ever had more than 12 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tec_zarr.bands import MEANS, STDS
from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.evaluate.machine import machine, peak_memory
from tec_zarr.models import registry, upstream
from tec_zarr.models.shelf import PATH_VARIABLE, SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]
PEER = Path(__file__).with_name("official_terracodec.py")
QUALITY = {"tt_s2l2a": 5.0, "flextec_s2l2a": 8.0}
"""Cases, and the quality that is asked for: a lambda, and the tokens that are sent."""

BANDS = "s2l2a"
MEMORY = 12e9
TASKS = ("write", "read")


class Side:
    """A process that codes a series when it is told to."""

    def __init__(self, command: Sequence[object], threads: int) -> None:
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [str(part) for part in (*command, threads)],
            env=os.environ | own | {"TEC_ZARR_THREADS": str(threads)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.torch = self._answer()["torch"]
        self.ready = time.perf_counter() - begin
        self.times: dict[tuple[str, int], float] = {}

    def code(self, task: str, frames: int) -> None:
        """Write or read the first frames; keeps the shortest time."""
        print(task, frames, file=self.process.stdin, flush=True)
        found = self._answer()
        known = self.times.get((task, frames), float("inf"))
        self.times[task, frames] = min(known, found["seconds"])

    def stop(self) -> int:
        """End the process; returns the most bytes of memory that it ever had."""
        peak = peak_memory(self.process.pid)
        self.process.communicate()
        return peak

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError("a process stopped: see its error above")
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass(frozen=True)
class Measured:
    """What a side said of one case."""

    name: str
    side: Side
    peak: int

    def seconds(self, task: str, frames: int) -> tuple[float, float, float]:
        """Of the first frame, of each later one (NaN if there is none), and of the series."""
        first, all_of_them = (self.side.times[task, number] for number in (1, frames))
        later = (all_of_them - first) / (frames - 1) if frames > 1 else math.nan
        return first, later, all_of_them


def main() -> int:
    """Measure and print; 1 if a process of ours needs too much memory."""
    options = arguments()
    if options.worker:
        return work(options.worker[0], Path(options.worker[1]), int(options.worker[2]))
    processor = machine()
    print(f"{processor['processor']}, {options.threads} of {processor['cores']} cores")
    worst = 0
    for case in [*QUALITY][: 2 if options.ours_only else 1]:
        with tempfile.TemporaryDirectory() as folder:
            save_frames(Path(folder), options)
            found = compare(case, Path(folder), options)
        report(case, found, options)
        worst = max(worst, found[0].peak)
    return int(worst > MEMORY)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--terracodec-python", type=Path, help="a Python that has terracodec")
    parser.add_argument("--ours-only", action="store_true", help="TEC-TT and FlexTEC of ours alone")
    parser.add_argument("--frames", type=int, default=4, help="of the longer series")
    parser.add_argument("--tiles", type=int, default=1, help="of a frame, side by side")
    parser.add_argument("--size", type=int, default=256, help="side of a tile in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.worker and options.ours_only == (options.terracodec_python is not None):
        parser.error("name either --terracodec-python or --ours-only")
    return options


def save_frames(folder: Path, options: argparse.Namespace) -> None:
    """Hills with noise, step by step: as digital numbers, and normalised as networks take them."""
    random, size = np.random.default_rng(0), (options.size, options.tiles * options.size)
    hills = np.cumsum(random.normal(0, 0.25, (1, 12, *size)), -1)
    normalised = hills + random.normal(0, 0.3, (options.frames, 12, *size))
    mean, std = statistics()
    chunk = (normalised * std + mean).round().clip(0, 65535).astype(np.uint16)
    np.save(folder / "chunk.npy", chunk)
    np.save(folder / "frames.npy", ((chunk - mean) / std).astype(np.float32))


def statistics() -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations of the bands, (band, 1, 1)."""
    mean, std = (np.array(values)[:, None, None] for values in (MEANS[BANDS], STDS[BANDS]))
    return mean, std


def compare(case: str, folder: Path, options: argparse.Namespace) -> list[Measured]:
    """Ours, and the package if there is one, turn by turn."""
    sides = {
        "tec_zarr": Side((sys.executable, __file__, "--worker", case, folder), options.threads)
    }
    if options.terracodec_python:
        command = (options.terracodec_python, "-W", "ignore", PEER, case, folder)
        sides["terracodec"] = Side(command, options.threads)
    for _ in range(options.turns):
        for frames in sorted({1, options.frames}):
            for task in TASKS:
                for side in sides.values():
                    side.code(task, frames)
    measured = [Measured(name, side, side.stop()) for name, side in sides.items()]
    if len(measured) == 2:
        agree(folder)
    return measured


def agree(folder: Path) -> None:
    """Say how much of the first frame both sides read alike."""
    ours = np.load(folder / "ours-1.npy").astype(np.float64)
    mean, std = statistics()
    theirs = (np.load(folder / "theirs-1.npy") * std + mean).clip(0, 65535)
    near = np.abs(ours - theirs) <= 1 + 1e-3 * theirs.std()
    print(f"within a digital number and 1e-3 of the deviation of it: {near.mean():.2%} of pixels")


def report(case: str, measured: Sequence[Measured], options: argparse.Namespace) -> None:
    """Print the lines of a case."""
    torches = ", ".join(f"{one.name} with torch {one.side.torch}" for one in measured)
    size = f"{options.size} x {options.tiles * options.size}"
    print(f"\n{case}, {size}, {options.threads} threads: seconds of the first frame, of each later")
    print(f"one, and of a series of {options.frames}; {torches}")
    print(f"  {'':12}{'write':>27}{'read':>27}{'both':>9}{'ready':>8}{'memory':>10}")
    print(f"  {'':12}" + f"{'first':>9}{'later':>9}{'series':>9}" * 2 + f"{'series':>9}")
    rows = []
    for one in measured:
        written, read = (one.seconds(task, options.frames) for task in TASKS)
        rows.append(np.array([*written, *read, written[-1] + read[-1]]))
        said = "".join(f"{seconds:9.2f}" for seconds in rows[-1])
        print(f"  {one.name:12}{said}{one.side.ready:8.1f}{one.peak / 1e9:7.2f} GB")
    if len(rows) == 2:
        times = rows[1] / rows[0]
        print(f"  {'times':12}" + "".join(f"{factor:9.1f}" for factor in times))


def work(case: str, folder: Path, threads: int) -> int:
    """Be our side: make the model as if from its checkpoint, say so, then do as told."""
    torch.set_num_threads(threads)
    chunk, config = np.load(folder / "chunk.npy"), configured(case, folder)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    written: dict[str, bytes] = {}
    for line in sys.stdin:
        task, number = line.split()
        begin = time.perf_counter()
        if task == "write":
            written[number] = encode_chunk(chunk[: int(number)], config)
        else:
            back = decode_chunk(written[number])
        seconds = time.perf_counter() - begin
        if task == "read":
            np.save(folder / f"ours-{number}.npy", back)
        print(json.dumps({"seconds": seconds}), flush=True)
    return 0


def configured(case: str, folder: Path) -> TecConfig:
    """How to encode, with the model of a random checkpoint; its artifact is in `folder`."""
    from tests.upstream import state_of, temporal

    artifact = upstream.convert(state_of(temporal(case)), upstream.Origin(BANDS, QUALITY[case], {}))
    identity = artifact.save(folder / f"model{SUFFIX}")
    del artifact
    os.environ[PATH_VARIABLE] = str(folder)
    registry.load(identity, torch.device("cpu"))
    return TecConfig(model=identity, quality=QUALITY[case], nodata=None)


if __name__ == "__main__":
    raise SystemExit(main())
