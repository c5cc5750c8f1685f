"""Integer CDF tables: how likely a row thinks each symbol is. Made once, shipped, never rebuilt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.entropy import escapes, loops
from tec_zarr.entropy.search import Bisection, Buckets, Lookup, Search
from tec_zarr.errors import TecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int32]
    Rows = NDArray[np.integer[Any]]
    Wide = NDArray[np.int64]
    Floats = NDArray[np.float64]

PRECISION = 16
TOTAL = 1 << PRECISION
"""The frequencies of a row sum to this."""

ESCAPED = -(1 << 31)
"""What `Tables.symbols` holds for an escape; so no entry may stand for it."""

MOST_LOOKUP = 1 << 25
"""Tables whose lookup would take more bytes (128 or 256 KiB a row) are bisected."""

FURTHEST = 1 << 14
"""Largest magnitude that the families of tables have an entry for."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Rows of integer CDFs. TecError if they are not valid: artifacts come from anywhere.

    Entry `e` of row `r` has frequency `cdf[r, e + 1] - cdf[r, e]` of 65536 and stands for symbol
    `offsets[r] + e`; the last entry is the escape, for all symbols without an entry. A row of one
    entry is *certain*: it has no escape, and its symbol costs nothing.

    What is derived from the three arrays is flat and has no padding: the entries of row 0, then
    those of row 1, and so on. Where an entry stands there is its *place*.
    """

    cdf: NDArray[np.uint32]
    """(rows, width): rises from 0 to 65536 at `sizes[r]`, and stays there."""

    sizes: Ints
    """(rows,): entries of each row."""

    offsets: Ints
    """(rows,): the symbol of each row's first entry."""

    def __post_init__(self) -> None:
        for fine, complaint in self._checks():
            if not fine:
                raise TecError(f"broken entropy tables: {complaint}")

    def _checks(self) -> Iterator[tuple[Any, str]]:
        cdf, sizes, offsets = self.cdf, self.sizes, self.offsets
        yield cdf.ndim == 2 and cdf.dtype == np.uint32, "cdf is not a matrix of uint32"
        yield sizes.dtype == offsets.dtype == np.int32, "sizes and offsets are not int32"
        yield sizes.shape == offsets.shape == cdf.shape[:1], "rows differ in number"
        yield len(sizes) > 0 and sizes.min() >= 1, "a row without entries"
        yield sizes.max() < cdf.shape[1], "a row longer than the matrix"
        inside = self._inside
        yield not cdf[:, 0].any(), "a row does not begin with 0"
        yield (cdf[~inside] == TOTAL).all(), "a row does not end with 65536"
        yield (cdf[:, 1:] > cdf[:, :-1])[inside[:, :-1]].all(), "an entry without probability"
        ends = offsets.astype(np.int64) + sizes
        yield offsets.min() > ESCAPED and ends.max() <= 1 << 31, "symbols beyond int32"

    @classmethod
    def from_pmf(cls, pmf: Sequence[Floats], offsets: Sequence[int]) -> Tables:
        """Tables of probability masses, one array a row; what they lack of 1 is the escape's.

        A single mass of 1 makes a certain row. Frequencies are at least 1 of 65536, and rounded by
        largest remainders: equal floats give equal tables on any machine. TecError if there are no
        rows, or masses that cannot be probabilities.
        """
        rows = [_frequencies(np.asarray(row, np.float64)) for row in pmf]
        shifts = [int(offset) for offset in offsets]
        if not rows or len(rows) != len(shifts) or max(map(abs, shifts)) >= 1 << 31:
            raise TecError(f"{len(rows)} rows and the offsets {shifts} do not make tables")
        cdf = np.full((len(rows), max(map(len, rows)) + 1), TOTAL, np.uint32)
        for target, row in zip(cdf, rows, strict=True):
            target[: len(row)] = np.cumsum(row) - row
        sizes = np.array([len(row) for row in rows], np.int32)
        return cls(cdf, sizes, np.array(shifts, np.int32))

    def bits(self, symbols: Ints, rows: Rows) -> float:
        """Bits that symbols cost in their rows, escaped values included; arrays of one shape."""
        uncertain = self.uncertain(rows)
        values = symbols[uncertain]
        places = np.empty(len(values), np.int64)
        cost = self.find(values, rows[uncertain], places)
        escaped = values[self.is_escape.take(places)]
        return cost + 8 * float(escapes.sizes(escaped).sum())

    def uncertain(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether symbols of these rows need bits."""
        if self._leading is None:
            return ~self.certain.take(rows)
        return rows >= self._leading

    def uncertain_places(self, rows: Ints) -> tuple[Wide, Wide]:
        """Where symbols of rows (tiles, n) need bits, in C order; how many up to each tile's end.

        The latter are (tiles,).
        """
        ends = np.zeros(len(rows), np.int64)
        if loops.choose:
            found = np.empty(rows.size, np.int64)
            loops.choose(rows, self.certain, found, ends)
            return found[: ends[-1] if len(ends) else 0], ends
        found = self.uncertain(rows.ravel()).nonzero()[0]
        ends[:] = found.searchsorted(rows.shape[1] * np.arange(1, len(rows) + 1))
        return found, ends

    def certain_symbols(self, rows: Rows) -> Ints:
        """Symbols of certain rows, and anything for the others."""
        if self.offsets[self.certain].any():
            return self.offsets.take(rows)
        return np.zeros(rows.shape, np.int32)

    def find(self, symbols: Ints, rows: Rows, places: Wide) -> float:
        """Set the places (n,) of symbols in rows that are not certain: an entry's, or the escape's.

        Returns what they cost, in bits, without the values of escaped symbols.
        """
        if loops.find:
            fields = self.offsets, self._last, self.firsts, self.costs
            return float(loops.find(symbols, rows, *fields, places))
        # Modulo 2**32, symbols below the first entry are far above the last one.
        entries = (symbols - self.offsets.take(rows)).view(np.uint32)
        places[:] = self.firsts.take(rows) + np.minimum(entries, self._last.take(rows))
        return float(self.costs.take(places).sum())

    @cached_property
    def certain(self) -> NDArray[np.bool_]:
        """(rows,): whether a row has a single symbol."""
        return self.sizes == 1

    @cached_property
    def firsts(self) -> Wide:
        """(rows,): place of each row's first entry."""
        return np.cumsum(self.sizes, dtype=np.int64) - self.sizes

    @cached_property
    def frequencies(self) -> Wide:
        """Frequency at each place."""
        return self.cdf[:, 1:][self._inside[:, :-1]] - self._borders

    @cached_property
    def shifts(self) -> Wide:
        """(rows,): CDF of the most frequent entry, the first one if there are more."""
        most = np.repeat(np.maximum.reduceat(self.frequencies, self.firsts), self.sizes)
        modes = (self.frequencies == most).nonzero()[0]
        return self._borders[modes[modes.searchsorted(self.firsts)]]

    @cached_property
    def starts(self) -> Wide:
        """First slot at each place: slots are dealt out from the most frequent entry on."""
        return (self._borders - np.repeat(self.shifts, self.sizes)) % TOTAL

    @cached_property
    def symbols(self) -> Ints:
        """Symbol at each place, ESCAPED for an escape."""
        distance = self.offsets - self.firsts
        symbols = np.arange(len(self.is_escape)) + np.repeat(distance, self.sizes)
        return np.where(self.is_escape, ESCAPED, symbols).astype(np.int32)

    @cached_property
    def is_escape(self) -> NDArray[np.bool_]:
        """Whether there is an escape at each place."""
        found = np.zeros(self.sizes.sum(), np.bool_)
        found[(self.firsts + self._last)[~self.certain]] = True
        return found

    @cached_property
    def costs(self) -> Floats:
        """Bits at each place, without the value of an escaped symbol."""
        return PRECISION - np.log2(self.frequencies)

    @cached_property
    def search(self) -> Search:
        """How to find the place of a slot."""
        entries = len(self.frequencies)
        if len(self.sizes) * TOTAL * (2 if entries <= TOTAL else 4) <= MOST_LOOKUP:
            return Lookup.of(self.frequencies, self.shifts)
        return Bisection(self.cdf, self.sizes, self.shifts)

    @cached_property
    def buckets(self) -> Buckets:
        """How loops find the place of a slot."""
        return Buckets.of(Bisection(self.cdf, self.sizes, self.shifts), self.firsts)

    @property
    def _borders(self) -> Wide:
        """CDF at each place."""
        return self.cdf[self._inside].astype(np.int64)

    @property
    def _inside(self) -> NDArray[np.bool_]:
        """(rows, width): whether there is an entry."""
        return np.arange(self.cdf.shape[1]) < self.sizes[:, None]

    @cached_property
    def _last(self) -> NDArray[np.uint32]:
        """(rows,): number of the last entry."""
        return (self.sizes - 1).astype(np.uint32)

    @cached_property
    def _leading(self) -> int | None:
        """How many rows lead that are certain, if no other row is: comparing is quicker."""
        number = int(self.certain.sum())
        return number if self.certain[:number].all() else None


def gaussian(scales: Sequence[float], tail: float = 2.0**-16) -> Tables:
    """Rounded normal distributions of mean 0, one a row; scales are standard deviations.

    Symbols that are together less likely than `tail` have no entry. For making artifacts only: the
    last bit of an error function may differ between machines.
    """
    return _symmetric(lambda x, scale: math.erfc(x / scale / math.sqrt(2)), scales, tail)


def laplacian(scales: Sequence[float], tail: float = 2.0**-16) -> Tables:
    """Rounded Laplace distributions of mean 0, one a row; scales are mean magnitudes.

    For `tail` see `gaussian`.
    """
    return _symmetric(lambda x, scale: math.exp(-x / scale), scales, tail)


def _symmetric(
    beyond: Callable[[float, float], float], scales: Sequence[float], tail: float
) -> Tables:
    """Rows of P(magnitude > x | scale), each cut where `tail` is left, but not before 1."""
    pmf = []
    for scale in scales:
        reach = next((k for k in range(1, FURTHEST) if beyond(k + 0.5, scale) <= tail), FURTHEST)
        borders = np.array([beyond(k + 0.5, scale) for k in range(reach + 1)])
        side = -np.diff(borders) / 2
        pmf.append(np.concatenate([side[::-1], [1 - borders[0]], side]))
    return Tables.from_pmf(pmf, [-(len(row) // 2) for row in pmf])


def _frequencies(pmf: Floats) -> Wide:
    """Integer frequencies of a row's entries, the escape's last, summing to 65536."""
    if not (pmf.ndim == 1 and 0 < len(pmf) < TOTAL and np.isfinite(pmf).all() and pmf.min() >= 0):
        raise TecError(f"these are not probabilities of 1 to {TOTAL - 1} symbols: {pmf}")
    if len(pmf) == 1 and pmf[0] >= 1:
        return np.array([TOTAL])
    mass = np.append(pmf, max(0.0, 1.0 - math.fsum(pmf)))
    ideal = _ideal(mass)
    whole = np.floor(ideal).astype(np.int64)
    missing = TOTAL - int(whole.sum())
    whole[np.argsort(whole - ideal, kind="stable")[:missing]] += 1
    return whole


def _ideal(mass: Floats) -> Floats:
    """Frequencies as floats: what is too rare gets 1, and the others share the rest."""
    rare = np.zeros(len(mass), np.bool_)
    while True:
        # Exact sums, because the order in which NumPy adds depends on the machine.
        ideal = mass / math.fsum(mass[~rare]) * (TOTAL - rare.sum())
        ideal[rare] = 1
        if ideal.min() >= 1:
            return ideal
        rare |= ideal < 1
