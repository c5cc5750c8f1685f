"""CompressAI's C++ rANS on symbols from a file, for `entropy.py`; needs CompressAI, not tec_zarr.

Reads lines `encode` and `decode` and answers each with the seconds it took and the bytes. The
lists that CompressAI asks for are made beforehand, and are not counted.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType


def main() -> None:
    """Serve the file named by the argument."""
    ans = load_ans()
    strings, tables = load(sys.argv[1])
    coded: list[bytes] = []
    for line in sys.stdin:
        start = time.process_time()
        if line.strip() == "encode":
            coded = [ans.RansEncoder().encode_with_indexes(s, r, *tables) for s, r in strings]
            seconds = time.process_time() - start
        else:
            pairs = zip(coded, strings, strict=True)
            found = [ans.RansDecoder().decode_with_indexes(c, r, *tables) for c, (_, r) in pairs]
            seconds = time.process_time() - start
            if found != [symbols for symbols, _ in strings]:
                raise SystemExit("CompressAI does not decode what it encoded")
        print(seconds, sum(map(len, coded)), flush=True)


def load_ans() -> ModuleType:
    """`compressai.ans` without the package around it, which would import torch and much else."""
    package = importlib.util.find_spec("compressai")
    if package is None or package.origin is None:
        raise SystemExit(f"{sys.executable} has no CompressAI")
    path = next(Path(package.origin).parent.glob("ans.*"))
    spec = importlib.util.spec_from_file_location("compressai.ans", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no extension module of this Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(path: str) -> tuple[list[tuple[list[int], list[int]]], tuple[list[Any], ...]]:
    """(symbols, rows) of each string, and the tables: CDFs, their lengths, offsets."""
    with np.load(path) as data:
        ends = np.cumsum(data["counts"])[:-1]
        parts = zip(np.split(data["symbols"], ends), np.split(data["rows"], ends), strict=True)
        strings = [(symbols.tolist(), rows.tolist()) for symbols, rows in parts]
        lengths = (data["sizes"] + 1).tolist()
        cdfs = [row[:n].tolist() for row, n in zip(data["cdf"], lengths, strict=True)]
        return strings, (cdfs, lengths, data["offsets"].tolist())


if __name__ == "__main__":
    main()
