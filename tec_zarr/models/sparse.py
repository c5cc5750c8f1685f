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
from tec_zarr.errors import FormatError, ModelMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from tec_zarr.models.coding import Coder, Ints

    Wide = NDArray[np.int64]
    Loop = Callable[..., int]

TOO_LONG = "a run of zeros is longer than its list"

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
        lists = _Lists(rows, symbols, self.first, len(self.chances))
        known = np.zeros(rows.shape, np.int32)
        lists.code_common(coder, symbols, rows, known)
        if len(self.chances):
            found = lists.found
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

    places: Wide | None = None
    """(sum of numbers,): in the call, where symbols are given."""

    def parts(self, real: NDArray[np.bool_], shifts: Wide) -> list[Wide]:
        """High and low bits of the runs, and values, each (tiles, most of a tile)."""
        runs, values = np.zeros((2, *real.shape), np.int64)
        runs[real] = self.runs
        values[real] = self.values - (self.values > 0)  # zero is no value: those above move down
        return [runs >> shifts, runs & ((1 << shifts) - 1), values]


class _Lists:
    """Where the symbols of each rare row are, in a call with rows (tiles, n)."""

    def __init__(self, rows: Ints, symbols: Ints | None, first: int, count: int) -> None:
        self._rows, self._first = rows, first
        self.found: _Found | None = None
        """The given symbols that are not zero."""
        self._places: Wide | None = None
        """Of all symbols in rare rows, list after list; None: a loop finds those that matter."""
        if loops.part and loops.place:
            sizes, self._common_places = self._part(loops.part, symbols, count)
        else:
            sizes, places = _sorted(rows, first, count + 1)
            self._places, self._common_places = np.split(places, [sizes[:, :-1].sum()])
        self.sizes: Wide = sizes[:, :-1]
        """(tiles, rare rows): symbols of each list."""
        self._numbers: Wide = np.ascontiguousarray(sizes[:, -1])
        if self._places is not None and symbols is not None:
            self.found = self._nonzero(symbols, self._places)

    def _part(self, part: Loop, symbols: Ints | None, count: int) -> tuple[Wide, Wide]:
        """Sizes (tiles, lists) of all lists, and places of common symbols, by a compiled loop."""
        rows = self._rows
        sizes = np.zeros((len(rows), count + 1), np.int64)
        common, found = np.empty(rows.size, np.int64), np.empty((3, rows.size), np.int64)
        given = np.zeros((len(rows), 0), np.int32) if symbols is None else symbols
        hits = part(rows, given, self._first, sizes, common, found)
        if symbols is not None:
            lists, runs, places = found[:, :hits]
            order = lists.astype(np.min_scalar_type(sizes.size)).argsort(kind="stable")
            numbers = np.bincount(lists, minlength=len(rows) * count).reshape(len(rows), count)
            places = places[order]
            self.found = _Found(numbers, runs[order], symbols.ravel()[places], places)
        return sizes, common[: sizes[:, -1].sum()]

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

    def _nonzero(self, symbols: Ints, places: Wide) -> _Found:
        """What is not zero of the symbols at these places, list after list."""
        listed = symbols.ravel().take(places)
        found = listed.nonzero()[0]
        ends = np.cumsum(self.sizes)
        owners = ends.searchsorted(found, "right")
        numbers = np.bincount(owners, minlength=ends.size)
        firsts = ends - self.sizes.ravel()
        before = np.maximum(np.append(-1, found[:-1]), firsts[owners] - 1)
        numbers = numbers.reshape(self.sizes.shape)
        return _Found(numbers, found - before - 1, listed[found], places[found])

    def restore(self, known: Ints, found: _Found) -> None:
        """Put rare symbols that are not zero among the known ones."""
        if self.found is not None and self.found.places is not None:
            known.ravel()[self.found.places] = found.values
        elif self._places is not None:
            known.ravel()[self._places[self._ordinals(found)]] = found.values
        elif loops.place:
            parts = found.numbers, found.runs, found.values
            if not loops.place(self._rows, self._first, *parts, known):
                raise FormatError(TOO_LONG)

    def _ordinals(self, found: _Found) -> Wide:
        """Which of all symbols in rare rows, list after list, are not zero."""
        owners = _owners(found.numbers)
        longest = self.sizes.ravel()[owners]
        steps = np.clip(found.runs, -1, longest) + 1
        ends = np.cumsum(steps)
        firsts = np.cumsum(found.numbers) - found.numbers.ravel()
        ordinals = ends - (ends - steps)[firsts[owners]] - 1
        if (steps <= 0).any() or (ordinals >= longest).any():
            raise FormatError(TOO_LONG)
        starts = np.cumsum(self.sizes) - self.sizes.ravel()
        return starts[owners] + ordinals


def _sorted(rows: Ints, first: int, lists: int) -> tuple[Wide, Wide]:
    """How many symbols of each tile are in each list, (tiles, lists), and their places in `rows`.

    The list of a symbol is its row - `first`; rows above belong to the last list, those below to
    none. Places come tile by tile, list by list, and rise within a list; those of the last list of
    all tiles come behind the others.
    """
    tiles = len(rows)
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


def sparse_of(first: int, integers: Mapping[str, NDArray[Any]]) -> Sparse:
    """What the integers of an artifact say; ModelMismatchError if they do not fit."""
    try:
        chances, shifts, counts = (
            integers[name].astype(np.int64) for name in ("chances", "shifts", "counts")
        )
        runs, rests, values = integers["sparse"].tolist()
    except KeyError as err:
        raise ModelMismatchError(f"the artifact lacks the integers {err}") from err
    if len(shifts) != len(chances) or not (
        0 <= shifts.min(initial=0) <= shifts.max(initial=0) <= 16
    ):
        raise ModelMismatchError("the artifact's rows for runs of zeros do not fit")
    return Sparse(first, chances, shifts, runs, rests, values, counts)
