"""The bytes of a tile's stream, put together and taken apart; `rans` tells what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tec_zarr.entropy import escapes
from tec_zarr.errors import FormatError
from tec_zarr.wire import Reader, varint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int32]
    Wide = NDArray[np.int64]

LANE_SYMBOLS = 1 << 15
"""Symbols that a tile may have for each lane: bounds the time that few bytes can take."""

MOST_WIDTH = 32
"""Bits of an excess."""


class Stream(NamedTuple):
    """A stream, taken apart."""

    symbols: int
    lengths: Wide
    """(lanes,): words of each lane."""

    words: NDArray[np.uint16]
    escaped: memoryview


NOTHING = Stream(0, np.zeros(0, np.int64), np.zeros(0, np.uint16), memoryview(b""))


def pack(symbols: int, lanes: Sequence[NDArray[np.uint16]], escaped: Sequence[Ints]) -> bytes:
    """The stream of a tile, given the words of its lanes."""
    if not lanes:
        return b""
    short = np.array([words[0] < 256 for words in lanes])
    words = np.array([len(words) for words in lanes])
    octets = np.concatenate(lanes).astype("<u2").view(np.uint8)[_kept(words, short)]
    lengths = 2 * words - short
    least = int(lengths.min())
    width = int(lengths.max() - least).bit_length()
    head = varint(symbols) + varint(len(lanes)) + varint(least) + bytes([width])
    parts = [head, _pack_bits(lengths - least, width), octets.tobytes()]
    return b"".join([*parts, *map(escapes.pack, escaped)])


def parse(data: bytes) -> Stream:
    """Invert `pack`; FormatError if the parts do not make up the stream."""
    if not data:
        return NOTHING
    fields = Reader(data)
    symbols, lanes, least, width = *(fields.varint() for _ in range(3)), fields.take(1)[0]
    if not 0 < lanes <= symbols <= lanes * LANE_SYMBOLS:
        raise FormatError(f"{symbols} symbols in {lanes} lanes")
    if not least or lanes * least > fields.left or width > MOST_WIDTH:
        raise FormatError("the lanes of a symbol stream are empty or too long")
    lengths = least + _parse_bits(fields.take((lanes * width + 7) // 8), lanes, width)
    data = fields.take(int(lengths.sum()))
    words = (lengths + 1) // 2
    octets = np.zeros(2 * words.sum(), np.uint8)
    octets[_kept(words, lengths % 2 == 1)] = np.frombuffer(data, np.uint8)
    return Stream(symbols, words, octets.view("<u2"), memoryview(fields.take(fields.left)))


def _kept(words: Wide, short: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which bytes of words are stored: not the upper one of a lane's first word if it is short."""
    kept = np.ones(2 * words.sum(), np.bool_)
    kept[2 * (np.cumsum(words) - words) + 1] = ~short
    return kept


def _pack_bits(numbers: Wide, width: int) -> bytes:
    """Numbers of `width` bits as bytes."""
    bits = numbers[:, None] >> np.arange(width) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def _parse_bits(data: bytes, count: int, width: int) -> Wide:
    """Invert `_pack_bits`; FormatError if bits are set that it does not set."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[count * width :].any():
        raise FormatError("bits are set behind the lengths of lanes")
    numbers = np.zeros(count, np.int64)
    for place, column in enumerate(bits[: count * width].reshape(count, width).T):
        numbers |= column.astype(np.int64) << place
    return numbers
