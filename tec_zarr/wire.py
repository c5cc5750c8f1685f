"""Small fields in bytes: what `header`, `sections` and `container` read and write alike."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from tec_zarr.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHECKSUM = struct.Struct("<I")  # CRC-32C

MOST_BYTES = 9
"""Of a varint: 63 bits."""


class Reader:
    """Takes fields off the beginning of bytes that nobody trusts; FormatError if they end early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        """How many bytes have not been taken."""
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if size > self.left:
            raise FormatError(f"{size} bytes expected where {self.left} are left")
        self._position += size
        return self._data[self._position - size : self._position]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Return the fields of the next struct."""
        return layout.unpack(self.take(layout.size))

    def varint(self) -> int:
        """Return the next unsigned LEB128 number, below 2**63 and in its shortest form."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if shift and not byte:
                    break
                return value
        raise FormatError("a number that is longer than it need be")


def varint(value: int) -> bytes:
    """Inverse of `Reader.varint`.

    >>> varint(300).hex()
    'ac02'
    """
    head = b""
    while value > 127:
        head += bytes([value & 127 | 128])
        value >>= 7
    return head + bytes([value])


def parse_varints(data: bytes) -> NDArray[np.int64]:
    """Numbers (n,) that `varint` wrote one after the other; FormatError if it did not.

    >>> parse_varints(varint(300) + varint(7)).tolist()
    [300, 7]
    """
    octets = np.frombuffer(data, np.uint8)
    ends = (octets < 128).nonzero()[0] + 1
    counts = np.diff(ends, prepend=0)
    numbers = np.zeros(len(ends), np.int64)
    if len(octets) != (ends[-1] if len(ends) else 0) or (counts > MOST_BYTES).any():
        raise FormatError("a list of numbers that ends early, or has a number beyond 63 bits")
    for place in range(int(counts.max(initial=0))):
        there = counts > place
        numbers[there] |= (octets[(ends - counts)[there] + place] & 127).astype(
            np.int64
        ) << 7 * place
    if (octets[ends - 1][counts > 1] == 0).any():
        raise FormatError("a number that is longer than it need be")
    return numbers


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), 0 to 2**32 - 1.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    checksum: int = google_crc32c.value(data)
    return checksum
