"""Speed of the entropy coder, beside CompressAI's C++ rANS if there is one.

    python benchmarks/entropy.py --compressai-python .venv-training/bin/python

CompressAI pins numpy<2, so it needs an environment of its own; `make test-training` leaves one. It
gets lists that are made beforehand, and only the symbols that need bits; the time of ours includes
finding those.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.entropy.tables import TOTAL, Tables, gaussian, laplacian

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int32]

PEER = Path(__file__).with_name("entropy_compressai.py")
REPETITIONS = 5
ROWS, CERTAIN = 64, 5
"""Of the case with tiles; like those of the bundled model."""


@dataclass(frozen=True)
class Case:
    """Symbols (tiles, n) to be coded in one call."""

    name: str
    tables: Tables
    symbols: Ints
    rows: Ints
    lanes: int | None = None

    @property
    def needed(self) -> NDArray[np.bool_]:
        """Which symbols need bits."""
        needed: NDArray[np.bool_] = (self.tables.sizes > 1)[self.rows]
        return needed


@dataclass
class Best:
    """The shortest times of one coder in one case."""

    encode: float = field(default=float("inf"))
    decode: float = field(default=float("inf"))
    size: int = 0


class Coder(Protocol):
    """Codes a case, by number; returns seconds and bytes."""

    def encode(self, case: int) -> tuple[float, int]: ...
    def decode(self, case: int) -> tuple[float, int]: ...


def gaussian_case(count: int = 1_000_000) -> Case:
    """A million symbols, each of one of 64 normal distributions."""
    random = np.random.default_rng(0)
    scales = np.geomspace(0.11, 256, 64)
    rows = random.integers(0, len(scales), (1, count), np.int32)
    symbols = np.rint(random.normal(0, scales[rows])).astype(np.int32)
    return Case(
        "a million, 64 Gaussians, 1024 lanes", gaussian(scales.tolist()), symbols, rows, 1024
    )


def tile_case(tiles: int = 16, channels: int = 172) -> Case:
    """Tiles as the bundled model codes them at 44 dB: of 700,000 symbols 200,000 need bits."""
    random = np.random.default_rng(1)
    scales = 2.0 ** (-5 + np.arange(ROWS) / 4)
    channel = 39 - 6.2 * np.log2(1 + np.arange(channels))
    coarse = random.normal(0, 4, (tiles, 1, 8, 8)).repeat(8, 2).repeat(8, 3)
    activity = coarse + random.normal(0, 2, (tiles, 1, 64, 64))
    rows = np.rint(channel[:, None, None] + activity).clip(0, ROWS - 1).astype(np.int32)
    symbols = np.rint(random.laplace(0, scales[rows])).astype(np.int32)
    tables = with_certain_rows(laplacian(scales[CERTAIN:].tolist()), CERTAIN)
    return Case("16 tiles", tables, symbols.reshape(tiles, -1), rows.reshape(tiles, -1))


def with_certain_rows(tables: Tables, number: int) -> Tables:
    """Put rows that hold nothing but 0 before the others."""
    cdf = np.full((number, tables.cdf.shape[1]), TOTAL, np.uint32)
    cdf[:, 0] = 0
    ones = np.ones(number, np.int32)
    return Tables(
        np.concatenate([cdf, tables.cdf]),
        np.concatenate([ones, tables.sizes]),
        np.concatenate([0 * ones, tables.offsets]),
    )


class Ours:
    """The coder of this package."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.streams: list[list[bytes]] = [[] for _ in cases]

    def encode(self, case: int) -> tuple[float, int]:
        given = self.cases[case]
        begin = time.perf_counter()
        encoder = Encoder(given.tables, len(given.rows), lanes=given.lanes)
        encoder(given.symbols, given.rows)
        self.streams[case] = encoder.finish()
        return time.perf_counter() - begin, sum(map(len, self.streams[case]))

    def decode(self, case: int) -> tuple[float, int]:
        given = self.cases[case]
        begin = time.perf_counter()
        decoder = Decoder(given.tables, self.streams[case])
        symbols = decoder(None, given.rows)
        decoder.finish()
        seconds = time.perf_counter() - begin
        if not np.array_equal(symbols[given.needed], given.symbols[given.needed]):
            raise RuntimeError("our decoder is wrong")
        return seconds, sum(map(len, self.streams[case]))


class Peer:
    """CompressAI, in a process of another Python that waits for commands."""

    def __init__(self, python: Path, cases: Sequence[Case], folder: Path) -> None:
        for number, case in enumerate(cases):
            save(case, folder / f"{number}.npz")
        command = [str(python), str(PEER), str(folder), str(len(cases))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def encode(self, case: int) -> tuple[float, int]:
        return self._ask(f"encode {case}")

    def decode(self, case: int) -> tuple[float, int]:
        return self._ask(f"decode {case}")

    def _ask(self, command: str) -> tuple[float, int]:
        print(command, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().split() if self.process.stdout else []
        if len(answer) != 2:
            raise RuntimeError("CompressAI's process failed; its message is above")
        return float(answer[0]), int(answer[1])


def save(case: Case, path: Path) -> None:
    """Write what the other process needs: symbols that need bits, tile after tile."""
    tables, needed = case.tables, case.needed
    np.savez(
        path,
        cdf=tables.cdf.astype(np.int32),
        sizes=tables.sizes + 1,
        offsets=tables.offsets,
        symbols=case.symbols[needed],
        rows=case.rows[needed],
        ends=np.cumsum(needed.sum(1)),
    )


def measured(coders: Sequence[Coder], case: int) -> list[Best]:
    """The best of some repetitions, the coders taking turns."""
    best = [Best() for _ in coders]
    for _ in range(REPETITIONS):
        for coder, result in zip(coders, best, strict=True):
            seconds, result.size = coder.encode(case)
            result.encode = min(result.encode, seconds)
            result.decode = min(result.decode, coder.decode(case)[0])
    return best


def report(case: Case, names: Sequence[str], results: Sequence[Best]) -> None:
    """Print the lines of a case."""
    count = int(case.needed.sum())
    print(f"\n{case.name}: {count:,} of {case.rows.size:,} symbols need bits")
    print(f"  {'':12}{'encode':>10}{'decode':>10}  Msym/s{'bytes':>12}")
    for name, best in zip(names, results, strict=True):
        speeds = "".join(f"{count / t / 1e6:10.1f}" for t in (best.encode, best.decode))
        print(f"  {name:12}{speeds}        {best.size:12,}")
    if len(results) == 2:
        ours, theirs = results
        print(
            f"  {'times':12}{theirs.encode / ours.encode:10.2f}{theirs.decode / ours.decode:10.2f}"
            f"        {ours.size / theirs.size:12.4f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--compressai-python", type=Path, help="a Python that has CompressAI")
    python: Path | None = parser.parse_args().compressai_python
    cases = [gaussian_case(), tile_case()]
    coders: dict[str, Coder] = {"tec_zarr": Ours(cases)}
    with tempfile.TemporaryDirectory() as folder:
        if python is None:
            print("CompressAI is left out; name a Python that has it with --compressai-python")
        else:
            coders["CompressAI"] = Peer(python, cases, Path(folder))
        print(f"numpy {np.__version__}, best of {REPETITIONS}")
        for number, case in enumerate(cases):
            report(case, list(coders), measured(list(coders.values()), number))


if __name__ == "__main__":
    main()
