"""Loops over the places of maps, to be compiled; torch does the same where they are None.

A loop makes in one pass what torch does in one for each operation.
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]


def _gather(products: Numbers, bias: Numbers, limits: Numbers, found: Numbers) -> None:
    """Hidden units (n, hidden, y, x): sums over 3x3 of `products` (n, 9, hidden, y, x).

    Each with its `bias` (hidden,), in multiples of limits[0], cut to limits[1]; all of one type.
    See `activity.neighbourhood`: the numbers are integers, the order of sums does not matter.
    """
    count, _, hidden, height, width = products.shape
    for i in range(count):
        for k in range(hidden):
            for y in range(height):
                sums = found[i, k, y]
                for x in range(width):
                    sums[x] = bias[k]
                for tap in range(9):
                    row = products[i, tap, k, min(max(y + tap // 3 - 1, 0), height - 1)]
                    shift = tap % 3 - 1
                    if shift:
                        end = (width - 1) * (shift + 1) // 2
                        sums[end] += row[end]
                    for x in range(max(0, -shift), width - max(0, shift)):
                        sums[x] += row[x + shift]
                for x in range(width):
                    sums[x] = min(max(np.floor(sums[x] * limits[0]), 0), limits[1])


def _spread(logs: Numbers, taps: Numbers, sums: Numbers) -> None:
    """Add to `sums` what each of the log magnitudes (n, c, y, x) that is not zero gives.

    `taps` are (c, 3, 3 * hidden), each line from right to left; sums are (n, y, (x + 4) * hidden),
    two places more on either side. Places beyond the border have the value next to them.
    """
    count, channels, height, width = logs.shape
    size = taps.shape[2]
    places, values = np.empty(width + 2, np.int64), np.empty(width + 2, logs.dtype)
    for i in range(count):
        for c in range(channels):
            for y in range(-1, height + 1):
                line = logs[i, c, min(max(y, 0), height - 1)]
                found = 0
                for x in range(width + 2):
                    places[found] = x * (size // 3)
                    values[found] = line[min(max(x - 1, 0), width - 1)]
                    found += values[found] != 0
                for tap in range(max(0, y + 2 - height), min(3, y + 2)):
                    row, factors = sums[i, y + 1 - tap], taps[c, tap]
                    for k in range(found):
                        near = row[places[k] : places[k] + size]
                        for unit in range(len(factors)):
                            near[unit] += values[k] * factors[unit]


def _settle(sums: Numbers, bias: Numbers, limits: Numbers, found: Numbers) -> None:
    """Hidden units (n, y, x, hidden) from what `_spread` made; else as `_gather`."""
    count, height, width, hidden = found.shape
    for i in range(count):
        for y in range(height):
            inner = sums[i, y, 2 * hidden :]
            for x in range(width):
                near, units = inner[x * hidden : (x + 1) * hidden], found[i, y, x]
                for k in range(hidden):
                    units[k] = min(max(np.floor((near[k] + bias[k]) * limits[0]), 0), limits[1])


def _filter(maps: Numbers, taps: Numbers, bias: Numbers, found: Numbers) -> None:
    """Filters `taps` (c, 5, 5) of each channel of maps (n, c, y, x), zero beyond the border.

    Their side is written down so that compilers unroll them.
    """
    count, channels, height, width = maps.shape
    padded = np.zeros((height + 4, width + 4), maps.dtype)
    for i in range(count):
        for c in range(channels):
            own = taps[c]
            for y in range(height):
                for x in range(width):
                    padded[y + 2, x + 2] = maps[i, c, y, x]
            for y in range(height):
                for x in range(width):
                    total = bias[c]
                    for k in range(5):
                        for m in range(5):
                            total += own[k, m] * padded[y + k, x + m]
                    found[i, c, y, x] = total


def _to_rows(mixed: Numbers, bias: Numbers, unit: float, last: int, rows: Numbers) -> None:
    """Rows (n, c, places) from sums of the same shape and `bias` (c,); see `Activity.rows`."""
    count, channels, places = mixed.shape
    for i in range(count):
        for c in range(channels):
            for p in range(places):
                rows[i, c, p] = min(max(floor((mixed[i, c, p] + bias[c]) * unit), 0), last)


def _look_up(symbols: Numbers, table: Numbers, found: Numbers) -> None:
    """Entries (n,) of `table` for the magnitudes of symbols; see `activity.logarithms`."""
    most = len(table) - 1
    for i in range(len(symbols)):
        cut = min(max(symbols[i], -most), most)  # first, because -2**31 has no magnitude
        found[i] = table[abs(cut)]


def _nearest(values: Numbers, band: float, limit: float, whole: Numbers, places: Numbers) -> int:
    """The nearest integers of values (n,), the lower ones within `band` of a border between two.

    Values are cut to `limit`, NaN is 0. Sets where values are within the band, and returns how many
    they are: few, so that a block is looked through again if it has any. See `coding.Guard`.
    """
    found, block = 0, 4096
    for first in range(0, len(values), block):
        last, some = min(first + block, len(values)), False
        for i in range(first, last):
            value = _cut(values[i], limit)
            lower = np.floor(value)
            near = abs(value - lower - 0.5) <= band
            whole[i] = lower + 1 if (value - lower >= 0.5) & (not near) else lower
            some |= near
        for i in range(first, last if some else first):
            value = _cut(values[i], limit)
            if abs(value - np.floor(value) - 0.5) <= band:
                places[found] = i
                found += 1
    return found


def _cut_to(value: float, limit: float) -> float:
    return min(max(value, -limit), limit) if value == value else 0.0  # noqa: PLR0124


def _quantise(values: Numbers, rest: float, most: float, symbols: Numbers) -> None:
    """Symbols (n,): the magnitude of `values` + `rest`, rounded down, at most `most`; signs stay.

    See `transforms.PatchTransform.symbols`.
    """
    for i in range(len(values)):
        size = min(np.floor(abs(values[i]) + rest), most)
        symbols[i] = size if values[i] >= 0 else -size


def _lose(given: Numbers, seen: Numbers, peaks: Numbers, energies: Numbers) -> None:
    """What readers miss of symbols (tiles, frames, c, y, x); see `Factorized.harmed`.

    `seen` may have fewer channels. Sets the largest magnitude and the sum of squares of each tile
    (tiles, 2): of channels that readers see, and of those that they do not.
    """
    tiles, frames, channels, height, width = given.shape
    for tile in range(tiles):
        for frame in range(frames):
            for c in range(channels):
                cut = int(c >= seen.shape[2])
                for y in range(height):
                    for x in range(width):
                        lost = float(given[tile, frame, c, y, x])
                        if not cut:
                            lost -= seen[tile, frame, c, y, x]
                        if lost:
                            peaks[tile, cut] = max(peaks[tile, cut], abs(lost))
                            energies[tile, cut] += lost * lost


quantise, lose = compiled(_quantise), compiled(_lose)
gather, spread, settle = compiled(_gather), compiled(_spread), compiled(_settle)
_cut = compiled(_cut_to) or _cut_to
filters, nearest = compiled(_filter), compiled(_nearest)
to_rows, look_up = compiled(_to_rows), compiled(_look_up)
