"""Integer CDF tables: how likely a row thinks each symbol is. Made once, shipped, never rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.errors import TecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

PRECISION = 16
TOTAL = 1 << PRECISION
"""The frequencies of a row sum to this."""

Search = Callable[["NDArray[np.int64]", "NDArray[np.int64]"], None]

LUT_ROWS = 512
"""Tables with more rows are searched instead of looked up: a lookup takes 128 KiB a row."""

MAX_SIZE = 1 << 15
"""Most entries of a row."""

ESCAPE = -(1 << 31)
"""What stands for the symbol of an escape; no entry has it."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Rows of integer CDFs. TecError if they are not valid: artifacts come from anywhere.

    Entry `e` of row `r` has frequency `cdf[r, e + 1] - cdf[r, e]` of 65536 and stands for symbol
    `offsets[r] + e`; the last entry is the escape, for all symbols without an entry. A row of one
    entry is *certain*: it has no escape, and its symbol needs no bits.
    """

    cdf: NDArray[np.uint32]
    """(rows, width): rises from 0 to 65536 at `sizes[r]`, and stays there."""

    sizes: NDArray[np.int32]
    """(rows,): entries of each row."""

    offsets: NDArray[np.int32]
    """(rows,): the symbol of each row's first entry."""

    def __post_init__(self) -> None:
        for fine, complaint in self._checks():
            if not fine:
                raise TecError(f"broken entropy tables: {complaint}")

    def _checks(self) -> Iterator[tuple[bool, str]]:
        cdf, sizes = self.cdf, self.sizes
        yield cdf.ndim == 2 and cdf.dtype == np.uint32, "cdf is not a matrix of uint32"
        yield cdf.size < 1 << 30, "more entries than places can count"
        yield sizes.dtype == self.offsets.dtype == np.int32, "sizes and offsets are not int32"
        yield sizes.shape == self.offsets.shape == cdf.shape[:1], "rows differ in number"
        yield len(sizes) > 0 and sizes.min() >= 1, "a row without entries"
        yield sizes.max() < min(cdf.shape[1], MAX_SIZE), "a row with too many entries"
        yield bool((cdf[:, 0] == 0).all()), "a row does not begin with 0"
        past = np.arange(cdf.shape[1]) >= sizes[:, None]
        yield bool((cdf[past] == TOTAL).all()), "a row does not end with 65536"
        steps = np.diff(cdf.astype(np.int64), axis=1)
        yield bool((steps[~past[:, :-1]] > 0).all()), "an entry without probability"
        reach = np.abs(self.offsets.astype(np.int64)).max() + MAX_SIZE
        yield bool(reach < 1 << 31), "symbols beyond int32"

    @classmethod
    def from_pmf(cls, pmf: Sequence[NDArray[np.float64]], offsets: Sequence[int]) -> Tables:
        """Tables of probability masses, one array a row; what they lack of 1 is the escape's.

        A mass of one entry makes a certain row. Frequencies are rounded by largest remainders, each
        at least 1, so that equal floats give equal tables.
        """
        rows = [_frequencies(np.asarray(row, np.float64)) for row in pmf]
        width = max(len(row) for row in rows) + 1
        cdf = np.full((len(rows), width), TOTAL, np.uint32)
        for target, row in zip(cdf, rows, strict=True):
            target[: len(row)] = np.cumsum(row) - row
        sizes = np.array([len(row) for row in rows], np.int32)
        return cls(cdf, sizes, np.array(offsets, np.int32))

    @property
    def width(self) -> int:
        """Distance of two rows in the flat tables: entry `e` of row `r` is at `r * width + e`."""
        return self.cdf.shape[1]

    @property
    def idle(self) -> int:
        """A row behind the last one whose single entry leaves a coder's state as it is."""
        return len(self.sizes)

    @cached_property
    def packed(self) -> NDArray[np.uint32]:
        """(65536 - frequency) * 65536 + CDF of each entry, flat, the idle row included.

        In one array because a lane then waits for memory once a step.
        """
        steps = np.diff(self.cdf.astype(np.int64), axis=1, append=TOTAL)
        packed = (TOTAL - steps.clip(min=1)) << PRECISION | self.cdf & (TOTAL - 1)
        return np.append(packed, np.zeros(self.width)).astype(np.uint32)

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        """Bits of each entry, flat, without the value of an escape."""
        return PRECISION - np.log2(TOTAL - (self.packed >> PRECISION).astype(np.float64))

    @cached_property
    def symbols(self) -> NDArray[np.int32]:
        """Symbol of each entry, flat; ESCAPE where it has none."""
        entries = np.arange(self.width)
        symbols = np.add.outer(self.offsets.astype(np.int64), entries)
        symbols[(entries == self.sizes[:, None] - 1) & ~self.certain[:, None]] = ESCAPE
        return symbols.astype(np.int32).ravel()

    @cached_property
    def certain(self) -> NDArray[np.bool_]:
        """(rows,): whether a row has a single symbol."""
        return self.sizes == 1

    @cached_property
    def _firsts(self) -> NDArray[np.int32]:
        """(rows,): the place of each row's first entry."""
        return np.arange(len(self.sizes), dtype=np.int32) * np.int32(self.width)

    @cached_property
    def _lookup(self) -> NDArray[np.uint16]:
        """Entry of each slot of each row, flat, the idle row included."""
        entries = np.arange(self.width, dtype=np.uint16)
        steps = np.diff(self.cdf.astype(np.int64), axis=1, append=TOTAL)
        rows = [np.repeat(entries, row) for row in steps]
        return np.concatenate([*rows, np.zeros(TOTAL, np.uint16)])

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        """Row * 65536 + CDF of each entry, flat, the idle row included; never falls."""
        firsts = np.arange(self.idle, dtype=np.int64) << PRECISION
        idle = np.full(self.width, (self.idle + 1) << PRECISION)
        idle[0] = self.idle << PRECISION
        return np.append(self.cdf + firsts[:, None], idle)

    def places(
        self, symbols: NDArray[np.int32], rows: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Flat places of symbols in rows that are not certain, and which symbols are escaped."""
        # Modulo 2**32, a symbol before the first entry is beyond the last one.
        entries = symbols.view(np.uint32) - self.offsets.view(np.uint32).take(rows)
        last = (self.sizes - 1).astype(np.uint32).take(rows)
        np.minimum(entries, last, out=entries)
        escaped = np.flatnonzero(entries == last)
        found = entries.view(np.int32)
        found += self._firsts.take(rows)
        return found, escaped

    def search(self, size: int) -> Search:
        """A function for the decoder's loop, for `size` slots at a time.

        Given row * 65536 + slot and row * width, it replaces the latter by flat places.
        """
        if len(self.sizes) > LUT_ROWS:
            keys = self._keys

            def search(slots: NDArray[np.int64], places: NDArray[np.int64]) -> None:
                np.subtract(np.searchsorted(keys, slots, side="right"), 1, out=places)

            return search

        lookup, entries = self._lookup, np.empty(size, np.uint16)

        def look_up(slots: NDArray[np.int64], places: NDArray[np.int64]) -> None:
            # "clip" only because NumPy copies `out` otherwise: no slot is out of bounds.
            lookup.take(slots, out=entries, mode="clip")
            np.add(places, entries, out=places)

        return look_up

    def checked_rows(self, rows: NDArray[Any]) -> NDArray[np.int32]:
        """Rows as indices; TecError if there is no such row."""
        if rows.size and (rows.min() < 0 or rows.max() >= len(self.sizes)):
            raise TecError(f"row {rows.min()} or {rows.max()} of {len(self.sizes)} rows")
        return rows.astype(np.int32, copy=False)

    def uncertain(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which rows have more than one symbol."""
        first = int(self.certain.sum())
        if self.certain[:first].all():  # the usual case: a comparison is faster than a gather
            return rows >= first
        return ~self.certain[rows]

    def certain_symbols(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Symbols of those rows that are certain; anything for the others."""
        symbols = self.offsets[self.certain]
        if symbols.any():
            return self.offsets[rows]
        return np.zeros(rows.shape, np.int32)  # the usual case: it takes no time


def _frequencies(pmf: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integer frequencies of a row's entries, the escape's last, summing to 65536."""
    if len(pmf) == 1 and pmf[0] > 0.5:
        return np.array([TOTAL])
    tail = max(0.0, 1.0 - float(pmf.sum()))
    mass = np.append(pmf, tail).clip(min=0)
    if not 1 < len(mass) < MAX_SIZE or not 0 < mass.sum() < np.inf:
        raise TecError(f"a row of {len(pmf)} symbols cannot be a table")
    ideal = mass / mass.sum() * TOTAL
    whole = np.maximum(np.floor(ideal), 1).astype(np.int64)
    return _balanced(whole, ideal)


def _balanced(whole: NDArray[np.int64], ideal: NDArray[np.float64]) -> NDArray[np.int64]:
    """Move single counts, where it changes least, until the sum is 65536."""
    missing = TOTAL - int(whole.sum())
    if missing > 0:
        order = np.argsort(whole - ideal, kind="stable")
        whole[np.resize(order, missing)] += 1
    while missing < 0:
        spare = np.flatnonzero(whole > 1)
        order = spare[np.argsort((ideal - whole)[spare], kind="stable")][:-missing]
        whole[order] -= 1
        missing += len(order)
    return whole
