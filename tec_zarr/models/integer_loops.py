"""Loops over rows, to be compiled; `integers` does the same by torch, to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[Any]


def _split(
    x: Rows, numbers: Rows, unit: Rows, largest: np.float32, least: np.float32, most: np.float32
) -> None:
    """Integers of rows `x`, and their units; see `integers.scaled`."""
    part, top = np.float32(1 / largest), np.empty(1, np.int32)
    for row in range(x.shape[0]):
        # Magnitudes of floats are in the order of their bits, and a loop takes many bits at a time.
        bits, most_bits = x[row].view(np.int32), np.int32(0)
        for k in range(len(bits)):
            most_bits = max(most_bits, bits[k] & np.int32(0x7FFFFFFF))
        top[0] = most_bits
        one = min(max(top.view(np.float32)[0], least), most) * part
        unit[row] = one
        inverse = np.float32(1) / one
        for k in range(len(bits)):
            number = min(max(np.rint(x[row, k] * inverse), -largest), largest)
            numbers[row, k] = np.int16(np.int32(number))


def _normalise(x: Rows, weight: Rows, bias: Rows, out: Rows, epsilon: np.float32) -> None:
    """Layer normalisation of rows; sums by halves."""
    count = x.shape[1]
    share = np.float32(1 / count)
    size = 1
    while size < count:
        size *= 2
    apart, parts = np.empty(count, np.float32), np.empty(size, np.float32)
    for row in range(x.shape[0]):
        for k in range(count):
            parts[k] = x[row, k]
        mean = _half(parts, count, size) * share
        for k in range(count):
            apart[k] = x[row, k] - mean
            parts[k] = apart[k] * apart[k]
        inverse = np.float32(1) / np.sqrt(_half(parts, count, size) * share + epsilon)
        for k in range(count):
            out[row, k] = apart[k] * inverse * weight[k] + bias[k]


def _half_of(parts: Rows, count: int, size: int) -> np.float32:
    """The sum of the first `count` parts, by halves; they are overwritten."""
    while size > 1:
        size //= 2
        for k in range(count - size):
            parts[k] += parts[size + k]
        count = size
    return parts[0]


def _bend(x: Rows, out: Rows, factors: Rows) -> None:
    """GELU of all values; see `integers.Gelu`."""
    flat, found = x.ravel(), out.ravel()
    one = np.float32(1)
    a, b, c, d, e, f, g = factors
    for k in range(len(flat)):
        value = flat[k]
        t = abs(value)
        t = a + t * (b + t * (c + t * (d + t * (e + t * (f + t * g)))))
        t *= t
        t *= t
        t *= t
        tail = one / (t * t)
        found[k] = value * (tail if value < 0 else one - tail)


_half = compiled(_half_of) or _half_of
split, normalise, bend = compiled(_split), compiled(_normalise), compiled(_bend)
