"""Products of int16 matrices in machine code, exact; where it is None, float64 is exact as well."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.compiled import compiled
from tec_zarr.models import half_loops, tile_here
from tec_zarr.models.half_loops import BOTH, PART
from tec_zarr.models.tile_here import COLUMNS, GROUP, ROWS, SHORT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

conclude: Any = tile_here.conclude
product: Any = tile_here.product
short_product: Any = tile_here.short_product
pack: Any = tile_here.pack
short_pack: Any = tile_here.short_pack
multiply_halves: Any = half_loops.multiply

MANY = 128
"""Rows from which on halves are mixed: before, it takes more time than a product."""


class Panels(NamedTuple):
    """Weights (n, k) as `multiply` takes them; zeros make n a multiple of the columns."""

    numbers: Numbers
    """Integers, int16, (panels, k / 2, columns, 2)."""

    unit: Numbers
    """Of each column, float32."""

    bias: Numbers
    """Of each column, float32."""

    length: float
    """Of the longest BOTH inputs of a column, as a vector; infinite if halves cannot be mixed."""


def panels(numbers: Numbers, unit: Numbers, bias: Numbers) -> Panels:
    """Panels of int16 (n, k), their units and biases (n,), float32; k is a multiple of GROUP."""
    n, k = numbers.shape
    length = math.inf
    if n % (2 * COLUMNS) == k % BOTH == 0 and half_loops.mixable(numbers):
        length = float(np.linalg.norm(numbers.reshape(n, -1, BOTH).astype(float), axis=2).max())
    more = (0, -n % COLUMNS)
    parts = np.pad(numbers, (more, (0, 0))).reshape(-1, COLUMNS, k // 2, 2)
    parts = np.ascontiguousarray(parts.transpose(0, 2, 1, 3))
    return Panels(parts, np.pad(unit, more), np.pad(bias, more), length)


def _multiply(numbers: Numbers, unit: Numbers, panels: Panels, out: Numbers) -> None:
    """Rows of float32: products of `numbers` (m, k) and panels, in their units, plus the bias.

    Numbers have 14 bits.
    """
    few = len(numbers) < MANY or panels.length == np.inf
    if not few and multiply_halves(
        numbers, unit, panels.numbers, panels.length, panels.unit, panels.bias, out
    ):
        return
    (m, k), n, each = numbers.shape, out.shape[1], ROWS * COLUMNS
    height = padded(m)
    packed = np.empty(height * k, np.int16)
    lay(numbers, height, packed)
    sums, earlier = np.zeros((2, each), np.int32), np.empty((1 + -(-m // SHORT), each))
    earlier[0] = 0
    wide = np.empty((m if n % COLUMNS else 0, COLUMNS), np.float32)
    for panel in range(len(panels.numbers)):
        column = COLUMNS * panel
        to = out.ctypes.data + 4 * column, 4 * n
        to = to if column + COLUMNS <= n else (wide.ctypes.data, 4 * COLUMNS)
        columns = panels.unit.ctypes.data + 4 * column, panels.bias.ctypes.data + 4 * column
        for begin in range(0, k, PART):
            width = min(PART, k - begin)
            own = packed[height * begin : height * (begin + width)]
            weights = panels.numbers[panel, begin // 2 : (begin + width) // 2]
            place = begin // PART, -(-k // PART)
            multiply_part(own, weights, place, sums, earlier, unit, columns, to)
    if n % COLUMNS:
        out[:, n - n % COLUMNS :] = wide[:, : n % COLUMNS]


def _multiply_part(
    packed: Numbers, weights: Numbers, place: tuple[int, int], sums: Numbers, earlier: Numbers,
    unit: Numbers, columns: tuple[int, int], to: tuple[int, int],
) -> None:  # fmt: skip
    """Add products of a part of the inputs, or set rows with those of the last one."""
    m, width = len(unit), 2 * len(weights)
    height = len(packed) // width
    far, near, size = weights.ctypes.data, packed.ctypes.data, 2 * weights.size
    zero, now, first, tile = sums.ctypes.data, sums[1].ctypes.data, 0, 1
    while first < m:
        rows = rows_of(m - first)
        # While weights are used, tile by tile, those behind them come from memory.
        fetch = far + size + size * first // height, 2 * GROUP * COLUMNS * rows // height
        taken, own = (far, width // GROUP, fetch[0], fetch[1]), (near + 2 * first * width,)
        if rows == SHORT:
            short_product(own, taken, (zero, now))
        else:
            product(own, taken, (zero, now))
        units = unit.ctypes.data + 4 * first, columns[0], columns[1]
        rows_to = to[0] + to[1] * first, to[1], min(rows, m - first) - 1
        before = now, earlier[tile].ctypes.data, earlier.ctypes.data
        conclude(before, place[0], place[1], units, rows_to)
        first += rows
        tile += 1


def _lay_rows(numbers: Numbers, height: int, packed: Numbers) -> None:
    """Pack rows, part by part; they fill up to so many."""
    m, k = numbers.shape
    for begin in range(0, k, PART):
        width, first = min(PART, k - begin), 0
        while first < m:
            rows = rows_of(m - first)
            near = numbers.ctypes.data + 2 * (k * first + begin), 2 * k, m - first - 1
            to = packed.ctypes.data + 2 * (height * begin + first * width), width // GROUP
            if rows == SHORT:
                short_pack(near, to)
            else:
                pack(near, to)
            first += rows


def _rows_of(left: int) -> int:
    """Rows that are taken next, of those that are left."""
    return SHORT if left <= SHORT or ROWS < left <= 2 * SHORT else ROWS


def _padded_to(m: int) -> int:
    """Rows that are taken in all."""
    height = 0
    while height < m:
        height += rows_of(m - height)
    return height


rows_of, padded = compiled(_rows_of) or _rows_of, compiled(_padded_to) or _padded_to
lay, multiply_part = compiled(_lay_rows) or _lay_rows, compiled(_multiply_part) or _multiply_part
multiply = compiled(_multiply)
