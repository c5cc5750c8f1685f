"""The stream of a tile, taken apart and put together; nothing is decoded here.

All numbers are little-endian:

    varint        lanes; a stream without lanes has no bytes at all
    varint        words of the lane that has fewest
    u8            bytes of each excess: 0, 1, 2 or 4
    excess x lanes    words of each lane above the fewest
    u32 x lanes   state of each lane
    u16 x words   words of the lanes, one lane after the other
    varint ...    symbols without an entry, zigzag, in coding order
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.errors import FormatError
from tec_zarr.wire import Reader, varint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int32]
    Wide = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """What the bytes hold."""

    states: NDArray[np.uint32]
    """(lanes,): where an encoder ended and a decoder begins."""

    lengths: Wide
    """(lanes,): words of each lane."""

    words: NDArray[np.uint16]
    """(sum of lengths,): one lane after the other, each in the order of reading."""

    escaped: Ints
    """Symbols without an entry, in coding order."""

    @classmethod
    def parse(cls, data: bytes) -> Stream:
        """Inverse of `pack`; FormatError for what it cannot have made."""
        if not data:
            words, escaped = np.zeros(0, np.uint16), np.zeros(0, np.int32)
            return cls(np.zeros(0, np.uint32), np.zeros(0, np.int64), words, escaped)
        reader = Reader(data)
        lanes, least = reader.varint(), reader.varint()
        width = reader.take(1)[0]
        if not lanes or width not in (0, 1, 2, 4):
            raise FormatError("a symbol stream without lanes, or with an unknown size of lengths")
        excess = reader.take(lanes * width)
        states = np.frombuffer(reader.take(4 * lanes), "<u4").astype(np.uint32)
        if 2 * least * lanes > len(data):
            raise FormatError("a symbol stream with longer lanes than it has bytes")
        lengths: Wide = np.full(lanes, least, np.int64)
        if width:
            lengths += np.frombuffer(excess, f"<u{width}")
        words = np.frombuffer(reader.take(2 * int(lengths.sum())), "<u2")
        return cls(states, lengths, words, _unpacked(reader.take(reader.left)))

    def pack(self) -> bytes:
        """Return the bytes."""
        lanes = len(self.states)
        if not lanes:
            return b""
        least = int(self.lengths.min())
        excess = self.lengths - least
        width = next(w for w in (0, 1, 2, 4) if int(excess.max()) < 1 << 8 * w)
        return b"".join(
            [
                *(varint(lanes), varint(least), bytes([width])),
                excess.astype(f"<u{width}").tobytes() if width else b"",
                self.states.astype("<u4").tobytes(),
                self.words.astype("<u2").tobytes(),
                *(varint(number) for number in zigzag(self.escaped).tolist()),
            ]
        )


def zigzag(values: Ints) -> Wide:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    wide = values.astype(np.int64)
    return (wide << 1) ^ (wide >> 63)


def varint_sizes(numbers: Wide) -> Wide:
    """Bytes of each number below 2**35 as a varint."""
    return 1 + np.add.reduce([numbers >= 1 << shift for shift in (7, 14, 21, 28)], dtype=np.int64)


def _unpacked(data: bytes) -> Ints:
    """Numbers of varints of zigzag numbers; FormatError if one is cut or no int32."""
    octets = np.frombuffer(data, np.uint8).astype(np.int64)
    ends = np.flatnonzero(octets < 128)
    if not len(octets):
        return np.zeros(0, np.int32)
    if not len(ends) or ends[-1] != len(octets) - 1:
        raise FormatError("the last escaped symbol is cut")
    starts = np.append(0, ends[:-1] + 1)
    sizes = ends - starts + 1
    if sizes.max() > 5 or bool((octets[ends[sizes > 1]] == 0).any()):
        raise FormatError("an escaped symbol is longer than it need be")
    shifts = 7 * (np.arange(len(octets)) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((octets & 127) << shifts, starts)
    if numbers.max() >= 1 << 32:
        raise FormatError("an escaped symbol is no int32")
    return ((numbers >> 1) ^ -(numbers & 1)).astype(np.int32)
