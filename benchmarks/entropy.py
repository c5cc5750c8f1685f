"""Million symbols a second of the entropy coder, beside CompressAI's C++ rANS on the same symbols.

Seconds are those of the processor, of which both use one core; the best turn counts.

Gaussian: a million symbols in 64 tables, scales 0.11 to 256, 1,024 lanes. Tiles: 16 tiles in one
call, most of their symbols in certain rows, lanes as the encoder chooses them; CompressAI is spared
the certain symbols and gets one string a tile. Both columns count the symbols that need bits.
CompressAI pins an old NumPy, so it runs in a process of its own, by turns with ours:

    python3.11 -m venv ENV
    ENV/bin/pip install 'numpy<2' && ENV/bin/pip install --no-deps compressai
    python benchmarks/entropy.py --compressai-python ENV/bin/python
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.entropy.tables import TOTAL, Tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int32]

WORKER = Path(__file__).with_name("compressai_worker.py")
STEPS = ("encode", "decode")


@dataclass(frozen=True)
class Case:
    """Symbols and rows (tiles, n) to code in one call."""

    name: str
    tables: Tables
    symbols: Ints
    rows: Ints
    lanes: int | None

    @property
    def needed(self) -> NDArray[np.bool_]:
        """(tiles, n): which symbols are not certain."""
        return ~self.tables.certain[self.rows]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compressai-python", help="a Python that has CompressAI")
    parser.add_argument("--turns", type=int, default=5, help="the best of them is printed")
    options = parser.parse_args()
    if options.compressai_python is None:
        print("without CompressAI: name a Python that has it with --compressai-python")
    print(f"{'Msym/s':10}{'':8}{'tec_zarr':>10}{'CompressAI':>12}{'ratio':>8}   bytes")
    for case in (gaussian(), tiles()):
        compare(case, options.compressai_python, options.turns)


def compare(case: Case, python: str | None, turns: int) -> None:
    """Take turns with CompressAI and print the best of each."""
    ours, theirs = Ours(case), None
    with tempfile.TemporaryDirectory() as folder:
        if python is not None:
            theirs = Theirs(case, python, Path(folder) / "case.npz")
        coders: dict[str, Ours | Theirs] = {"ours": ours} | ({"theirs": theirs} if theirs else {})
        best = {(coder, step): np.inf for coder in coders for step in STEPS}
        for _ in range(turns):
            for step in STEPS:
                for name, coder in coders.items():
                    best[name, step] = min(best[name, step], coder.seconds(step))
        if theirs:
            theirs.close()
    millions = case.needed.sum() / 1e6
    for step in STEPS:
        line = f"{case.name:10}{step:8}{millions / best['ours', step]:10.1f}"
        sizes = f"{ours.size}"
        if theirs:
            ratio = best["theirs", step] / best["ours", step]
            line += f"{millions / best['theirs', step]:12.1f}{ratio:8.2f}"
            sizes += f" and {theirs.size}"
        print(f"{line:48}   {sizes}")


class Ours:
    """The coder of this package, in this process."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.streams: list[bytes] = []

    @property
    def size(self) -> int:
        """Bytes of all streams."""
        return sum(map(len, self.streams))

    def seconds(self, step: str) -> float:
        """Time of one step."""
        case = self.case
        start = time.process_time()
        if step == "encode":
            encoder = Encoder(case.tables, len(case.rows), case.lanes)
            encoder(case.symbols, case.rows)
            self.streams = encoder.finish()
            return time.process_time() - start
        decoder = Decoder(case.tables, self.streams)
        found = decoder(None, case.rows)
        decoder.finish()
        passed = time.process_time() - start
        if not np.array_equal(found, case.symbols):
            raise SystemExit("what was decoded is not what was encoded")
        return passed


class Theirs:
    """CompressAI, in a process of its own."""

    def __init__(self, case: Case, python: str, path: Path) -> None:
        tables, needed = case.tables, case.needed
        np.savez(
            path,
            symbols=case.symbols[needed],
            rows=case.rows[needed],
            counts=needed.sum(1),
            cdf=tables.cdf,
            sizes=tables.sizes,
            offsets=tables.offsets,
        )
        self.size = 0
        command = [python, str(WORKER), str(path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self, step: str) -> float:
        """Time of one step."""
        asked, answers = pipes(self.process)
        asked.write(f"{step}\n")
        asked.flush()
        answer = answers.readline().split()
        if len(answer) != 2:
            raise SystemExit("CompressAI's process has ended early")
        self.size = int(answer[1])
        return float(answer[0])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    """What a process reads and what it writes."""
    if process.stdin is None or process.stdout is None:
        raise SystemExit("a process without pipes")
    return process.stdin, process.stdout


def gaussian() -> Case:
    """A million symbols, all rows equally often."""
    scales = np.geomspace(0.11, 256, 64)
    tables = family([np.exp(-0.5 * (around(6.2 * s) / s) ** 2) for s in scales], 1e-9)
    rows = random().integers(0, 64, (1, 1_000_000), np.int32)
    return Case("gaussian", tables, drawn(tables, rows), rows, 1024)


def tiles() -> Case:
    """684 channels of 32 x 32 a tile: ever weaker, stronger in some places than in others."""
    scales = 2.0 ** (np.arange(40) / 4 - 2)
    masses = [np.ones(1)] * 8 + [np.exp(-np.abs(around(12 * s)) / s) for s in scales]
    tables = family(masses, 2.0**-14)
    channels = 32 - 34 * (np.arange(684) / 684) ** 0.25
    y, x = np.mgrid[:32, :32] / 32 * np.pi
    phases = random().uniform(0, 2 * np.pi, (4, 16, 1, 1))
    places = np.sin(2 * y + phases[0]) * np.sin(3 * x + phases[1])
    places = places + np.sin(5 * y + phases[2]) * np.sin(4 * x + phases[3])
    wanted = channels[:, None, None] + 4 * places[:, None]
    rows = np.round(wanted).clip(0, len(masses) - 1).astype(np.int32).reshape(16, -1)
    return Case("16 tiles", tables, drawn(tables, rows), rows, None)


def around(reach: float) -> NDArray[np.float64]:
    """Whole numbers up to `reach`, either side of 0."""
    most = int(np.ceil(reach))
    return np.arange(-most, most + 1.0)


def family(masses: list[NDArray[np.float64]], tail: float) -> Tables:
    """Symmetric tables; the tail is the escape's."""
    whole = [m / m.sum() * (1 - tail * (len(m) > 1)) for m in masses]
    return Tables.from_pmf(whole, [-(len(m) // 2) for m in masses])


def drawn(tables: Tables, rows: Ints) -> Ints:
    """Symbols as likely as the tables say; escapes stand for what is just beyond a table."""
    symbols = np.empty(rows.shape, np.int32)
    slots = random().integers(0, TOTAL, rows.shape)
    for row, size in enumerate(tables.sizes):
        here = rows == row
        found = np.searchsorted(tables.cdf[row, : size + 1], slots[here], side="right") - 1
        symbols[here] = found + tables.offsets[row]
    return symbols


def random() -> np.random.Generator:
    """The same numbers in each run."""
    return np.random.default_rng(0)


if __name__ == "__main__":
    main()
