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

Search = Callable[["NDArray[np.int64]", "NDArray[np.int64]"], "NDArray[np.int64]"]

LUT_ROWS = 512
"""Tables with more rows are searched instead of looked up: a lookup takes 128 KiB a row."""

MAX_SIZE = 1 << 15
"""Most entries of a row."""


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
    def starts(self) -> NDArray[np.int64]:
        """CDF of each entry, flat, the idle row included."""
        return np.append(self.cdf.astype(np.int64), np.zeros(self.width, np.int64))

    @cached_property
    def frequencies(self) -> NDArray[np.int64]:
        """Frequency of each entry, flat, the idle row included."""
        steps = np.diff(self.cdf.astype(np.int64), axis=1, append=TOTAL)
        return np.append(steps, [TOTAL, *[0] * (self.width - 1)])

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        """Bits of each entry, flat, without the value of an escape."""
        return PRECISION - np.log2(np.maximum(self.frequencies, 1))

    @cached_property
    def symbols(self) -> NDArray[np.int32]:
        """Symbol of each entry, flat."""
        entries = np.arange(self.width, dtype=np.int32)
        return np.add.outer(self.offsets, entries).astype(np.int32).ravel()

    @cached_property
    def certain(self) -> NDArray[np.bool_]:
        """(rows,): whether a row has a single symbol."""
        return self.sizes == 1

    @cached_property
    def escapes(self) -> NDArray[np.int64]:
        """(rows,): the place of each row's escape among the flat entries."""
        return np.arange(len(self.sizes)) * self.width + self.sizes - 1

    @cached_property
    def _lookup(self) -> NDArray[np.uint16]:
        """Entry of each slot of each row, flat, the idle row included."""
        entries = np.arange(self.width, dtype=np.uint16)
        frequencies = self.frequencies.reshape(-1, self.width)
        return np.concatenate([np.repeat(entries, row) for row in frequencies])

    def entries(self, symbols: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Flat places of symbols in rows that are not certain: an entry's or the escape's."""
        entry = symbols - self.offsets.astype(np.int64).take(rows)
        last = self.sizes.take(rows) - 1
        outside = (entry < 0) | (entry >= last)
        np.copyto(entry, last, where=outside)
        entry += rows * self.width
        return entry

    def search(self) -> Search:
        """Return (rows * 65536 + slots, rows * width) -> flat places, for the decoder's loop."""
        if len(self.sizes) <= LUT_ROWS:
            lookup = self._lookup
            return lambda slots, rows: rows + lookup.take(slots)
        firsts = np.arange(len(self.sizes) + 1, dtype=np.int64) << PRECISION
        keys = (self.starts.reshape(-1, self.width) + firsts[:, None]).ravel()
        keys[-self.width + 1 :] += TOTAL  # only the first entry of the idle row is to be found
        return lambda slots, _: np.searchsorted(keys, slots, side="right") - 1

    def checked_rows(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Rows as indices; TecError if there is no such row."""
        wide = np.asarray(rows, np.int64)
        if wide.size and (wide.min() < 0 or wide.max() >= len(self.sizes)):
            raise TecError(f"row {wide.min()} or {wide.max()} of {len(self.sizes)} rows")
        return wide


def _frequencies(pmf: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integer frequencies of a row's entries, the escape's last, summing to 65536."""
    if len(pmf) == 1 and pmf[0] > 0.5:
        return np.array([TOTAL])
    tail = max(0.0, 1.0 - float(pmf.sum()))
    mass = np.append(pmf, tail).clip(min=0)
    if len(mass) >= MAX_SIZE or not mass.sum() > 0:
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
