"""Small fields in bytes: what `header`, `sections` and `container` read and write alike."""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c

from tec_zarr.errors import FormatError

CHECKSUM = struct.Struct("<I")  # CRC-32C


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


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), 0 to 2**32 - 1.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    checksum: int = google_crc32c.value(data)
    return checksum
