"""Whether chunks written under one setting are read alike under every other.

A setting is an instruction set, a number of threads, a batch size, a memory layout, oneDNN or loops
in machine code on or off, a device. Each runs in a process of its own: first some write tiles of
real data, then all read what each has written. Three variants of the model take part:

    guarded   as it is: networks in float64 or integers, a guard band, overrides
    float32   networks in float32, no guard band; not of those in integers
    noise     as it is, no guard band, and noise of 1e-6 of a step on every parameter

The first one must have no wrong symbol. The others must have some, else the harness sees nothing.
Printed besides: the largest difference of a parameter over the guard band, and what overrides cost.

    python benchmarks/portability.py --tiles 200 --model FILE.tec.safetensors
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.errors import FormatError
from tec_zarr.evaluate.frames import DATA_VARIABLE, Wanted, load_frames
from tec_zarr.models import artifact as artifacts
from tec_zarr.models.batch import stacked
from tec_zarr.models.coding import BAND, Recorder, Replay
from tec_zarr.models.pixels import Units
from tec_zarr.models.shelf import SUFFIX
from tec_zarr.tiling import padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from tec_zarr.models.coding import Coder, Guard
    from tec_zarr.models.model import Model
    from tec_zarr.models.priors import Coded

VARIANTS = ("guarded", "float32", "noise")
LOGGED = 32
"""Tiles whose parameters are compared number by number."""


@dataclass(frozen=True)
class Setting:
    """How a process computes."""

    name: str
    environment: tuple[tuple[str, str], ...] = ()
    threads: int = 1
    batch: int = 8
    channels_last: bool = False
    onednn: bool = True
    device: str = "cpu"


def instructions(aten: str, onednn: str, mkl: str) -> tuple[tuple[str, str], ...]:
    """Environment that keeps torch and the libraries below it to an instruction set."""
    return (
        ("ATEN_CPU_CAPABILITY", aten),
        ("ONEDNN_MAX_CPU_ISA", onednn),
        ("MKL_CBWR", mkl),
    )


# MKL, which multiplies float64, heeds only COMPATIBLE (SSE2) on processors that are not Intel's.
AVX512 = instructions("avx512", "AVX512_CORE", "AVX512")
AVX2 = instructions("avx2", "AVX2", "AVX2")
SSE41 = instructions("default", "SSE41", "COMPATIBLE")

SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("native"),
        Setting("native-without-numba", (("TEC_ZARR_COMPILED", "0"),)),
        Setting("avx512", AVX512),
        Setting("avx512-batch1-threads2", AVX512, threads=2, batch=1),
        Setting("avx512-channels-last", AVX512, channels_last=True),
        Setting("avx512-without-onednn", AVX512, onednn=False),
        Setting("avx2", AVX2),
        Setting("avx2-batch1-threads2", AVX2, threads=2, batch=1),
        Setting("sse41-batch1", SSE41, batch=1),
        Setting("sse41-threads2-without-onednn", SSE41, threads=2, onednn=False),
        Setting("cuda", device="cuda"),
        Setting("cuda-batch1", device="cuda", batch=1),
    )
}


class Plain:
    """A guard without a band, which may add noise first."""

    def __init__(self, noise: float) -> None:
        self.noise, self.random = noise, np.random.default_rng(os.getpid())

    def __call__(self, values: Tensor) -> Tensor:
        import torch

        drawn = torch.from_numpy(self.random.normal(0, self.noise, tuple(values.shape)))
        return torch.floor(values + drawn.to(values.device) + 0.5).to(torch.int32)

    def finish(self) -> list[bytes]:
        """No overrides."""
        return []


class Logged:
    """A guard that keeps the values that it is asked about."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.calls: list[NDArray[np.float64]] = []

    def __call__(self, values: Tensor) -> Tensor:
        self.calls.append(values.flatten(1).cpu().numpy())
        return self.guard(values)

    def values(self, tiles: int) -> NDArray[np.float64]:
        """(tiles, n)."""
        return np.concatenate([np.zeros((tiles, 0)), *self.calls], 1)


class Written(NamedTuple):
    """What a setting made of a tile."""

    streams: tuple[bytes, ...]
    overrides: tuple[bytes, ...]
    bits: tuple[float, ...]
    """These, of each layer."""

    integers: NDArray[np.int32]

    side: bytes
    """What it stores beside."""


class Bench:
    """A variant of a model under one setting, in this process, and tiles to code."""

    def __init__(self, setting: Setting, folder: Path, variant: str, noise: float) -> None:
        import torch

        from tec_zarr.models import registry

        torch.set_num_threads(setting.threads)
        torch.backends.mkldnn.enabled = setting.onednn  # type: ignore[assignment]
        registry.forget()
        identity = (folder / "identity").read_text("utf-8")
        model: Any = registry.load(identity, torch.device(setting.device))
        weights = model.prior.parameters() if hasattr(model, "prior") else ()
        self.doubles = any(weight.dtype == torch.float64 for weight in weights)
        if variant == "float32" and self.doubles:
            model.prior.float()
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        self.model: Model = model.to(memory_format=layout)
        self.batch, self.variant = setting.batch, variant
        self.noise = noise if variant == "noise" else 0.0
        self.quality = len(model.qualities) - 1  # of FlexTEC all tokens, in all layers
        self.layers = range(len(model.layers(self.quality)))
        self.stored = np.load(folder / "tiles.npy", mmap_mode="r")

    def parts(self) -> list[slice]:
        """Tiles that go through the model together."""
        count = len(self.stored)
        return [slice(i, min(i + self.batch, count)) for i in range(0, count, self.batch)]

    def write(self) -> tuple[list[Written], NDArray[np.float64]]:
        """What all tiles become, and the parameters of the first ones."""
        tiles, logs = [], []
        for part in self.parts():
            count = part.stop - part.start
            encoders = [Encoder(self.model.tables, count) for _ in self.layers]
            guards = [
                Recorder(count) if self.variant == "guarded" else Plain(self.noise)
                for _ in self.layers
            ]
            logged = [Logged(guard) for guard in guards]
            coded = self._code(encoders, logged, self._analysed(part), [b""] * count)
            bits = zip(*(encoder.bits for encoder in encoders), strict=True)
            streams = zip(*(encoder.finish() for encoder in encoders), strict=True)
            overrides = zip(*(guard.finish() or [b""] * count for guard in guards), strict=True)
            sides = self.model.sides(coded)
            tiles += map(Written, streams, overrides, bits, integers_of(coded), sides)
            logs += list(values_of(logged, count)) if part.start < LOGGED else []
        return tiles, np.stack(logs)

    def read(self, tiles: list[Written], expected: NDArray[np.float64]) -> dict[str, float]:
        """Count what comes out wrong of what another setting wrote."""
        wrong, furthest = 0, 0.0
        for part in self.parts():
            found, values = self._read(tiles[part])
            for tile, own in zip(tiles[part], found, strict=True):
                wrong += tile.integers.size if own is None else int((tile.integers != own).sum())
            known = expected[part]
            if 0 < len(known) == len(values):
                furthest = max(furthest, float(np.abs(known - values).max(initial=0)))
        return {"wrong": wrong, "furthest": furthest}

    def _read(self, tiles: list[Written]) -> tuple[list[Any], NDArray[np.float64]]:
        """Integers of each tile, None where reading ends in an error, and parameters."""
        guards = [
            Replay([tile.overrides[k] for tile in tiles])
            if self.variant == "guarded"
            else Plain(self.noise)
            for k in self.layers
        ]
        logged = [Logged(guard) for guard in guards]
        decoders = [
            Decoder(self.model.tables, [tile.streams[k] for tile in tiles]) for k in self.layers
        ]
        try:
            coded = self._code(decoders, logged, None, [tile.side for tile in tiles])
            for decoder in decoders:
                decoder.finish()
        except FormatError:
            alone = [self._read([tile])[0][0] for tile in tiles] if len(tiles) > 1 else [None]
            return alone, np.zeros((0, 0))
        return integers_of(coded), values_of(logged, len(tiles))

    def _analysed(self, part: slice) -> Coded:
        units = Units.of(self.model, self.model.bands, 1, 0)
        values = self.stored[part].astype(np.float32)
        absent = np.zeros(values.shape[:3], np.bool_)
        frames = units.normalised(values, absent, [()] * len(values))
        return self.model.analyse(frames, self.quality)

    def _code(
        self,
        coders: Sequence[Coder],
        guards: Sequence[Guard],
        given: Coded | None,
        sides: Sequence[bytes],
    ) -> Coded:
        count = len(sides)
        height, width = (padded(side, self.model.stride) for side in self.stored.shape[3:])
        grid = self.model.grid(count, self.stored.shape[1], (height, width))
        grid = grid._replace(sides=tuple(sides))
        layers = stacked(self.model, coders, guards, count)
        return self.model.code(layers[0], given, grid, self.quality)


def values_of(logged: Sequence[Logged], tiles: int) -> NDArray[np.float64]:
    """(tiles, n): the parameters of all layers."""
    return np.concatenate([log.values(tiles) for log in logged], 1)


def integers_of(coded: Coded) -> list[NDArray[np.int32]]:
    """All symbols of each tile."""
    whole = [m.flatten(1).cpu().numpy() for m in coded.maps if not m.is_floating_point()]
    return list(np.concatenate(whole, 1))


def save(path: Path, tiles: list[Written], values: NDArray[np.float64]) -> None:
    """Keep what `Bench.write` returned."""
    path.write_bytes(pickle.dumps((list(map(tuple, tiles)), values)))


def load(path: Path) -> tuple[list[Written], NDArray[np.float64]]:
    """Invert `save`."""
    tiles, values = pickle.loads(path.read_bytes())
    return [Written(*tile) for tile in tiles], values


class Plan(NamedTuple):
    """Which settings do what."""

    writers: list[str]
    readers: list[str]
    controls: list[str]
    """Readers of the variants that must fail; the first writer writes those."""

    noise: float = 1e-6

    def variants(self, task: str, name: str) -> tuple[str, ...]:
        """Variants that a setting takes part in."""
        return (
            VARIANTS
            if name in (self.writers[:1] if task == "write" else self.controls)
            else VARIANTS[:1]
        )


def worker(name: str, task: str, folder: Path) -> None:
    """One setting writes its part, or reads what was written."""
    import torch

    plan = Plan(*json.loads((folder / "plan").read_text("utf-8")))
    for variant in plan.variants(task, name):
        bench = Bench(SETTINGS[name], folder, variant, plan.noise)
        if variant == "float32" and not bench.doubles:
            continue
        with torch.inference_mode():
            if task == "write":
                save(folder / f"{variant}.{name}.written", *bench.write())
                continue
            for path in sorted(folder.glob(f"{variant}.*.written")):
                counts = bench.read(*load(path))
                record = {"variant": variant, "writer": path.name.split(".")[1], "reader": name}
                with (folder / f"{name}.jsonl").open("a") as file:
                    file.write(json.dumps(record | counts) + "\n")


def run(name: str, task: str, folder: Path) -> None:
    """Run a worker in a process of its own."""
    environment = dict(SETTINGS[name].environment) | {"TEC_ZARR_MODELS": str(folder)}
    command = [sys.executable, __file__, "--worker", name, task, str(folder)]
    subprocess.run(command, env=os.environ | environment, check=True)


def tiles_of(
    frames: dict[str, list[NDArray[Any]]], side: int, most: int, dates: int = 1
) -> NDArray[np.uint16]:
    """(tiles, dates, band, side, side), row by row from the frames that are large enough.

    Frames of a source that follow each other are dates: of one place, or else not alike.
    """
    found = [
        np.stack([frame[:, y : y + side, x : x + side] for frame in own[at : at + dates]])
        for own in frames.values()
        for at in range(0, len(own) - dates + 1, dates)
        if len({frame.shape for frame in own[at : at + dates]}) == 1
        for y in range(0, own[at].shape[1] - side + 1, side)
        for x in range(0, own[at].shape[2] - side + 1, side)
    ]
    return np.stack(found[:most])


def measure(tiles: NDArray[np.uint16], model: Path, plan: Plan) -> list[Any]:
    """Let settings write and then read; returns a record for each pair and variant."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        artifact = artifacts.load(model)
        (folder / "identity").write_text(artifact.save(folder / f"model{SUFFIX}"), "utf-8")
        (folder / "plan").write_text(json.dumps(plan), "utf-8")
        np.save(folder / "tiles.npy", tiles)
        for task, names in (("write", plan.writers), ("read", plan.readers)):
            for name in names:
                run(name, task, folder)
        lines = [
            line
            for name in plan.readers
            for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()
        ]
        costs = {name: cost_of(folder / f"guarded.{name}.written") for name in plan.writers}
    return [json.loads(line) for line in lines] + [{"costs": costs}]


def cost_of(path: Path) -> dict[str, float]:
    """Bytes of streams and overrides, and streams over what the tables promise, the worst one."""
    tiles, _ = load(path)
    streams = [(s, bits) for t in tiles for s, bits in zip(t.streams, t.bits, strict=True)]
    excess = max(len(stream) - 1.005 * bits / 8 for stream, bits in streams)
    return {
        "streams": sum(len(stream) for stream, _ in streams),
        "overrides": sum(len(own) for t in tiles for own in t.overrides),
        "symbols": sum(t.integers.size for t in tiles),
        "excess": excess,
    }


def report(records: list[Any]) -> bool:
    """Print what was found; whether it is what it should be."""
    *pairs, last = records
    fine = True
    for variant in VARIANTS:
        own = [record for record in pairs if record["variant"] == variant]
        if not own:
            continue
        wrong = sum(record["wrong"] for record in own)
        failed = sum(record["wrong"] > 0 for record in own)
        print(f"{variant:8} {wrong:>12} wrong symbols, in {failed} of {len(own)} pairs of settings")
        fine &= (wrong == 0) == (variant == "guarded")
    furthest = max(record["furthest"] for record in pairs if record["variant"] == "guarded")
    part = furthest / BAND
    print(f"largest difference of a parameter: {furthest:.2e} steps, {part:.1e} of the guard band")
    for name, cost in last["costs"].items():
        share = cost["overrides"] / cost["streams"]
        print(
            f"{name}: {cost['symbols']} symbols in {cost['streams']} bytes; overrides "
            f"{cost['overrides']} bytes, {share:.5%}; over 1.005 times the estimate: "
            f"{cost['excess']:.1f} bytes in the worst stream"
        )
    return fine


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="artifact file")
    parser.add_argument("--tiles", type=int, default=200)
    parser.add_argument("--side", type=int, default=128, help="of a tile, in pixels")
    parser.add_argument("--dates", type=int, default=1, help="of a tile")
    parser.add_argument("--noise", type=float, default=1e-6, help="of the third variant, in steps")
    writers = ["native", "avx2", "sse41-batch1"]
    parser.add_argument("--writers", nargs="+", choices=SETTINGS, default=writers)
    parser.add_argument("--readers", nargs="+", choices=SETTINGS, help="default: all that run here")
    parser.add_argument("--data", type=Path, help=f"samples; default: {DATA_VARIABLE}")
    parser.add_argument("--out", type=Path, help="JSON of all records")
    return parser.parse_args()


def main() -> None:
    """Measure and print; the exit status is 1 if anything is not as it should be."""
    import torch

    options = arguments()
    # Torch does not look whether the processor has what the environment asks for.
    unable = [
        "cuda" if not torch.cuda.is_available() else "none",
        "avx512" if torch.backends.cpu.get_cpu_capability() != "AVX512" else "none",
    ]
    here = [name for name in SETTINGS if not name.startswith(tuple(unable))]
    frames = {
        f"{split} {source}": own
        for split in ("validation", "train")
        for source, own in load_frames(options.data, Wanted(split=split)).items()
    }
    tiles = tiles_of(frames, options.side, options.tiles, options.dates)
    writers = options.writers + [name for name in here if name == "cuda"]
    plan = Plan(writers, options.readers or here, writers, options.noise)
    print(f"{len(tiles)} tiles of {options.side} x {options.side}; {plan}")
    records = measure(tiles, options.model, plan)
    if options.out:
        options.out.write_text(json.dumps(records, indent=1), "utf-8")
    sys.exit(0 if report(records) else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main()
