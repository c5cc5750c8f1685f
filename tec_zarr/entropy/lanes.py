"""How symbols are dealt out to lanes: symbol i of a tile and call goes to lane i % lanes.

The lanes of all tiles stand side by side, those of tile 0 first, and code together: a step is one
symbol of each lane. No symbol is coded here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tec_zarr.entropy.tables import Tables

    Ints = NDArray[np.int32]
    Wide = NDArray[np.int64]

CELLS = 3 << 14
"""Symbols of a block: enough to amortise what a block costs, few enough for a processor's cache."""


@dataclass(frozen=True, eq=False)
class Call:
    """Which symbols (tiles, n) of one call need bits; the others are certain."""

    needed: list[NDArray[np.bool_]]
    """(n,) of each tile."""

    rows: list[Ints]
    """Table rows of the symbols that need bits, of each tile."""

    @classmethod
    def of(cls, tables: Tables, rows: NDArray[np.int32]) -> Call:
        """TecError if there is no such row."""
        checked = [tables.checked_rows(tile) for tile in rows]
        needed = [tables.uncertain(tile) for tile in checked]
        return cls(needed, [tile[need] for tile, need in zip(checked, needed, strict=True)])

    @property
    def counts(self) -> list[int]:
        """Symbols of each tile that need bits."""
        return [len(tile) for tile in self.rows]

    def placed(self, known: Ints, parts: Sequence[Ints]) -> Ints:
        """Put the symbols that need bits among those that are certain, in place."""
        for tile, need, part in zip(known, self.needed, parts, strict=True):
            tile[need] = part
        return known


@dataclass(frozen=True, eq=False)
class Block:
    """Some steps of a call, in the lanes of the tiles that have symbols there."""

    first: int
    steps: int
    tiles: list[tuple[int, int]]
    """Number of a tile, and of its lanes."""

    lanes: Wide
    """Which of all lanes these are."""

    def arranged(self, parts: Sequence[Ints], filling: int) -> Ints:
        """Values of each tile's symbols as (step, lane); `filling` where a lane has no more."""
        grid = np.full((self.steps, len(self.lanes)), filling, np.int32)
        for part, place in self._pieces(parts, grid):
            place[...] = part
        return grid

    def restore(self, parts: Sequence[Ints], grid: NDArray[np.int64]) -> None:
        """Invert `arranged`."""
        for part, place in self._pieces(parts, grid):
            part[...] = place

    def _pieces(
        self, parts: Sequence[Ints], grid: NDArray[np.signedinteger]
    ) -> Iterator[tuple[Ints, NDArray[np.signedinteger]]]:
        """Views of the same values in the parts and in the grid."""
        start = 0
        for tile, lanes in self.tiles:
            piece = parts[tile][self.first * lanes : (self.first + self.steps) * lanes]
            whole, rest = divmod(len(piece), lanes)
            yield piece[: whole * lanes].reshape(whole, lanes), grid[:whole, start : start + lanes]
            if rest:
                yield piece[whole * lanes :], grid[whole, start : start + rest]
            start += lanes


def steps_of(count: int, lanes: int) -> int:
    """Symbols of the longest of some lanes."""
    return -(-count // lanes) if count else 0


def blocks_of(counts: Sequence[int], lanes: Sequence[int]) -> list[Block]:
    """Blocks of a call, given each tile's symbols and lanes.

    Lanes of tiles that have no more symbols are left out, so that the work grows with the symbols.
    """
    steps = [steps_of(count, number) for count, number in zip(counts, lanes, strict=True)]
    starts = np.cumsum([0, *lanes]).tolist()
    found: list[Block] = []
    first = 0
    while first < max(steps, default=0):
        tiles = [(tile, lanes[tile]) for tile, number in enumerate(steps) if number > first]
        columns = np.concatenate([np.arange(starts[t], starts[t + 1]) for t, _ in tiles])
        length = min(max(1, CELLS // len(columns)), max(steps) - first)
        found.append(Block(first, length, tiles, columns))
        first += length
    return found
