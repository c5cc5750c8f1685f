"""Interleaved range asymmetric numeral systems (rANS; Duda 2013, Giesen 2014) over integer tables.

The stream of a tile is empty if none of its symbols needs bits. Else, numbers little-endian:

    varint                symbols that need bits, at least 1
    varint                lanes, at least 1, at most one a symbol, at least one for 32768 symbols
    varint                bytes of the shortest lane, at least 1
    u8                    bits of each excess, at most 32
    bits x lanes          bytes of each lane above the shortest; lowest bit first, 0 up to a byte
    u16 x words           words of the lanes, one lane after the other
    varint ...            values of escaped symbols, zigzag, in coding order

A lane is a rANS coder of its own. A reader's state x begins as 0. It takes in a word w, x becoming
x * 65536 + w, if x < 2**32 and the lane has words left: up to three times at the beginning, and up
to once after each symbol. The next symbol is that of the entry which holds slot x % 65536 in the
symbol's table row; x becomes x // 65536 * frequency + slot - first slot of the entry. In the end x
is 1, and no word is left. The first word of a lane is stored in one byte if it is below 256: then
the lane has an odd number of bytes.

Slots of a row are dealt out from its most frequent entry on (the first one, if there are more), as
many to each entry as its frequency says, in the order of entries and from the last one on to the
first. An escape is followed by the symbol's value, which stands behind the words.

Symbols in certain rows take no part. Of the others that a call has for a tile, in C order, symbol i
is on lane i % lanes.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.entropy import escapes
from tec_zarr.entropy.lanes import BLOCK, Lanes, Reader, Writer
from tec_zarr.entropy.stream import LANE_SYMBOLS, NOTHING, pack, parse
from tec_zarr.entropy.tables import ESCAPED, Tables
from tec_zarr.errors import FormatError, TecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int32]
    Rows = NDArray[np.integer[Any]]
    Wide = NDArray[np.int64]
    Floats = NDArray[np.float64]

LANE_BYTES = 540
"""Bytes of a stream for each lane: lanes then cost at most half a percent."""

SPARE_LANES = 3
"""Lanes beyond that: short streams need them most for speed."""

MOST_LANES = 4096
"""More lanes in a tile make nothing faster."""

LANE_COST, FIXED_COST = 2.3, 7.0
"""Bytes that a lane costs, 1.6 to 2.7 by its symbols (half a byte, its length, a state that is
inefficient while it is small), and those before the lanes."""


class _Call:
    """The symbols of a call that need bits, those of tile 0 first."""

    def __init__(self, tables: Tables, tiles: int, rows: Rows) -> None:
        """TecError if `rows` are not (tiles, n), or not rows of the tables."""
        if rows.ndim != 2 or len(rows) != tiles or rows.dtype.kind not in "iu":
            raise TecError(f"{rows.dtype} rows {rows.shape} for {tiles} tiles")
        if rows.size and (rows.min() < 0 or rows.max() >= len(tables.sizes)):
            raise TecError(f"rows {rows.min()} to {rows.max()} of {len(tables.sizes)} rows")
        flat = rows.ravel().astype(np.int32, copy=False)
        self._index, ends = tables.uncertain_places(flat.reshape(rows.shape))
        self._known = tables.certain_symbols(flat).reshape(rows.shape)
        self.rows: Ints = flat.take(self._index)
        """(sum of counts,): their rows."""
        self.counts: list[int] = np.diff(ends, prepend=0).tolist()
        """Of each tile."""

    def pick(self, symbols: Ints) -> Ints:
        """(sum of counts,): those of symbols (tiles, n) that need bits."""
        return symbols.ravel().take(self._index)

    def known(self, values: Ints) -> Ints:
        """(tiles, n): these symbols, and those that are certain."""
        self._known.ravel()[self._index] = values
        return self._known

    def parts(self) -> Iterator[tuple[int, slice]]:
        """Tiles, and slices of the call's symbols that belong to them."""
        for tile, (start, end) in enumerate(pairwise(accumulate(self.counts, initial=0))):
            for begin in range(start, end, BLOCK):
                yield tile, slice(begin, min(begin + BLOCK, end))

    def by_tile(self, chosen: NDArray[np.bool_]) -> Iterator[tuple[int, Wide]]:
        """Tiles with chosen ones (sum of counts,) among the call's symbols, and where these are."""
        places = chosen.nonzero()[0]
        ends = places.searchsorted(np.cumsum(self.counts)).tolist()
        for tile, (start, end) in enumerate(pairwise([0, *ends])):
            if start < end:
                yield tile, places[start:end]


class Counter:
    """Counts the bits of some tiles as an encoder would write them."""

    def __init__(self, tables: Tables, tiles: int, lanes: int | None = None) -> None:
        """`lanes` are the lanes of each tile, if their number should not follow from its bits."""
        if lanes is not None and lanes < 1:
            raise TecError(f"{lanes} lanes")
        self._tables, self._forced = tables, lanes
        self._content = np.zeros(tiles)
        self._symbols, self._widest = np.zeros((2, tiles), np.int64)

    def __call__(self, symbols: Ints | None, rows: Rows) -> Ints:
        """Take symbols (tiles, n) and their table rows; returns what a decoder will return.

        TecError if the shapes do not agree, or if there is no such row.
        """
        call = _Call(self._tables, len(self._content), rows)
        if symbols is None or symbols.shape != rows.shape or symbols.dtype != np.int32:
            raise TecError("to be encoded, symbols must be int32, and as many as rows")
        values = call.pick(symbols)
        self._take(call, values)
        counts = np.array(call.counts, np.int64)
        self._symbols += counts
        self._widest = np.maximum(self._widest, counts)
        return call.known(values)

    @property
    def bits(self) -> Floats:
        """(tiles,): bits so far, those of lanes included."""
        lanes = np.array(self._lanes().numbers)
        return self._content + 8 * (LANE_COST * lanes + FIXED_COST * (lanes > 0))

    def _take(self, call: _Call, symbols: Ints) -> Wide:
        """Count; returns the places of the symbols' entries."""
        places = np.empty(len(symbols), np.int64)
        for tile, part in call.parts():
            cost = self._tables.find(symbols[part], call.rows[part], places[part])
            self._content[tile] += cost
        for tile, escaped in call.by_tile(self._tables.is_escape.take(places)):
            self._escape(tile, symbols[escaped])
        return places

    def _escape(self, tile: int, values: Ints) -> None:
        self._content[tile] += 8 * escapes.sizes(values).sum()

    def _lanes(self) -> Lanes:
        """How many lanes each tile will have."""
        wanted = (self._content / (8 * LANE_BYTES)).astype(np.int64) + SPARE_LANES
        if self._forced is not None:
            wanted[:] = self._forced
        wanted = np.minimum(wanted, np.minimum(self._widest, MOST_LANES))
        return Lanes(tuple(np.maximum(wanted, -(-self._symbols // LANE_SYMBOLS)).tolist()))


class Encoder(Counter):
    """Writes the symbols of some tiles."""

    def __init__(self, tables: Tables, tiles: int, lanes: int | None = None) -> None:
        super().__init__(tables, tiles, lanes)
        self._calls: list[tuple[list[int], Wide]] = []
        self._escaped: list[list[Ints]] = [[] for _ in range(tiles)]

    def finish(self) -> list[bytes]:
        """Return a stream for each tile; it is empty if all its symbols were certain."""
        lanes = self._lanes()
        lengths = (lanes.lengths(counts) for counts, _ in self._calls)
        writer = Writer(sum(lengths, np.zeros(lanes.starts[-1], np.int64)))
        for counts, places in reversed(self._calls):
            writer.write(self._tables, lanes, counts, places)
        words = writer.finish()
        spans = [words[start:end] for start, end in pairwise(lanes.starts)]
        return list(map(pack, self._symbols.tolist(), spans, self._escaped))

    def _take(self, call: _Call, symbols: Ints) -> Wide:
        places = super()._take(call, symbols)
        self._calls.append((call.counts, places))
        return places

    def _escape(self, tile: int, values: Ints) -> None:
        super()._escape(tile, values)
        self._escaped[tile].append(values)


class Decoder:
    """Reads what an `Encoder` with the same tables, calls and rows wrote."""

    def __init__(self, tables: Tables, streams: Sequence[bytes]) -> None:
        """FormatError for streams that contradict themselves."""
        parsed = [parse(stream) for stream in streams]
        left, lengths, words, escaped = zip(NOTHING, *parsed, strict=True)
        self._tables = tables
        self._left, self._escaped = np.array(left[1:], np.int64), list(escaped[1:])
        self._lanes = Lanes(tuple(map(len, lengths[1:])))
        self._reader = Reader(np.concatenate(lengths), np.concatenate(words))

    def __call__(self, symbols: Ints | None, rows: Rows) -> Ints:
        """Return symbols (tiles, n), given their table rows; `symbols` are not looked at.

        FormatError if a stream does not hold so many, TecError if there is no such row.
        """
        del symbols
        call = _Call(self._tables, len(self._escaped), rows)
        self._left -= np.array(call.counts, np.int64)
        if (self._left < 0).any():
            raise FormatError("a symbol stream has fewer symbols than there should be")
        places = self._reader.read(self._tables, self._lanes, call.counts, call.rows)
        values = self._tables.symbols.take(places)
        for tile, escaped in call.by_tile(values == ESCAPED):
            values[escaped], rest = escapes.parse(self._escaped[tile], len(escaped))
            self._escaped[tile] = rest
        return call.known(values)

    def finish(self) -> None:
        """Raise FormatError unless the streams held just the symbols that were read."""
        if self._left.any() or any(map(len, self._escaped)) or not self._reader.finished():
            raise FormatError("a symbol stream does not end where its symbols do")
