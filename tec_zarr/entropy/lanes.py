"""Lanes: many rANS coders side by side, those of all tiles of a batch in the same vectors.

What a lane is and how a stream holds it is told in `rans`. A lane's state stays below 2**48.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.entropy import loops
from tec_zarr.entropy.tables import PRECISION, TOTAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tec_zarr.entropy.tables import Tables

    Wide = NDArray[np.int64]

STATE_WORDS = 3
"""Words that a state fills at most."""

BLOCK = 1 << (18 if loops.read else 15)
"""About as many symbols are prepared at once; NumPy's passes over them should stay in a cache."""

NONE = np.zeros(0, np.int64)

# Arrays, because NumPy takes longer over Python's numbers; one symbol or word is 16 bits.
BITS = np.array(PRECISION)
MASK = np.array(TOTAL - 1)
LOW = np.array(1 << 32)
"""A lane whose state is below takes in a word."""
LOW_BITS = np.array(32)


class Block(NamedTuple):
    """Some steps of a call, in each of which the same lanes code a symbol each."""

    steps: int
    lanes: Wide
    """(m,): the lanes."""

    pieces: list[tuple[slice, slice]]
    """For each tile, which of the call's symbols it codes, and in which of these lanes."""

    def pick(self, values: NDArray[Any]) -> NDArray[Any]:
        """(steps, m): what belongs to the symbols here, of the values of the call's symbols."""
        grid = np.empty((self.steps, len(self.lanes)), values.dtype)
        for symbols, columns in self.pieces:
            grid[:, columns] = values[symbols].reshape(self.steps, -1)
        return grid

    def place(self, grid: NDArray[Any], values: NDArray[Any]) -> None:
        """Invert `pick`, in place."""
        for symbols, columns in self.pieces:
            values[symbols].reshape(self.steps, -1)[...] = grid[:, columns]


@dataclass(frozen=True)
class Lanes:
    """How many lanes each tile has; lanes are numbered through, tile by tile."""

    numbers: tuple[int, ...]

    @property
    def starts(self) -> list[int]:
        """The first lane of each tile, and that behind the last one."""
        return [0, *accumulate(self.numbers)]

    def lengths(self, counts: Sequence[int]) -> Wide:
        """(lanes,): symbols of each lane in a call with that many symbols of each tile."""
        pairs = zip(counts, self.numbers, strict=True)
        return np.concatenate([*((c + np.arange(n)[::-1]) // n for c, n in pairs if n), NONE])

    def of_call(self, counts: Sequence[int]) -> tuple[Wide, Wide]:
        """What loops want to know: `starts`, and how many symbols each tile has."""
        return np.array(self.starts), np.array(counts, np.int64)

    def blocks(self, counts: Sequence[int]) -> list[Block]:
        """Blocks of a call with that many symbols of each tile, in the order of reading."""
        pairs = zip(counts, self.numbers, strict=True)
        # Where lanes drop out: after its last full step a tile has less than a step.
        ends = {steps for c, n in pairs if c for steps in (c // n, -(-c // n))}
        blocks: list[Block] = []
        for start, end in pairwise(sorted({0} | ends)):
            blocks += self._run(counts, start, end)
        return blocks

    def _run(self, counts: Sequence[int], start: int, end: int) -> Iterator[Block]:
        """Blocks of the steps from `start` to `end`, in which no lane drops out."""
        left = [min(n, c - start * n) for c, n in zip(counts, self.numbers, strict=True)]
        tiles = [tile for tile, active in enumerate(left) if active > 0]
        starts, firsts = self.starts, [0, *accumulate(counts)]
        lanes = np.concatenate([np.arange(left[tile]) + starts[tile] for tile in tiles])
        size = max(1, BLOCK // len(lanes))
        columns = list(pairwise(accumulate((left[tile] for tile in tiles), initial=0)))
        for step in range(start, end, size):
            steps = min(size, end - step)
            pieces = []
            for tile, column in zip(tiles, columns, strict=True):
                first = firsts[tile] + step * self.numbers[tile]
                pieces.append((slice(first, first + steps * left[tile]), slice(*column)))
            yield Block(steps, lanes, pieces)


class Writer:
    """Codes from the last symbol to the first, as rANS must."""

    def __init__(self, lengths: Wide) -> None:
        """`lengths` (lanes,) are the symbols that each lane will be given."""
        ends = np.cumsum(lengths + STATE_WORDS)
        self._states = np.ones(len(lengths), np.int64)
        self._words = np.empty(ends[-1] if len(ends) else 0, np.uint16)
        self._ends, self._next = ends, ends.copy()

    def write(self, tables: Tables, lanes: Lanes, counts: Sequence[int], places: Wide) -> None:
        """Code the entries at `places` (n,) of a call with that many symbols of each tile."""
        if loops.write:
            entries = self._words, tables.frequencies, tables.starts
            loops.write(self._states, self._next, *entries, places, *lanes.of_call(counts))
            return
        for block in reversed(lanes.blocks(counts)):
            states, following = self._states[block.lanes], self._next[block.lanes]
            self._write(states, following, tables, block.pick(places))
            self._states[block.lanes], self._next[block.lanes] = states, following

    def _write(self, states: Wide, following: Wide, tables: Tables, places: Wide) -> None:
        """Code the entries at `places` (steps, m), last step first."""
        frequencies, starts = tables.frequencies.take(places), tables.starts.take(places)
        limits, gaps = frequencies << LOW_BITS, TOTAL - frequencies
        quotient, full = np.empty_like(states), np.empty(len(states), np.bool_)
        for step in range(len(places) - 1, -1, -1):
            np.greater_equal(states, limits[step], full)
            self._move_out(states, following, full.nonzero()[0])
            np.floor_divide(states, frequencies[step], quotient)
            np.multiply(quotient, gaps[step], quotient)
            np.add(states, quotient, states)
            np.add(states, starts[step], states)

    def _move_out(self, states: Wide, following: Wide, full: Wide) -> None:
        """Move the lowest word out of the states number `full`."""
        moved = states[full]
        at = following[full] - 1
        self._words[at] = moved  # drops all but 16 bits
        following[full] = at
        states[full] = moved >> BITS

    def finish(self) -> list[NDArray[np.uint16]]:
        """Return the words of each lane in the order of reading."""
        for _ in range(STATE_WORDS):
            self._move_out(self._states, self._next, self._states.nonzero()[0])
        spans = zip(self._next.tolist(), self._ends.tolist(), strict=True)
        return [self._words[start:end] for start, end in spans]


class Reader:
    """Codes from the first symbol to the last, taking words in."""

    def __init__(self, lengths: Wide, words: NDArray[np.uint16]) -> None:
        """`lengths` (lanes,) are the words of each lane, `words` those of all."""
        self._words = words.astype(np.int64)
        self._ends = np.cumsum(lengths)
        self._next = self._ends - lengths
        self._states = np.zeros(len(lengths), np.int64)
        for _ in range(STATE_WORDS):
            low = ((self._states < LOW) & (self._next < self._ends)).nonzero()[0]
            self._take_in(self._states, self._next, low)

    def read(self, tables: Tables, lanes: Lanes, counts: Sequence[int], rows: NDArray[Any]) -> Wide:
        """Return places of entries (n,), given their rows; `counts` are symbols of each tile."""
        found = np.empty(rows.shape, np.int64)
        if loops.read:
            state = self._states, self._next, self._ends, self._words
            entries = *tables.buckets, tables.frequencies, tables.starts
            loops.read(*state, *entries, rows, found, *lanes.of_call(counts))
            return found
        for block in lanes.blocks(counts):
            states, following = self._states[block.lanes], self._next[block.lanes]
            own = block.pick(rows)
            places = np.empty(own.shape, np.int64)
            self._read(states, following, self._ends[block.lanes], tables, own, places)
            self._states[block.lanes], self._next[block.lanes] = states, following
            block.place(places, found)
        return found

    def _read(
        self, states: Wide, following: Wide, ends: Wide,
        tables: Tables, rows: NDArray[Any], places: Wide,
    ) -> None:  # fmt: skip
        frequencies, starts = tables.frequencies, tables.starts
        find, bases = tables.search.finder(len(states)), tables.search.bases(rows)
        frequency, start, slot = np.empty((3, len(states)), np.int64)
        below = np.empty(len(states), np.bool_)
        may_end = (ends - following).min() < len(rows)
        for base, place in zip(bases, places, strict=True):
            np.bitwise_and(states, MASK, slot)
            np.copyto(place, find(slot, base))
            frequencies.take(place, None, frequency, "clip")
            starts.take(place, None, start, "clip")
            np.right_shift(states, BITS, states)
            np.multiply(states, frequency, states)
            np.subtract(slot, start, slot)
            np.add(states, slot, states)
            np.less(states, LOW, below)
            low = below.nonzero()[0]
            if may_end:
                low = low[following[low] < ends[low]]
            self._take_in(states, following, low)

    def _take_in(self, states: Wide, following: Wide, low: Wide) -> None:
        """Take a word into the states number `low`."""
        at = following[low]
        states[low] = states[low] << BITS | self._words[at]
        following[low] = at + 1

    def finished(self) -> bool:
        """Whether all lanes are where a writer begins."""
        return bool((self._states == 1).all() and (self._next == self._ends).all())
