"""Runs of zeros: how symbols whose rows make them nearly certain are coded in few steps.

At 44 dB nine of ten symbols are zero with a probability above 0.9. Coded one by one they cost few
bits but most of the time. Here the symbols of a call that share such a *rare* row form a list; what
is coded is how many of them are not zero, the runs of zeros before each of these, and their values.
For independent symbols this costs the same bits. Rows are integers already, so nothing here depends
on a machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.entropy import loops
from tec_zarr.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tec_zarr.models.coding import Coder, Ints

    Wide = NDArray[np.int64]

CHANCE_BITS = 24
"""Chances are in units of 2**-CHANCE_BITS."""


@dataclass(frozen=True, eq=False)
class Sparse:
    """Which rows are rare, and the rows that code their lists. All are integers of an artifact."""

    first: int
    """Rows before it are certain: the first rare row. Row 0 is certain."""

    chances: Wide
    """(rare rows,): chance of a symbol not to be zero."""

    shifts: Wide
    """(rare rows,): bits of a run that are coded apart."""

    runs: int
    """The row of the first rare row's runs, those of the others follow."""

    rests: int
    """The row of one bit of a run that is coded apart, those of more bits follow."""

    values: int
    """The row of the first rare row's values, those of the others follow."""

    counts: Wide
    """The row of a number of symbols, by the bits of the number that is expected."""

    def __call__(self, coder: Coder, symbols: Ints | None, rows: Ints) -> Ints:
        """Code symbols (tiles, n) with their rows, as a `Coder` does."""
        lists = _Lists(rows, self.first, len(self.chances))
        known = np.zeros(rows.shape, np.int32)
        lists.code_common(coder, symbols, rows, known)
        if len(self.chances):
            found = None if symbols is None else lists.nonzero(symbols)
            numbers = self._numbers(coder, lists, None if found is None else found.numbers)
            lists.restore(known, self._places(coder, numbers, found))
        return known

    def _numbers(self, coder: Coder, lists: _Lists, given: Wide | None) -> Wide:
        """(tiles, rare rows): how many symbols of each list are not zero."""
        expected = lists.sizes * self.chances >> CHANCE_BITS
        bits = np.frexp(expected.astype(np.float64))[1]
        rows = self.counts[np.minimum(bits, len(self.counts) - 1)].astype(np.int32)
        rows[lists.sizes == 0] = 0
        surplus = None if given is None else (given - expected).astype(np.int32)
        numbers: Wide = coder(surplus, rows) + expected
        if (numbers < 0).any() or (numbers > lists.sizes).any():
            raise FormatError("a list of symbols has more of them than there are")
        return numbers

    def _places(self, coder: Coder, numbers: Wide, given: _Found | None) -> _Found:
        """Runs and values of the symbols that are not zero."""
        real = _filled(numbers)
        which = np.zeros(real.shape, np.int64)
        which[real] = _owners(numbers) % numbers.shape[1]
        shifts = np.where(real, self.shifts[which], 0)
        rows = np.concatenate(
            [
                np.where(real, self.runs + which, 0),
                np.where(shifts > 0, self.rests - 1 + shifts, 0),
                np.where(real, self.values + which, 0),
            ],
            1,
        )
        parts = None if given is None else np.concatenate(given.parts(real, shifts), 1)
        known = coder(None if parts is None else parts.astype(np.int32), rows.astype(np.int32))
        high, low, shown = np.split(known.astype(np.int64), 3, 1)
        values = shown + (shown >= 0)
        return _Found(numbers, ((high << shifts) + low)[real], values[real])


@dataclass(frozen=True, eq=False)
class _Found:
    """The symbols of lists that are not zero, list after list."""

    numbers: Wide
    """(tiles, rare rows)."""

    runs: Wide
    """(sum of numbers,): zeros before each."""

    values: NDArray[np.integer[Any]]
    """(sum of numbers,)."""

    def parts(self, real: NDArray[np.bool_], shifts: Wide) -> list[Wide]:
        """High and low bits of the runs, and values, each (tiles, most of a tile)."""
        runs, values = np.zeros((2, *real.shape), np.int64)
        runs[real] = self.runs
        values[real] = self.values - (self.values > 0)  # zero is no value: those above move down
        return [runs >> shifts, runs & ((1 << shifts) - 1), values]


class _Lists:
    """Where the symbols of each rare row are, in a call with rows (tiles, n)."""

    def __init__(self, rows: Ints, first: int, count: int) -> None:
        sizes, places = _sorted(rows, first, count + 1)
        self.sizes: Wide = sizes[:, :-1]
        """(tiles, rare rows): symbols of each list."""
        self._places, self._common_places = np.split(places, [self.sizes.sum()])
        self._numbers: Wide = np.ascontiguousarray(sizes[:, -1])

    def code_common(self, coder: Coder, symbols: Ints | None, rows: Ints, known: Ints) -> None:
        """Code the symbols in rows that are not rare, one by one."""
        most = int(self._numbers.max(initial=0))
        chosen, given = np.zeros((2, len(rows), most), np.int32)
        self._take(rows, chosen)
        if symbols is not None:
            self._take(symbols, given)
        seen = coder(None if symbols is None else given, chosen)
        if loops.unpad:
            loops.unpad(seen, self._common_places, self._numbers, known.ravel())
        else:
            known.ravel()[self._common_places] = seen[_filled(self._numbers[:, None])]

    def _take(self, values: Ints, lines: Ints) -> None:
        """Set lines (tiles, n) to each tile's values in rows that are not rare."""
        if loops.pad:
            loops.pad(values.ravel(), self._common_places, self._numbers, lines)
        else:
            lines[_filled(self._numbers[:, None])] = values.ravel().take(self._common_places)

    def nonzero(self, symbols: Ints) -> _Found:
        """What is not zero."""
        listed = symbols.ravel().take(self._places)
        found = listed.nonzero()[0]
        ends = np.cumsum(self.sizes)
        owners = ends.searchsorted(found, "right")
        numbers = np.bincount(owners, minlength=ends.size)
        firsts = ends - self.sizes.ravel()
        before = np.maximum(np.append(-1, found[:-1]), firsts[owners] - 1)
        return _Found(numbers.reshape(self.sizes.shape), found - before - 1, listed[found])

    def restore(self, known: Ints, found: _Found) -> None:
        """Put rare symbols that are not zero among the known ones."""
        owners = _owners(found.numbers)
        longest = self.sizes.ravel()[owners]
        steps = np.clip(found.runs, -1, longest) + 1
        ends = np.cumsum(steps)
        firsts = np.cumsum(found.numbers) - found.numbers.ravel()
        ordinals = ends - (ends - steps)[firsts[owners]] - 1
        if (steps <= 0).any() or (ordinals >= longest).any():
            raise FormatError("a run of zeros is longer than its list")
        starts = np.cumsum(self.sizes) - self.sizes.ravel()
        known.ravel()[self._places[starts[owners] + ordinals]] = found.values


def _sorted(rows: Ints, first: int, lists: int) -> tuple[Wide, Wide]:
    """How many symbols of each tile are in each list, (tiles, lists), and their places in `rows`.

    The list of a symbol is its row - `first`; rows above belong to the last list, those below to
    none. Places come tile by tile, list by list, and rise within a list; those of the last list of
    all tiles come behind the others.
    """
    tiles = len(rows)
    if loops.sort:
        sizes, places = np.zeros((tiles, lists), np.int64), np.empty(rows.size, np.int64)
        loops.sort(rows, first, sizes, places)
        return sizes, places[: sizes.sum()]
    kinds = np.minimum(rows, first + lists - 1) - first
    keys = kinds + lists * np.arange(tiles, dtype=np.int32)[:, None]
    chosen = (kinds.ravel() >= 0).nonzero()[0]
    listed = keys.ravel()[chosen].astype(np.min_scalar_type(tiles * lists))
    sizes = np.bincount(listed, minlength=tiles * lists).reshape(tiles, lists)
    order = listed.argsort(kind="stable")
    is_last = listed[order] % lists == lists - 1
    return sizes, np.concatenate([chosen[order[~is_last]], chosen[order[is_last]]])


def _owners(numbers: Wide) -> Wide:
    """(sum of numbers,): to which list each symbol belongs, lists of all tiles numbered through."""
    return np.repeat(np.arange(numbers.size), numbers.ravel())


def _filled(numbers: Wide) -> NDArray[np.bool_]:
    """(tiles, most of a tile): where a tile has a symbol."""
    counts = numbers.sum(1)
    return np.arange(counts.max(initial=0)) < counts[:, None]
