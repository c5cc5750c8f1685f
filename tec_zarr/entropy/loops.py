"""Loops over symbols, to be compiled. What they do is told where NumPy does it, see `lanes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[Any]


def _write(
    states: Ints, following: Ints, words: Ints, frequencies: Ints, starts: Ints, places: Ints
) -> None:
    """Code the entries at `places` (steps, m), last step first; see `lanes.Writer`."""
    for step in range(len(places) - 1, -1, -1):
        for lane in range(len(states)):
            state = states[lane]
            place = places[step, lane]
            frequency = frequencies[place]
            if state >= frequency << 32:
                following[lane] -= 1
                words[following[lane]] = state & 0xFFFF
                state >>= 16
            quotient = state // frequency
            states[lane] = state + quotient * (65536 - frequency) + starts[place]


def _read(
    states: Ints, following: Ints, ends: Ints, words: Ints,
    lookup: Ints, frequencies: Ints, starts: Ints, rows: Ints, places: Ints,
) -> None:  # fmt: skip
    """Find `places` (steps, m) of entries, given their rows; see `lanes.Reader`."""
    for step in range(len(rows)):
        for lane in range(len(states)):
            state = states[lane]
            slot = state & 0xFFFF
            place = lookup[(rows[step, lane] << 16) + slot]
            state = (state >> 16) * frequencies[place] + slot - starts[place]
            if state < 1 << 32 and following[lane] < ends[lane]:
                state = state << 16 | words[following[lane]]
                following[lane] += 1
            states[lane] = state
            places[step, lane] = place


def _find(
    symbols: Ints, rows: Ints, offsets: Ints, last: Ints, firsts: Ints, costs: Ints, places: Ints
) -> float:
    """Find `places` of symbols (n,) in their rows; returns their cost. See `Tables.find`."""
    total = 0.0
    for i in range(len(rows)):
        row = rows[i]
        entry, most = symbols[i] - offsets[row], last[row]
        if entry < 0 or entry > most:
            entry = most
        places[i] = firsts[row] + entry
        total += costs[places[i]]
    return total


def _sort(rows: Ints, first: int, sizes: Ints, places: Ints) -> None:
    """Places of symbols by list, all lists but the last, and then those of the last one.

    `rows` are (tiles, n), `sizes` (tiles, lists) of zeros; see `models.sparse`.
    """
    tiles, count = rows.shape
    most = sizes.shape[1] - 1
    for tile in range(tiles):
        for i in range(count):
            if rows[tile, i] >= first:
                sizes[tile, min(rows[tile, i] - first, most)] += 1
    end, common = 0, sizes[:, :most].sum()
    ends = np.empty(most + 1, np.int64)
    for tile in range(tiles):
        for which in range(most):
            ends[which] = end
            end += sizes[tile, which]
        ends[most] = common
        for i in range(count):
            if rows[tile, i] >= first:
                which = min(rows[tile, i] - first, most)
                places[ends[which]] = tile * count + i
                ends[which] += 1
        common = ends[most]


def _pad(values: Ints, places: Ints, numbers: Ints, lines: Ints) -> None:
    """Values at `places`, the first numbers[0] in line 0 of `lines` (tiles, n), and so on."""
    i = 0
    for tile in range(len(numbers)):
        for k in range(numbers[tile]):
            lines[tile, k] = values[places[i]]
            i += 1


def _unpad(lines: Ints, places: Ints, numbers: Ints, values: Ints) -> None:
    """Invert `_pad`."""
    i = 0
    for tile in range(len(numbers)):
        for k in range(numbers[tile]):
            values[places[i]] = lines[tile, k]
            i += 1


write, read, find, sort = compiled(_write), compiled(_read), compiled(_find), compiled(_sort)
pad, unpad = compiled(_pad), compiled(_unpad)
