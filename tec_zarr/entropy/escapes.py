"""Values of symbols without an entry: zigzag (0, -1, 1, -2, ...), then unsigned LEB128."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int32]
    Wide = NDArray[np.int64]

MOST_BYTES = 5
"""Of a 32-bit number, 7 bits a byte."""

SHIFTS = np.arange(0, 7 * MOST_BYTES, 7)


def sizes(values: Ints) -> Wide:
    """Bytes of each value (n,)."""
    return _sizes(_zigzag(values))


def pack(values: Ints) -> bytes:
    """Bytes of values (n,), one after the other."""
    numbers = _zigzag(values)
    last = _sizes(numbers)[:, None] - 1
    place = np.arange(MOST_BYTES)
    octets = numbers[:, None] >> SHIFTS & 127 | (place < last) << 7
    return octets[place <= last].astype(np.uint8).tobytes()


def parse(data: memoryview, count: int) -> tuple[Ints, memoryview]:
    """Values (count,) off the beginning of `data`, and what follows them.

    FormatError if `pack` does not write such bytes.
    """
    octets = np.frombuffer(data[: MOST_BYTES * count], np.uint8)
    ends = np.flatnonzero(octets < 128)[:count] + 1
    if len(ends) < count:
        raise FormatError("a symbol stream has too few escaped symbols")
    counts = np.diff(ends, prepend=0)
    groups = (ends - counts)[:, None] + np.arange(MOST_BYTES)
    inside = np.arange(MOST_BYTES) < counts[:, None]
    octets = np.append(octets, np.zeros(MOST_BYTES, np.uint8))
    numbers = ((octets[groups] & 127) * inside.astype(np.int64) << SHIFTS).sum(1)
    if (counts > MOST_BYTES).any() or (numbers >> 32).any() or (counts != _sizes(numbers)).any():
        raise FormatError("an escaped symbol is no int32, or longer than it need be")
    values = (numbers >> 1 ^ -(numbers & 1)).astype(np.int32)
    return values, data[int(ends[-1]) if count else 0 :]


def _zigzag(values: Ints) -> Wide:
    wide = values.astype(np.int64)
    return wide << 1 ^ wide >> 63


def _sizes(numbers: Wide) -> Wide:
    return 1 + (numbers[:, None] >> SHIFTS[1:] > 0).sum(1)
