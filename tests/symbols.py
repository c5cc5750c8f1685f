"""Entropy tables and symbols to test with, drawn by seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.entropy.tables import Tables
from tec_zarr.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int32]

INT32 = np.iinfo(np.int32)
SKEWED = Tables.from_pmf([np.array([0.9, 0.05, 0.04]), np.array([0.3, 0.3, 0.3])], [-1, 0])

seeds = st.integers(0, 2**32 - 1)


class Case(NamedTuple):
    """What goes into an encoder: symbols and rows (tiles, n) of each call."""

    tables: Tables
    calls: list[tuple[Ints, Ints]]

    @property
    def tiles(self) -> int:
        return len(self.calls[0][0])

    def encoded(self, lanes: int | None = None) -> tuple[list[bytes], list[Ints]]:
        """Streams, and what the encoder says that readers will see."""
        encoder = Encoder(self.tables, self.tiles, lanes)
        seen = [encoder(symbols, rows) for symbols, rows in self.calls]
        return encoder.finish(), seen

    def decoded(self, streams: list[bytes]) -> list[Ints]:
        decoder = Decoder(self.tables, streams)
        found = [decoder(None, rows) for _, rows in self.calls]
        decoder.finish()
        return found


def draw_tables(random: np.random.Generator, rows: int, widest: int = 40) -> Tables:
    """Rows of all shapes, some certain."""
    pmf, offsets = [], []
    for _ in range(rows):
        size = int(random.integers(1, widest + 1))
        mass = random.gamma(random.choice([0.05, 1.0]), size=size) + 1e-12
        pmf.append(mass / mass.sum() * random.choice([1.0, 0.999, 0.7]) if size > 1 else np.ones(1))
        offsets.append(int(random.choice([-(size // 2), 0, 1_000_000, -2_000_000_000])))
    return Tables.from_pmf(pmf, offsets)


def draw_symbols(random: np.random.Generator, tables: Tables, rows: Ints, wild: float = 0) -> Ints:
    """Symbols as likely as the tables say, but for a share of `wild` ones."""
    slots = random.integers(0, 1 << 16, rows.shape)
    symbols = np.empty(rows.shape, np.int32)
    for row, (offset, size) in enumerate(zip(tables.offsets, tables.sizes, strict=True)):
        here = rows == row
        symbols[here] = offset + np.searchsorted(tables.cdf[row, 1:size], slots[here], "right")
    extremes = random.choice(
        [INT32.min, INT32.min + 1, -1, 0, 1, INT32.max - 1, INT32.max], rows.shape
    )
    return np.where(random.random(rows.shape) < wild, extremes, symbols).astype(np.int32)


def draw_case(
    seed: int, tiles: int = 3, lengths: tuple[int, ...] = (300,), wild: float = 0.0
) -> Case:
    """One call of each length; tiles differ in how many of their rows are certain."""
    random = np.random.default_rng(seed)
    tables = draw_tables(random, int(random.integers(1, 12)))
    calls = []
    for n in lengths:
        rows = random.integers(0, len(tables.sizes), (tiles, n)).astype(np.int32)
        for tile in rows:
            tile[random.random(n) < random.choice([0, 0.9, 1])] = rows[0, 0] if n else 0
        calls.append((draw_symbols(random, tables, rows, wild), rows))
    return Case(tables, calls)


def outcome(case: Case, streams: list[bytes]) -> list[Ints] | None:
    """What a decoder makes of streams that may be broken, None for a FormatError."""
    try:
        return case.decoded(streams)
    except FormatError:
        return None


def same(found: list[Ints] | None, seen: list[Ints]) -> bool:
    return found is not None and all(map(np.array_equal, found, seen))
