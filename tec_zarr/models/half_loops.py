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

finish: Any = tile_here.finish
pack: Any = tile_here.pack
less_pack: Any = tile_here.less_pack
product: Any = tile_here.product
less_product: Any = tile_here.less_product

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


def mixed(numbers: Numbers) -> Numbers:
    """What is mixed of panels of weights, four for each pair: (pairs, 4, k / 4, columns, 2).

    `numbers` are those of `product_loops.Panels`, an even number of panels of 13 bits and a sign at
    most, as int16 holds what is mixed of four then.
    """
    count, middle = len(numbers) // 2, numbers.shape[1] // 2
    e, g = numbers[:count, :middle], numbers[:count, middle:]
    f, h = numbers[count:, :middle], numbers[count:, middle:]
    return np.stack([e - f + h, f - e, h - f, f + g - e - h], 1)


def _multiply(
    numbers: Numbers, unit: Numbers, weights: Numbers, mixed: Numbers, units: Numbers,
    bias: Numbers, out: Numbers,
) -> None:  # fmt: skip
    """Rows of float32: products of `numbers` (m, k) and panels, in their units, plus the bias.

    Weights are those of `product_loops.Panels`; k is a multiple of 2 * GROUP.
    """
    (m, k), n, half = numbers.shape, out.shape[1], (len(numbers) + 1) // 2
    tiles = -(-half // ROWS)
    packed = np.empty((STAGES + 1, half * k // 2), np.int16)
    lay(numbers, packed)
    sums = np.zeros((2 + 3 * tiles, ROWS * COLUMNS), np.int32)
    for panel in range(len(mixed)):
        for stage in range(STAGES):
            begin, end = (half, m) if LOWER[stage] else (0, half)
            column = panel * COLUMNS + RIGHT[stage] * (n // 2)
            columns = units.ctypes.data + 4 * column, bias.ctypes.data + 4 * column
            to = out.ctypes.data + 4 * (n * begin + column), 4 * n
            later = (panel + 1, 0) if stage == STAGES - 1 else (panel, stage + 1)
            far = place(weights, mixed, panel, stage), place(weights, mixed, *later)
            go_through(stage, packed[stage], k // 2, far, sums, unit[begin:end], columns, to)


def _place_of(weights: Numbers, mixed: Numbers, panel: int, stage: int) -> int:
    """The address of what a stage is multiplied by."""
    size, own = weights[0].size, WEIGHT[stage]  # a panel is two halves, of `size` bytes each
    if own < 0:
        return mixed.ctypes.data + size * (4 * panel - 1 - own)
    return weights.ctypes.data + size * (2 * panel + own % 2) + own // 2 * weights.size


def _go_through(
    stage: int, packed: Numbers, inputs: int, weights: tuple[int, int], sums: Numbers,
    unit: Numbers, columns: tuple[int, int], to: tuple[int, int],
) -> None:  # fmt: skip
    """One product of all tiles; the second one of the weights is fetched from memory."""
    each = ROWS * COLUMNS
    tiles, zero, near = (len(sums) - 2) // 3, sums.ctypes.data, packed.ctypes.data
    far, fetch = weights
    turns = inputs // GROUP
    step = 2 * GROUP * COLUMNS // tiles
    first, whole = 0, whole_of(len(packed) // inputs, tiles)
    for tile in range(tiles):
        kept = 12 * each * tile
        before = zero + 4 * each * BEFORE[stage] + (kept if BEFORE[stage] >= X else 0)
        after = zero + 4 * each * AFTER[stage] + (kept if AFTER[stage] >= X else 0)
        taken = far, turns, fetch + turns * step * tile, step
        if tile < whole:
            product((near + 2 * first * inputs,), taken, (before, after))
        else:
            less_product((near + 2 * first * inputs,), taken, (before, after))
        if AFTER[stage] == Z:
            x = X + 3 * tile
            for k in range(each):
                sums[NOW, k] = sums[x + 2, k] - sums[x, k] + sums[x + 1, k]
        height = ROWS if tile < whole else ROWS - 1
        left = len(unit) - first
        if DONE[stage] and left > 0:
            units = unit.ctypes.data + 4 * first, columns[0], columns[1]
            rows = to[0] + to[1] * first, to[1], min(height, left) - 1
            finish((zero + 4 * each * NOW,), units, rows)
        first += height


def _lay_halves(numbers: Numbers, packed: Numbers) -> None:
    """Pack halves of rows and of inputs and set what is mixed of them."""
    m, k = numbers.shape
    half, inputs = (m + 1) // 2, k // 2
    tiles = -(-half // ROWS)
    whole = whole_of(half, tiles)
    for quarter in range(4):
        low, first = half if quarter > 1 else 0, 0
        own = packed[ROW[quarter]].ctypes.data
        for tile in range(tiles):
            begin = min(low + first, m - 1)  # the last one comes again where there are none
            near = numbers.ctypes.data + 2 * (k * begin + quarter % 2 * inputs), 2 * k
            to = own + 2 * first * inputs, inputs // GROUP
            if tile < whole:
                pack((near[0], near[1], m - 1 - begin), to)
            else:
                less_pack((near[0], near[1], m - 1 - begin), to)
            first += ROWS if tile < whole else ROWS - 1
    mix_rows(packed)


def _whole_of(half: int, tiles: int) -> int:
    """Tiles that are whole; the others are a row less, so that no row is taken in vain."""
    return half - tiles * (ROWS - 1)


def _mix(own: Numbers) -> None:
    """Set what the products take, of what is packed."""
    a, b, c, d = own[0], own[1], own[7], own[6]
    for k in range(own.shape[1]):
        own[2, k] = c[k] + d[k] - a[k]
        own[3, k] = c[k] + d[k]
        own[4, k] = a[k] + b[k] - c[k] - d[k]
        own[5, k] = a[k] - c[k]


lay, mix_rows = compiled(_lay_halves) or _lay_halves, compiled(_mix) or _mix
go_through, place = compiled(_go_through) or _go_through, compiled(_place_of) or _place_of
whole_of = compiled(_whole_of) or _whole_of
multiply: Any = compiled(_multiply)
