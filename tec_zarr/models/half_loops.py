"""Products of many rows of int16 by halves, in machine code: seven do for eight (Strassen 1969).

    rows  a b    weights  e f    found  ae + bg  af + bh
          c d             g h           ce + dg  cf + dh

In Winograd's form, most sums go on where another one ends:

    1  a e                          -> x
    2  b g                      + x -> ae + bg
    3  (c + d - a) (e - f + h)  + x -> x
    4  (c + d) (f - e)          + x -> y
    5  (a + b - c - d) h        + y -> af + bh
    6  (a - c) (h - f)          + x -> z, and z - x + y -> cf + dh
    7  d (f + g - e - h)        + z -> ce + dg

Sums are taken modulo 2**32, which does no harm to what fits in int32 in the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled
from tec_zarr.models import tile_here
from tec_zarr.models.tile_here import COLUMNS, GROUP, ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

conclude: Any = tile_here.conclude
pack: Any = tile_here.pack
less_pack: Any = tile_here.less_pack
product: Any = tile_here.product
less_product: Any = tile_here.less_product

PART = 384
"""Inputs whose products are added up in int32, whatever they are; sums of these are float64."""

BOTH = 2 * PART
"""Inputs that are taken by halves and added up in int32, where rows are short enough."""

STAGES = 7
"""Products, one after the other."""

ZERO, NOW, X, Y, Z = range(5)
"""Sums: none, those of this tile, and those that are kept of each tile."""

BEFORE, AFTER = (ZERO, X, X, X, Y, X, Z), (X, NOW, X, Y, NOW, Z, NOW)
"""The sums that each product is added to, and those that they become."""

DONE = (False, True, False, False, True, True, True)
"""Whether rows are found with it."""

LOWER, RIGHT = (0, 0, 0, 0, 0, 1, 1), (0, 0, 0, 0, 1, 1, 0)
"""Where they are, if so."""

ROW = (0, 1, 7, 6)
"""The products that take a, b, c and d; the eighth is none, c is in sums only."""

WEIGHT = (0, 1, -1, -2, 3, -3, -4)
"""What rows are multiplied by: e, g, f or h, or below zero what is mixed of them."""


def mixable(numbers: Numbers) -> bool:
    """Whether int16 holds what is mixed of weights (n, k)."""
    halves = numbers.reshape(2, len(numbers) // 2, -1, 2, PART).astype(np.int32)
    e, f, g, h = (halves[right, :, :, lower] for lower in (0, 1) for right in (0, 1))
    mixed = e - f + h, f - e, h - f, f + g - e - h
    return bool(max(np.abs(own).max() for own in mixed) < 2**15)


def _multiply(
    numbers: Numbers, unit: Numbers, weights: Numbers, length: float, units: Numbers, bias: Numbers,
    out: Numbers,
) -> bool:  # fmt: skip
    """Rows of float32: products of `numbers` (m, k) and panels, in their units, plus the bias.

    Numbers have 14 bits, as int16 holds what is mixed of four then. The weights are those of
    `product_loops.Panels`, `length` is that of the longest BOTH inputs of a column. Returns False,
    with nothing done, where a row may be too long.
    """
    (m, k), n, half = numbers.shape, out.shape[1], (len(numbers) + 1) // 2
    parts, count, tiles = k // BOTH, n // (2 * COLUMNS), -(-half // ROWS)
    packed = np.empty((parts, STAGES + 1, half * PART), np.int16)
    if not lay(numbers, length, packed):
        return False
    mixed = np.empty((4, PART * COLUMNS), np.int16)
    sums = np.zeros((2 + 3 * tiles, ROWS * COLUMNS), np.int32)
    earlier = np.empty((4, 1 + (tiles if parts > 1 else 0), ROWS * COLUMNS))
    earlier[:, 0] = 0
    for number in range(count * parts):
        panel, part = number // parts, number % parts
        mix_weights(weights, panel, part, mixed)
        for stage in range(STAGES):
            begin, end = (half, m) if LOWER[stage] else (0, half)
            column = panel * COLUMNS + RIGHT[stage] * (n // 2)
            columns = units.ctypes.data + 4 * column, bias.ctypes.data + 4 * column
            to = out.ctypes.data + 4 * (n * begin + column), 4 * n
            go_through(
                stage, packed[part, stage], places(weights, number, stage, mixed), sums,
                earlier[2 * LOWER[stage] + RIGHT[stage]], (part, parts), unit[begin:end], columns,
                to,
            )  # fmt: skip
    return True


def _places_of(weights: Numbers, number: int, stage: int, mixed: Numbers) -> tuple[int, int, int]:
    """What a stage is multiplied by, what it fetches from memory, and how much: addresses, bytes.

    The last of them fetch what comes next, a quarter each.
    """
    size, right = 2 * PART * COLUMNS, weights.size  # of a quarter, from left panels to right ones
    first, own, quarter = weights.ctypes.data + 2 * size * number, WEIGHT[stage], stage - 3
    far = first + own // 2 * right + own % 2 * size
    far = mixed[-1 - own].ctypes.data if own < 0 else far
    if quarter < 0:
        return far, far, 0
    return far, first + 2 * size + quarter // 2 * right + quarter % 2 * size, size


def _go_through(
    stage: int, packed: Numbers, weights: tuple[int, int, int], sums: Numbers, earlier: Numbers,
    place: tuple[int, int], unit: Numbers, columns: tuple[int, int], to: tuple[int, int],
) -> None:  # fmt: skip
    """One product of all tiles."""
    each = ROWS * COLUMNS
    tiles, zero, near = (len(sums) - 2) // 3, sums.ctypes.data, packed.ctypes.data
    far, fetch, size = weights
    turns = PART // GROUP
    step = size // turns // tiles
    first, whole = 0, whole_of(len(packed) // PART, tiles)
    for tile in range(tiles):
        kept = 12 * each * tile
        before = zero + 4 * each * BEFORE[stage] + (kept if BEFORE[stage] >= X else 0)
        after = zero + 4 * each * AFTER[stage] + (kept if AFTER[stage] >= X else 0)
        taken = far, turns, fetch + turns * step * tile, step
        if tile < whole:
            product((near + 2 * first * PART,), taken, (before, after))
        else:
            less_product((near + 2 * first * PART,), taken, (before, after))
        if AFTER[stage] == Z:
            x = X + 3 * tile
            for k in range(each):
                sums[NOW, k] = sums[x + 2, k] - sums[x, k] + sums[x + 1, k]
        height = ROWS if tile < whole else ROWS - 1
        left = len(unit) - first
        if DONE[stage] and left > 0:
            units = unit.ctypes.data + 4 * first, columns[0], columns[1]
            rows = to[0] + to[1] * first, to[1], min(height, left) - 1
            room = earlier.ctypes.data + (8 * each * (1 + tile) if place[1] > 1 else 0)
            now = zero + 4 * each * NOW, room, earlier.ctypes.data
            conclude(now, place[0], place[1], units, rows)
        first += height


def _lay_halves(numbers: Numbers, length: float, packed: Numbers) -> bool:
    """Pack halves of rows and of inputs and set what is mixed of them, unless a row is too long."""
    m, k = numbers.shape
    half = (m + 1) // 2
    tiles = -(-half // ROWS)
    whole = whole_of(half, tiles)
    for part in range(len(packed)):
        at = part * BOTH
        for row in range(m):
            if not fits(numbers[row, at : at + BOTH], length):
                return False
        for quarter in range(4):
            low, first = half if quarter > 1 else 0, 0
            own = packed[part, ROW[quarter]].ctypes.data
            for tile in range(tiles):
                begin = min(low + first, m - 1)  # the last one comes again where there are none
                near = numbers.ctypes.data + 2 * (k * begin + at + quarter % 2 * PART), 2 * k
                to = own + 2 * first * PART, PART // GROUP
                if tile < whole:
                    pack((near[0], near[1], m - 1 - begin), to)
                else:
                    less_pack((near[0], near[1], m - 1 - begin), to)
                first += ROWS if tile < whole else ROWS - 1
        mix_rows(packed[part])
    return True


def _whole_of(half: int, tiles: int) -> int:
    """Tiles that are whole; the others are a row less, so that no row is taken in vain."""
    return half - tiles * (ROWS - 1)


def _fits_in(row: Numbers, length: float) -> bool:
    """Whether int32 holds sums of its products with weights, by Cauchy and Schwarz.

    Of squares that are added up, what is below 2**10 is taken for as much.
    """
    total = np.int32(0)
    for k in range(len(row)):
        one = np.int32(row[k])
        total = np.int32(total + np.int32(np.int32(one * one) >> np.int32(10)))
    return bool(2.0**10 * (total + len(row)) * length**2 < 2.0**62 - 2.0**32)


def _mix(own: Numbers) -> None:
    """Set what the products take, of what is packed."""
    a, b, c, d = own[0], own[1], own[7], own[6]
    for k in range(own.shape[1]):
        own[2, k] = c[k] + d[k] - a[k]
        own[3, k] = c[k] + d[k]
        own[4, k] = a[k] + b[k] - c[k] - d[k]
        own[5, k] = a[k] - c[k]


def _mix_of(weights: Numbers, panel: int, part: int, mixed: Numbers) -> None:
    """Set what is mixed of weights."""
    begin, other = BOTH // 2 * part, len(weights) // 2 + panel
    middle, end = begin + PART // 2, begin + BOTH // 2
    e, f = weights[panel, begin:middle].reshape(-1), weights[other, begin:middle].reshape(-1)
    g, h = weights[panel, middle:end].reshape(-1), weights[other, middle:end].reshape(-1)
    for k in range(len(e)):
        mixed[0, k] = e[k] - f[k] + h[k]
        mixed[1, k] = f[k] - e[k]
        mixed[2, k] = h[k] - f[k]
        mixed[3, k] = f[k] + g[k] - e[k] - h[k]


fits, lay = compiled(_fits_in) or _fits_in, compiled(_lay_halves) or _lay_halves
mix_rows, mix_weights = compiled(_mix) or _mix, compiled(_mix_of) or _mix_of
go_through, places = compiled(_go_through) or _go_through, compiled(_places_of) or _places_of
whole_of = compiled(_whole_of) or _whole_of
multiply: Any = compiled(_multiply)
