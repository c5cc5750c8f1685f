"""Interleaved range asymmetric numeral systems (rANS; Duda 2013, Giesen 2014) over integer tables.

A lane is a rANS coder of its own: state x, 16-bit words, 16-bit probabilities. A symbol with
cumulative frequency c and frequency f takes x to (x // f) * 65536 + x % f + c, after a word was
moved out if x >= f * 65536. Lanes begin at state 65536 and never fall below it, hence a reader
takes a word in whenever x < 65536, and must end at state 65536 with no words left. No symbol leaves
a lane as it was, so that a reader of too many or too few ends elsewhere. Symbols come in calls;
`lanes` says which lane codes which symbol, and `stream` how lanes become bytes.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.entropy.lanes import Block, Call, blocks_of, steps_of
from tec_zarr.entropy.stream import Stream, varint_sizes, zigzag
from tec_zarr.entropy.tables import ESCAPE, PRECISION, TOTAL, Tables
from tec_zarr.errors import FormatError, TecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int32]
    Wide = NDArray[np.int64]

LANE_BYTES = 480
"""Bytes of a stream for each lane; a lane costs four to five bytes, so one percent."""

SPARE_LANES = 6
"""Lanes that a stream may have beyond that: short streams need them most for speed."""

MOST_STEPS = 1 << 15
"""Most symbols of a lane, over all calls; bounds the time that few bytes can take."""

SHIFT, MASK, LEAST = (np.array(n, np.uint32) for n in (PRECISION, TOTAL - 1, TOTAL))
"""As arrays, because NumPy takes longer for numbers."""


class Encoder:
    """Writes the symbols of some tiles; the streams are made by `finish`."""

    def __init__(self, tables: Tables, tiles: int, lanes: int | None = None) -> None:
        """`lanes` overrides the number of lanes of each tile."""
        self._tables, self._tiles, self._lanes = tables, tiles, lanes
        self._calls: list[list[Ints]] = []
        self._escaped: list[list[Ints]] = [[] for _ in range(tiles)]
        self._bits = np.zeros(tiles)

    def __call__(self, symbols: Ints | None, rows: NDArray[np.int32]) -> Ints:
        """Take symbols (tiles, n) and their rows; returns what a decoder will return."""
        if symbols is None or symbols.shape != rows.shape or len(rows) != self._tiles:
            raise TecError("an encoder needs symbols and rows of shape (tiles, n)")
        call = Call.of(self._tables, rows)
        pairs = zip(symbols, call.needed, strict=True)
        parts = [tile[need].astype(np.int32, copy=False) for tile, need in pairs]
        self._calls.append([self._noted(tile, part, call) for tile, part in enumerate(parts)])
        return call.placed(self._tables.certain_symbols(rows), parts)

    def _noted(self, tile: int, symbols: Ints, call: Call) -> Ints:
        """Places of a tile's symbols; keeps those that are escaped, and counts bits."""
        places, at = self._tables.places(symbols, call.rows[tile])
        escaped = symbols[at]
        self._escaped[tile].append(escaped)
        self._bits[tile] += self._tables.costs.take(places).sum()
        self._bits[tile] += 8 * varint_sizes(zigzag(escaped)).sum()
        return places

    def finish(self) -> list[bytes]:
        """Return the stream of each tile; one of certain symbols alone is empty."""
        counts = [[len(call[tile]) for call in self._calls] for tile in range(self._tiles)]
        lanes = [self._lanes_of(tile, own) for tile, own in enumerate(counts)]
        steps = [sum(map(steps_of, own, repeat(n))) for own, n in zip(counts, lanes, strict=True)]
        if max(steps, default=0) > MOST_STEPS:
            raise TecError(
                f"symbols in {len(self._calls)} calls are more than a decoder would take"
            )
        writer = _Writer(lanes, steps)
        for call in reversed(self._calls):
            for block in reversed(blocks_of([len(part) for part in call], lanes)):
                grid = block.arranged(call, self._tables.idle * self._tables.width)
                writer.write(self._tables, block, grid)
        nothing = np.zeros(0, np.int32)
        escaped = [np.concatenate([nothing, *parts]) for parts in self._escaped]
        return [writer.stream(tile, values).pack() for tile, values in enumerate(escaped)]

    def _lanes_of(self, tile: int, counts: list[int]) -> int:
        if not any(counts):
            return 0
        wanted = self._lanes or int(self._bits[tile] / 8 / LANE_BYTES) + SPARE_LANES
        return max(min(wanted, max(counts)), 1 + sum(counts) // (MOST_STEPS // 2))


class Counter:
    """Counts the bits of symbols as an encoder would write them, but for the lanes' own bytes."""

    def __init__(self, tables: Tables, tiles: int) -> None:
        self._encoder = Encoder(tables, tiles)

    def __call__(self, symbols: Ints | None, rows: NDArray[np.int32]) -> Ints:
        """Count symbols (tiles, n) and return them as a decoder will."""
        known = self._encoder(symbols, rows)
        self._encoder._calls.clear()
        return known

    @property
    def bits(self) -> NDArray[np.float64]:
        """(tiles,): bits so far."""
        return self._encoder._bits


class Decoder:
    """Reads what an `Encoder` with the same tables, rows and calls wrote."""

    def __init__(self, tables: Tables, streams: Sequence[bytes]) -> None:
        """Raises FormatError for streams that contradict themselves."""
        self._tables = tables
        parsed = [Stream.parse(stream) for stream in streams]
        self._lanes = [len(part.states) for part in parsed]
        self._reader = _Reader(parsed)
        self._escaped = [part.escaped for part in parsed]
        self._steps = [0] * len(streams)

    def __call__(self, symbols: Ints | None, rows: NDArray[np.int32]) -> Ints:
        """Return symbols (tiles, n), given their rows; `symbols` is not looked at."""
        del symbols
        if len(rows) != len(self._lanes):
            raise TecError(f"a decoder of {len(self._lanes)} tiles needs rows of shape (tiles, n)")
        call = Call.of(self._tables, rows)
        self._check(call.counts)
        places = [np.empty_like(part) for part in call.rows]
        for block in blocks_of(call.counts, self._lanes):
            grid = block.arranged(call.rows, self._tables.idle)
            block.restore(places, self._reader.read(self._tables, block, grid))
        parts = [self._unescaped(tile, part) for tile, part in enumerate(places)]
        return call.placed(self._tables.certain_symbols(rows), parts)

    def _check(self, counts: list[int]) -> None:
        for tile, (count, lanes) in enumerate(zip(counts, self._lanes, strict=True)):
            if count and not lanes:
                raise FormatError("a symbol stream is empty, but there are symbols to read")
            self._steps[tile] += steps_of(count, lanes)
            if self._steps[tile] > MOST_STEPS:
                raise FormatError("a symbol stream has too few lanes for its symbols")

    def _unescaped(self, tile: int, places: Ints) -> Ints:
        """Symbols of a tile's places."""
        symbols = self._tables.symbols.take(places)
        at = np.flatnonzero(symbols == ESCAPE)
        escaped = self._escaped[tile]
        if len(at) > len(escaped):
            raise FormatError("a symbol stream has too few escaped symbols")
        symbols[at], self._escaped[tile] = escaped[: len(at)], escaped[len(at) :]
        return symbols

    def finish(self) -> None:
        """Raise FormatError unless the streams held just the symbols that were read."""
        if any(len(part) for part in self._escaped) or not self._reader.finished():
            raise FormatError("a symbol stream does not end where its symbols do")


class _Writer:
    """All lanes, coding from the last symbol to the first."""

    def __init__(self, lanes: list[int], steps: list[int]) -> None:
        """`steps` is the most symbols of a lane of each tile."""
        room = np.repeat(steps, lanes)
        self._lanes = np.cumsum([0, *lanes])
        self._states = np.full(len(room), TOTAL, np.uint32)
        self._firsts = np.cumsum(room) - room
        self._ends = self._firsts.copy()
        self._words = np.empty(int(room.sum()), np.uint16)

    def write(self, tables: Tables, block: Block, grid: Ints) -> None:
        """Code entries (step, lane), the last step first."""
        words, states, ends = self._words, self._states[block.lanes], self._ends[block.lanes]
        packed = tables.packed.take(grid)
        starts, gains = packed & MASK, packed >> SHIFT
        frequencies = TOTAL - gains
        # x // f * 65536 + x % f is x + x // f * (65536 - f): no remainder to compute.
        quotients, full = np.empty_like(states), np.empty(len(states), np.bool_)
        for step in range(block.steps - 1, -1, -1):
            frequency = frequencies[step]
            np.right_shift(states, SHIFT, out=quotients)
            at = np.greater_equal(quotients, frequency, out=full).nonzero()[0]
            end = ends[at]
            words[end] = states[at]
            ends[at] = end + 1
            states[at] = quotients[at]
            np.floor_divide(states, frequency, out=quotients)
            np.multiply(quotients, gains[step], out=quotients)
            np.add(states, quotients, out=states)
            np.add(states, starts[step], out=states)
        self._states[block.lanes], self._ends[block.lanes] = states, ends

    def stream(self, tile: int, escaped: Ints) -> Stream:
        """Return the finished stream of a tile."""
        part = slice(*self._lanes[tile : tile + 2])
        firsts, ends = self._firsts[part], self._ends[part]
        pairs = zip(firsts.tolist(), ends.tolist(), strict=True)
        words = [self._words[first:end][::-1] for first, end in pairs]
        joined = np.concatenate([*words, np.zeros(0, np.uint16)])
        return Stream(self._states[part], ends - firsts, joined, escaped)


class _Reader:
    """All lanes, decoding from the first symbol to the last."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        lengths = np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in streams)])
        self._states = np.concatenate([np.zeros(0, np.uint32), *(part.states for part in streams)])
        # The last word is no lane's: what a damaged stream runs into.
        self._words = np.concatenate([*(part.words for part in streams), np.zeros(1, np.uint32)])
        self._ends = np.cumsum(lengths)
        self._next = self._ends - lengths

    def read(self, tables: Tables, block: Block, rows: Ints) -> Wide:
        """Flat places (step, lane), given rows."""
        lanes, words = block.lanes, self._words
        states, ahead = self._states[lanes], self._next[lanes]
        search, packed = tables.search(len(states)), tables.packed
        bases = np.left_shift(rows, PRECISION, dtype=np.int64)
        places = np.multiply(rows, tables.width, dtype=np.int64)
        found, spread = np.empty_like(states), np.empty_like(states)
        low = np.empty(len(states), np.bool_)
        # (x >> 16) * f + slot is x - (x >> 16) * (65536 - f), as in the writer.
        for base, place in zip(bases, places, strict=True):
            np.bitwise_and(states, MASK, out=spread)
            np.add(base, spread, out=base)
            search(base, place)
            packed.take(place, out=found, mode="clip")
            np.right_shift(states, SHIFT, out=spread)
            np.multiply(spread, found >> SHIFT, out=spread)
            np.bitwise_and(found, MASK, out=found)
            np.subtract(states, spread, out=states)
            np.subtract(states, found, out=states)
            at = np.less(states, LEAST, out=low).nonzero()[0]
            word = ahead[at]
            states[at] = (states[at] << SHIFT) | words.take(word, mode="clip")
            ahead[at] = word + 1
        self._states[lanes], self._next[lanes] = states, ahead
        return places

    def finished(self) -> bool:
        """Whether all lanes are where encoders begin."""
        return bool((self._states == TOTAL).all() and (self._next == self._ends).all())
