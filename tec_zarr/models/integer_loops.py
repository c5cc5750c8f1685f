"""Loops over rows, to be compiled; `integers` does the same by torch, to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[Any]


def _split(x: Rows, numbers: Rows, unit: Rows, limits: tuple[np.float32, ...]) -> None:
    """Integers of rows `x`, and their units; see `integers.scaled`."""
    share_of_largest, share_of_length, least, most, largest, limited = limits
    count, size, one = x.shape[1], 1, np.float32(1)
    while size < count:
        size *= 2
    top, parts, bits = np.empty(1, np.int32), np.empty(size, np.float32), x.view(np.int32)
    top_value = top.view(np.float32)
    for row in range(x.shape[0]):
        # Magnitudes of floats are in the order of their bits, and a loop takes many bits at a time.
        most_bits = np.int32(0)
        for k in range(count):
            most_bits = max(most_bits, bits[row, k] & np.int32(0x7FFFFFFF))
        top[0] = most_bits
        own = top_value[0] * share_of_largest
        if share_of_length > 0:
            for k in range(count):
                parts[k] = x[row, k] * x[row, k]
            own = max(own, np.sqrt(_half(parts, count, size)) * share_of_length)
        limit = limited if own > most else largest
        own = min(max(own, least), most)
        unit[row], share = own, one / own
        for k in range(count):
            number = min(max(np.rint(x[row, k] * share), -limit), limit)
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
        spread = np.sqrt(_half(parts, count, size) * share + epsilon)
        for k in range(count):
            out[row, k] = apart[k] / spread * weight[k] + bias[k]


def _half_of(parts: Rows, count: int, size: int) -> np.float32:
    """The sum of the first `count` parts, by halves; they are overwritten."""
    while size > 1:
        size //= 2
        for k in range(count - size):
            parts[k] += parts[size + k]
        count = size
    return parts[0]


def _fade_from(e: np.float32, t: np.float32) -> np.float32:
    """The rest of Taylor's polynomial of exp(-t), and 32 times its exponent."""
    one, half, third = np.float32(1), np.float32(1 / 2), np.float32(1 / 3)
    fourth, fifth = np.float32(1 / 4), np.float32(1 / 5)
    e = one - t * fifth * e
    e = one - t * fourth * e
    e = one - t * third * e
    e = one - t * half * e
    e = one - t * e
    e *= e
    e *= e
    e *= e
    e *= e
    return e * e


def _bend(x: Rows, out: Rows, factors: Rows) -> None:
    """GELU of all values; see `integers.Gelu`."""
    flat, found = x.ravel(), out.ravel()
    one, half = np.float32(1), np.float32(1 / 2)
    a, b, c, d, e, f = factors
    for k in range(len(flat)):
        value = flat[k]
        z = abs(value)
        tail = one + z * (a + z * (b + z * (c + z * (d + z * (e + z * f)))))
        tail *= tail
        tail *= tail
        tail *= tail
        tail *= tail
        tail = half / tail
        found[k] = value * (tail if value < 0 else one - tail)


_half, fade = compiled(_half_of) or _half_of, compiled(_fade_from) or _fade_from
split, normalise, bend = compiled(_split), compiled(_normalise), compiled(_bend)
