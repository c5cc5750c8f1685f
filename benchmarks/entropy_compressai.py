"""CompressAI's side of `entropy.py`: runs in another environment, told what to do line by line."""

from __future__ import annotations

import importlib.util
import sys
import time
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType


def load_ans() -> ModuleType:
    """CompressAI's coder alone: importing all of the package would need torch."""
    package = importlib.util.find_spec("compressai")
    folders = package.submodule_search_locations if package else None
    spec = PathFinder.find_spec("ans", folders) if folders else None
    if spec is None or spec.loader is None:
        raise SystemExit("this Python has no compressai.ans")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Case:
    """Symbols as lists, a stream for each tile."""

    def __init__(self, ans: ModuleType, path: Path) -> None:
        self.encoder, self.decoder = ans.RansEncoder(), ans.RansDecoder()
        arrays = np.load(path)
        sizes = arrays["sizes"].tolist()
        rows = [row[:size].tolist() for row, size in zip(arrays["cdf"], sizes)]  # noqa: B905
        self.tables = (rows, sizes, arrays["offsets"].tolist())
        spans = [slice(*span) for span in pairwise([0, *arrays["ends"].tolist()])]
        self.symbols = [arrays["symbols"][span].tolist() for span in spans]
        self.rows = [arrays["rows"][span].tolist() for span in spans]
        self.streams: list[bytes] = []

    def encode(self) -> float:
        begin = time.perf_counter()
        encode = self.encoder.encode_with_indexes
        pairs = zip(self.symbols, self.rows)  # noqa: B905
        self.streams = [encode(symbols, rows, *self.tables) for symbols, rows in pairs]
        return time.perf_counter() - begin

    def decode(self) -> float:
        begin = time.perf_counter()
        decode = self.decoder.decode_with_indexes
        pairs = zip(self.streams, self.rows)  # noqa: B905
        symbols = [decode(stream, rows, *self.tables) for stream, rows in pairs]
        seconds = time.perf_counter() - begin
        if symbols != self.symbols:
            raise SystemExit("CompressAI's decoder is wrong")
        return seconds


def main() -> None:
    """Answer each command with seconds and bytes."""
    ans, folder = load_ans(), Path(sys.argv[1])
    cases = [Case(ans, folder / f"{number}.npz") for number in range(int(sys.argv[2]))]
    for line in sys.stdin:
        action, number = line.split()
        case = cases[int(number)]
        seconds = getattr(case, action)()
        print(seconds, sum(map(len, case.streams)), flush=True)


if __name__ == "__main__":
    main()
