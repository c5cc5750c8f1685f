"""Loops over symbols, to be compiled. What they do is told where NumPy does it, see `lanes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[Any]


def _write(
    states: Ints, following: Ints, words: Ints, frequencies: Ints, starts: Ints,
    places: Ints, lanes: Ints, counts: Ints,
) -> None:  # fmt: skip
    """Code the entries at `places` (n,), each tile's last one first; see `lanes.Writer`.

    A tile has `counts` (tiles,) of them, and its lanes begin at `lanes` (tiles + 1,).
    """
    begin = 0
    for tile in range(len(counts)):
        first, last = lanes[tile], lanes[tile + 1] - 1
        end = begin + counts[tile]
        lane = first + (counts[tile] - 1) % max(1, last + 1 - first)
        for i in range(end - 1, begin - 1, -1):
            state = states[lane]
            place = places[i]
            frequency = frequencies[place]
            if state >= frequency << 32:
                following[lane] -= 1
                words[following[lane]] = state & 0xFFFF
                state >>= 16
            quotient = np.int64(np.uint64(state) // np.uint64(frequency))  # signed takes longer
            states[lane] = state + quotient * (65536 - frequency) + starts[place]
            lane = lane - 1 if lane > first else last
        begin = end


def _read(
    states: Ints, following: Ints, ends: Ints, words: Ints,
    holders: Ints, bits: int, nexts: Ints, frequencies: Ints, starts: Ints,
    rows: Ints, places: Ints, lanes: Ints, counts: Ints,
) -> None:  # fmt: skip
    """Find `places` (n,) of entries, given their rows; see `lanes.Reader`, and `_write`.

    For `holders` of buckets of 2**bits slots and `nexts` see `search.Buckets`.
    """
    i = 0
    for tile in range(len(counts)):
        first, end = lanes[tile], i + counts[tile]
        while i < end:
            for lane in range(first, min(lanes[tile + 1], first + end - i)):
                state = states[lane]
                slot = state & 0xFFFF
                place = holders[(rows[i] << 16 - bits) + (slot >> bits)]
                while slot - starts[place] >= frequencies[place]:
                    place = nexts[place]
                state = (state >> 16) * frequencies[place] + slot - starts[place]
                if state < 1 << 32 and following[lane] < ends[lane]:
                    state = state << 16 | words[following[lane]]
                    following[lane] += 1
                states[lane] = state
                places[i] = place
                i += 1


def _choose(rows: Ints, certain: Ints, places: Ints, ends: Ints) -> None:
    """Set `places` of rows (tiles, n) that are not certain, and how many up to each tile's end."""
    found = 0
    for tile in range(len(rows)):
        for i in range(rows.shape[1]):
            places[found] = tile * rows.shape[1] + i
            found += not certain[rows[tile, i]]
        ends[tile] = found


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


def _part(rows: Ints, symbols: Ints, first: int, sizes: Ints, common: Ints, found: Ints) -> int:
    """Sort symbols by list, see `models.sparse`, and take down those that need more than that.

    `rows` are (tiles, n), `sizes` (tiles, lists) of zeros. Sets the places of symbols in the last
    list to `common`. Of symbols in other lists, if there are symbols, those that are not zero go to
    `found` (3, m), in the order of their places: their list, the zeros before them, their place.
    Returns how many.
    """
    tiles, count = rows.shape
    most = sizes.shape[1] - 1
    listed = hits = 0
    before = np.empty(most, np.int64)
    for tile in range(tiles):
        before[:] = 0
        for i in range(count):
            which = rows[tile, i] - first
            if which >= most:
                common[listed] = tile * count + i
                listed += 1
                sizes[tile, most] += 1
            elif which >= 0:
                sizes[tile, which] += 1
                if symbols.size and symbols[tile, i]:
                    found[0, hits] = tile * most + which
                    found[1, hits] = sizes[tile, which] - before[which] - 1
                    found[2, hits] = tile * count + i
                    before[which] = sizes[tile, which]
                    hits += 1
    return hits


def _place(rows: Ints, first: int, numbers: Ints, runs: Ints, values: Ints, known: Ints) -> bool:
    """Put `values` (m,) among the symbols `known` (tiles, n), each after a run of zeros (m,).

    `numbers` (tiles, lists) are how many each list has, list after list. Returns whether all have a
    place; see `models.sparse`.
    """
    lists = numbers.shape[1]
    end = 0
    following, left = np.empty((2, lists), np.int64)
    ends = np.empty(lists, np.int64)
    for tile in range(len(rows)):
        for which in range(lists):
            following[which], end = end, end + numbers[tile, which]
            ends[which] = end
            left[which] = runs[following[which]] if numbers[tile, which] else -1
        for i in range(rows.shape[1]):
            which = rows[tile, i] - first
            if 0 <= which < lists:
                if left[which] == 0:
                    known[tile, i] = values[following[which]]
                    following[which] += 1
                    left[which] = runs[following[which]] if following[which] < ends[which] else -1
                else:
                    left[which] -= 1
        if (following < ends).any():
            return False
    return True


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


write, read, find = compiled(_write), compiled(_read), compiled(_find)
choose, part, place = compiled(_choose), compiled(_part), compiled(_place)
pad, unpad = compiled(_pad), compiled(_unpad)
