"""Interleaved range asymmetric numeral systems (rANS; Duda 2013, Giesen 2014) over integer tables.

The stream of a tile, all numbers little-endian:

    varint        lanes; the stream ends here if there are none
    varint        words of the lane that has fewest
    u8            bytes of each excess: 0, 1, 2 or 4
    excess x lanes    words of each lane above the fewest
    u32 x lanes   state of each lane
    u16 x words   words of the lanes, one lane after the other
    varint ...    symbols without an entry, zigzag, in coding order

A lane is a rANS coder of its own: state x, 16-bit words, 16-bit probabilities. A symbol with
cumulative frequency c and frequency f takes x to (x // f) * 65536 + x % f + c, after a word was
moved out while x >= f * 65536. Lanes begin at state 1, hence a reader takes a word in whenever
x < 65536 and its lane has words left, and must end at state 1 with no words left. Symbols are coded
in calls; in each call symbol i of those that need bits goes to lane i % lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.entropy.tables import PRECISION, TOTAL, Search, Tables
from tec_zarr.errors import FormatError, TecError
from tec_zarr.wire import Reader, varint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int32]
    Wide = NDArray[np.int64]

LANE_BYTES = 400
"""Bytes of a stream for each lane; a lane costs about two bytes, so half a percent."""

SPARE_LANES = 6
"""Lanes that a stream may have beyond that: short streams need them most for speed."""

MOST_STEPS = 1 << 15
"""Most symbols of a lane for each call and in all; bounds the time that few bytes can take."""

MASK = TOTAL - 1

BLOCK = 256
"""Steps whose table entries are gathered at once: enough to amortise, little enough for a cache."""


@dataclass(frozen=True)
class _Call:
    """The symbols of one call that need bits, those of tile 0 first."""

    needed: NDArray[np.bool_]
    """(tiles, n): False in certain rows."""

    counts: tuple[int, ...]
    """Symbols of each tile that need bits."""

    rows: Wide
    """(sum of counts,): their rows."""

    @classmethod
    def of(cls, tables: Tables, rows: NDArray[np.int32]) -> _Call:
        wide = tables.checked_rows(rows)
        needed = ~tables.certain[wide]
        counts = tuple(needed.sum(1).tolist())
        return cls(needed, counts, wide[needed])


class Encoder:
    """Writes the symbols of some tiles; the streams are made by `finish`."""

    def __init__(self, tables: Tables, tiles: int, lanes: int | None = None) -> None:
        """`lanes` overrides the number of lanes of each tile."""
        self._tables, self._tiles, self._lanes = tables, tiles, lanes
        self._calls: list[tuple[_Call, Wide]] = []
        self._escaped: list[list[Ints]] = [[] for _ in range(tiles)]
        self._bits = np.zeros(tiles)

    def __call__(self, symbols: Ints | None, rows: NDArray[np.int32]) -> Ints:
        """Take symbols (tiles, n) and their rows; returns what a decoder will return."""
        if symbols is None or symbols.shape != rows.shape or len(rows) != self._tiles:
            raise TecError("an encoder needs symbols and rows of shape (tiles, n)")
        call = _Call.of(self._tables, rows)
        values = symbols[call.needed]
        places = self._tables.entries(values, call.rows)
        self._calls.append((call, places))
        self._note(call, values, places)
        return np.where(call.needed, symbols, self._tables.offsets[rows]).astype(np.int32)

    def _note(self, call: _Call, values: Ints, places: Wide) -> None:
        """Keep escaped values, and count bits."""
        escaped = places == self._tables.escapes[call.rows]
        costs = self._tables.costs.take(places)
        costs[escaped] += 8 * _varint_sizes(_zigzag(values[escaped]))
        start = 0
        for tile, count in enumerate(call.counts):
            part = slice(start, start + count)
            self._bits[tile] += costs[part].sum()
            self._escaped[tile].append(values[part][escaped[part]])
            start += count

    def finish(self) -> list[bytes]:
        """Return the stream of each tile; one of certain symbols alone is empty."""
        lanes = _Lanes.of([self._lanes_of(tile) for tile in range(self._tiles)])
        writer = _Writer(lanes, sum(lanes.steps(call) for call, _ in self._calls))
        for call, places in reversed(self._calls):
            grid = lanes.arranged(call, places, self._tables.idle * self._tables.width)
            writer.write(self._tables, grid)
        return [
            writer.stream(tile, np.concatenate([*self._escaped[tile], np.zeros(0, np.int32)]))
            for tile in range(self._tiles)
        ]

    def _lanes_of(self, tile: int) -> int:
        counts = [call.counts[tile] for call, _ in self._calls]
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
        parsed = [_Stream.parse(stream) for stream in streams]
        self._lanes = _Lanes.of([len(part.states) for part in parsed])
        self._reader = _Reader(parsed)
        self._escaped = [part.escaped for part in parsed]
        self._steps = 0

    def __call__(self, symbols: Ints | None, rows: NDArray[np.int32]) -> Ints:
        """Return symbols (tiles, n), given their rows; `symbols` is not looked at."""
        del symbols
        call = _Call.of(self._tables, rows)
        known = self._tables.offsets[rows]
        if any(call.counts):
            known[call.needed] = self._read(call)
        return known

    def _read(self, call: _Call) -> Ints:
        self._lanes.check(call)
        self._steps += self._lanes.steps(call)
        if self._steps > MOST_STEPS:
            raise FormatError("a symbol stream has too few lanes for its symbols")
        tables = self._tables
        rows = self._lanes.arranged(call, call.rows, tables.idle)
        places = self._lanes.restored(call, self._reader.read(tables, rows))
        values = tables.symbols.take(places)
        escaped = np.flatnonzero(places == tables.escapes[call.rows])
        if len(escaped):
            self._unescape(call, values, escaped)
        return values

    def _unescape(self, call: _Call, values: Ints, escaped: Wide) -> None:
        ends = np.cumsum(call.counts)
        numbers = np.bincount(np.searchsorted(ends, escaped, side="right"), minlength=len(ends))
        for tile, number in enumerate(numbers):
            if number > len(self._escaped[tile]):
                raise FormatError("a symbol stream has too few escaped symbols")
        taken = [self._escaped[tile][:number] for tile, number in enumerate(numbers)]
        values[escaped] = np.concatenate(taken)
        self._escaped = [part[n:] for part, n in zip(self._escaped, numbers, strict=True)]

    def finish(self) -> None:
        """Raise FormatError unless the streams held just the symbols that were read."""
        if any(len(part) for part in self._escaped) or not self._reader.finished():
            raise FormatError("a symbol stream does not end where its symbols do")


@dataclass(frozen=True)
class _Lanes:
    """How the lanes of all tiles stand side by side: a column each, those of tile 0 first."""

    numbers: tuple[int, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Sequence[int]) -> _Lanes:
        starts = np.cumsum([0, *numbers])[:-1]
        return cls(tuple(numbers), tuple(starts.tolist()))

    def check(self, call: _Call) -> None:
        """Raise FormatError if a tile has symbols but no lanes."""
        for count, lanes in zip(call.counts, self.numbers, strict=True):
            if count and not lanes:
                raise FormatError("a symbol stream is empty, but there are symbols to read")

    def steps(self, call: _Call) -> int:
        """Symbols of the longest lane in a call."""
        pairs = zip(call.counts, self.numbers, strict=True)
        return max((-(-count // lanes) for count, lanes in pairs if lanes), default=0)

    def arranged(self, call: _Call, values: Wide, filling: int) -> Wide:
        """Values of a call's symbols as (step, lane); `filling` where a lane has no more."""
        grid = np.full((self.steps(call), sum(self.numbers)), filling, np.int64)
        for part, place in self._places(call, grid):
            whole = len(place) * place.shape[1]
            padded = np.full(whole, filling, np.int64)
            padded[: part.stop - part.start] = values[part]
            place[...] = padded.reshape(place.shape)
        return grid

    def restored(self, call: _Call, grid: Wide) -> Wide:
        """Invert `arranged`."""
        values = np.empty(sum(call.counts), np.int64)
        for part, place in self._places(call, grid):
            values[part] = place.ravel()[: part.stop - part.start]
        return values

    def _places(self, call: _Call, grid: Wide) -> list[tuple[slice, Wide]]:
        """Each tile's part of a call's values, and of the grid."""
        ends = np.cumsum(call.counts).tolist()
        found = []
        for end, count, start, lanes in zip(
            ends, call.counts, self.starts, self.numbers, strict=True
        ):
            if count:
                steps = -(-count // lanes)
                found.append((slice(end - count, end), grid[:steps, start : start + lanes]))
        return found


class _Writer:
    """All lanes, coding from the last symbol to the first."""

    def __init__(self, lanes: _Lanes, steps: int) -> None:
        self._lanes = lanes
        self._states = np.ones(sum(lanes.numbers), np.float64)
        self._firsts = np.arange(sum(lanes.numbers)) * steps
        self._ends = self._firsts.copy()
        self._words = np.empty(sum(lanes.numbers) * steps, np.uint16)

    def write(self, tables: Tables, grid: Wide) -> None:
        """Code entries (step, lane), the last step first."""
        for end in range(len(grid), 0, -BLOCK):
            places = grid[max(0, end - BLOCK) : end]
            self._write(tables.frequencies.take(places), tables.starts.take(places))

    def _write(self, frequencies: Wide, starts: Wide) -> None:
        # States are below 2**48, so that floats hold them exactly; dividing floats is faster, and
        # the floor of a quotient is right because a quotient below a whole number is 2**-32 below.
        states, words, ends = self._states, self._words, self._ends
        divisors = frequencies.astype(np.float64)
        limits, gains = divisors * TOTAL, TOTAL - divisors
        additions = starts.astype(np.float64)
        quotients = np.empty_like(states)
        for step in range(len(divisors) - 1, -1, -1):
            full = (states >= limits[step]).nonzero()[0]
            if len(full):
                moved = states[full].astype(np.int64)
                places = ends[full]
                words[places] = moved & MASK
                ends[full] = places + 1
                states[full] = moved >> PRECISION
            np.divide(states, divisors[step], out=quotients)
            np.floor(quotients, out=quotients)
            np.multiply(quotients, gains[step], out=quotients)
            np.add(states, quotients, out=states)
            np.add(states, additions[step], out=states)

    def stream(self, tile: int, escaped: Ints) -> bytes:
        """Return the finished stream of a tile."""
        start, lanes = self._lanes.starts[tile], self._lanes.numbers[tile]
        if not lanes:
            return b""
        part = slice(start, start + lanes)
        written = self._ends[part] - self._firsts[part]
        pairs = zip(self._firsts[part].tolist(), self._ends[part].tolist(), strict=True)
        words = [self._words[first:end][::-1] for first, end in pairs]
        least = int(written.min())
        width = next(w for w in (0, 1, 2, 4) if int(written.max()) - least < 1 << 8 * w)
        excess = (written - least).astype(f"<u{width}").tobytes() if width else b""
        return b"".join(
            [
                *(varint(lanes), varint(least), bytes([width]), excess),
                self._states[part].astype("<u4").tobytes(),
                np.concatenate(words).astype("<u2").tobytes(),
                _pack_varints(_zigzag(escaped)),
            ]
        )


@dataclass(frozen=True)
class _Stream:
    """A stream, taken apart."""

    states: Wide
    lengths: Wide
    words: NDArray[np.uint16]
    escaped: Ints

    @classmethod
    def parse(cls, data: bytes) -> _Stream:
        nothing = np.zeros(0, np.int64)
        if not data:
            return cls(nothing, nothing, np.zeros(0, np.uint16), np.zeros(0, np.int32))
        reader = Reader(data)
        lanes, least = reader.varint(), reader.varint()
        width = reader.take(1)[0]
        if not lanes or width not in (0, 1, 2, 4):
            raise FormatError(
                "a symbol stream without lanes, or with lane lengths of no known size"
            )
        excess = reader.take(lanes * width)
        states = np.frombuffer(reader.take(4 * lanes), "<u4").astype(np.int64)
        if 2 * least * lanes > len(data):
            raise FormatError("a symbol stream with longer lanes than it has bytes")
        lengths: Wide = np.full(lanes, least, np.int64)
        if width:
            lengths += np.frombuffer(excess, f"<u{width}")
        words = np.frombuffer(reader.take(2 * int(lengths.sum())), "<u2")
        return cls(states, lengths, words, _parse_escapes(reader.take(reader.left)))


class _Reader:
    """All lanes, decoding from the first symbol to the last."""

    def __init__(self, streams: Sequence[_Stream]) -> None:
        self._states = np.concatenate([part.states for part in streams])
        self._words = np.concatenate([part.words for part in streams]).astype(np.int64)
        self._ends = np.cumsum(np.concatenate([part.lengths for part in streams]))
        self._next = self._ends - np.concatenate([part.lengths for part in streams])

    def read(self, tables: Tables, rows: Wide) -> Wide:
        """Entries (step, lane), given rows."""
        search = tables.search()
        blocks = range(0, len(rows), BLOCK)
        return np.concatenate([self._read(tables, rows[b : b + BLOCK], search) for b in blocks])

    def _read(self, tables: Tables, rows: Wide, search: Search) -> Wide:
        frequencies, starts = tables.frequencies, tables.starts
        states, words, following, ends = self._states, self._words, self._next, self._ends
        places, bases = rows * tables.width, rows << PRECISION
        for step in range(len(rows)):
            slots = states & MASK
            found = search(bases[step] + slots, places[step])
            places[step] = found
            np.subtract(slots, starts.take(found), out=slots)
            np.right_shift(states, PRECISION, out=states)
            np.multiply(states, frequencies.take(found), out=states)
            np.add(states, slots, out=states)
            low = (states < TOTAL).nonzero()[0]
            if len(low):
                at = following[low]
                left = at < ends[low]
                if not left.all():
                    low, at = low[left], at[left]
                states[low] = (states[low] << PRECISION) | words[at]
                following[low] = at + 1
        return places

    def finished(self) -> bool:
        """Whether all lanes are where encoders begin."""
        return bool((self._states == 1).all() and (self._next == self._ends).all())


def _zigzag(values: Ints) -> Wide:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    wide = values.astype(np.int64)
    return (wide << 1) ^ (wide >> 63)


def _varint_sizes(numbers: Wide) -> Wide:
    return np.add.reduce([numbers >= 1 << shift for shift in (0, 7, 14, 21, 28)]).clip(min=1)


def _pack_varints(numbers: Wide) -> bytes:
    return b"".join(varint(number) for number in numbers.tolist())


def _parse_escapes(data: bytes) -> Ints:
    """Invert `_pack_varints` of zigzag numbers; FormatError if they are no int32."""
    octets = np.frombuffer(data, np.uint8).astype(np.int64)
    ends = np.flatnonzero(octets < 128)
    if len(octets) and (not len(ends) or ends[-1] != len(octets) - 1):
        raise FormatError("the last escaped symbol is cut")
    starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
    sizes = ends - starts + 1
    if len(sizes) and sizes.max() > 5:
        raise FormatError("an escaped symbol is too long")
    shifts = 7 * (np.arange(len(octets)) - np.repeat(starts, sizes))
    parts = (octets & 127) << shifts
    numbers = np.add.reduceat(parts, starts) if len(starts) else parts
    values = (numbers >> 1) ^ -(numbers & 1)
    if len(values) and (values.min() < -(1 << 31) or values.max() >= 1 << 31):
        raise FormatError("an escaped symbol is no int32")
    return values.astype(np.int32)
