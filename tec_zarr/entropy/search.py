"""From a slot of a table row, 0 to 65535, to the place of its entry; many rows at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Ints = NDArray[np.int32]
    Wide = NDArray[np.int64]
    Find = Callable[[Wide, Wide], NDArray[Any]]

BUCKET_BITS = 7
"""5 to 8 take the same time."""


class Search(Protocol):
    """A way to find entries. Threads may share it, but not what `finder` returns."""

    def bases(self, rows: NDArray[Any]) -> Wide:
        """Return what `find` wants to know of rows, of any shape."""

    def finder(self, count: int) -> Find:
        """Return find(slots, bases) -> places, each (count,); they last until the next call."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """One look into a table that holds every slot of every row."""

    table: NDArray[np.unsignedinteger[Any]]
    """Places, row by row."""

    @classmethod
    def of(cls, frequencies: Wide, shifts: Wide) -> Lookup:
        """Build the table; `frequencies` of all entries, `shifts` (rows,) the CDF at slot 0."""
        places = np.arange(len(frequencies), dtype=np.min_scalar_type(len(frequencies) - 1))
        table = np.repeat(places, frequencies).reshape(len(shifts), -1)
        for row, shift in zip(table, shifts.tolist(), strict=True):
            row[:] = np.roll(row, -shift)
        return cls(table.ravel())

    def bases(self, rows: NDArray[Any]) -> Wide:
        return rows.astype(np.int64) << 16

    def finder(self, count: int) -> Find:
        index, places = np.empty(count, np.int64), np.empty(count, self.table.dtype)

        def find(slots: Wide, bases: Wide) -> NDArray[Any]:
            np.add(slots, bases, index)
            return self.table.take(index, None, places, "clip")

        return find


@dataclass(frozen=True, eq=False)
class Bisection:
    """Several times slower, but it needs nothing beside the CDF."""

    cdf: NDArray[np.uint32]
    """(rows, width)."""

    sizes: Ints
    """(rows,): entries of each row."""

    shifts: Wide
    """(rows,): CDF at slot 0."""

    def bases(self, rows: NDArray[Any]) -> Wide:
        return rows.astype(np.int64)

    def finder(self, count: int) -> Find:
        cdf, width = self.cdf.ravel(), self.cdf.shape[1]
        # From a place in the matrix with its padding to one without.
        padding = np.arange(len(self.sizes)) * width - (np.cumsum(self.sizes) - self.sizes)
        halves = _halves(int(self.sizes.max()))
        place, probe, level = np.empty((3, count), np.int64)
        start, below = np.empty(count, np.uint32), np.empty(count, np.bool_)

        def find(slots: Wide, bases: Wide) -> NDArray[Any]:
            self.shifts.take(bases, None, level, "clip")
            np.add(slots, level, level)
            np.bitwise_and(level, 0xFFFF, level)
            np.multiply(bases, width, place)
            for half in halves:
                np.add(place, half, probe)
                cdf.take(probe, None, start, "clip")
                np.less_equal(start, level, below)
                np.multiply(below, half, probe)
                np.add(place, probe, place)
            padding.take(bases, None, probe, "clip")
            return np.subtract(place, probe, place)

        return find


class Buckets(NamedTuple):
    """A small table that stays in a cache, and a few steps from there: for loops, not for NumPy."""

    holders: NDArray[np.unsignedinteger[Any]]
    """Place of the entry that holds the first slot of each bucket, row by row."""

    bits: int
    """A bucket has 2**bits slots."""

    nexts: NDArray[np.unsignedinteger[Any]]
    """The place behind each, in the order of slots: behind a row's last entry comes its first."""

    @classmethod
    def of(cls, search: Bisection, firsts: Wide) -> Buckets:
        """Of rows whose first entries are at the places `firsts` (rows,)."""
        sizes, rows = search.sizes.astype(np.int64), np.arange(len(firsts))
        own, places = np.repeat(rows, sizes), np.arange(sizes.sum())
        kind, nexts = np.min_scalar_type(len(places)), places + 1
        nexts[firsts + sizes - 1] = firsts
        # In the order of slots an entry holds all buckets from its own first slot on, up to those
        # of the entries behind it; `begins` are the entries that hold slot 0.
        begins = search.finder(len(rows))(np.zeros_like(rows), rows) - firsts
        starts = search.cdf[own, places - firsts[own]].astype(np.int64)
        slots = (starts - search.shifts[own]) & 0xFFFF
        order = (places - firsts[own] - begins[own]) % sizes[own]
        held = np.zeros((len(rows), (1 << 16 - BUCKET_BITS) + 1), np.int32)
        np.maximum.at(held, (own, -(-slots >> BUCKET_BITS)), order)
        held = np.maximum.accumulate(held[:, :-1], 1)
        held += begins.astype(np.int32)[:, None]
        held -= np.where(held < search.sizes[:, None], 0, search.sizes[:, None])
        held += firsts.astype(np.int32)[:, None]
        return cls(held.ravel().astype(kind), BUCKET_BITS, nexts.astype(kind))


def _halves(size: int) -> list[int]:
    """Steps of a search among `size` entries that never looks beyond the last one."""
    steps = []
    while size > 1:
        steps.append(size // 2)
        size -= size // 2
    return steps
