"""Products of int16 matrices in machine code, exact; where it is None, float64 is exact as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.compiled import compiled
from tec_zarr.models import half_loops, tile_here
from tec_zarr.models.tile_here import COLUMNS, GROUP, ROWS, SHORT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

finish: Any = tile_here.finish
product: Any = tile_here.product
short_product: Any = tile_here.short_product
rows_of: Any = tile_here.rows_of
pack: Any = tile_here.pack
short_pack: Any = tile_here.short_pack
multiply_halves: Any = half_loops.multiply

MANY = 128
"""Rows from which on halves are mixed: before, it takes more time than a product."""


class Panels(NamedTuple):
    """Weights (n, k) as `multiply` takes them; zeros make n a multiple of the columns."""

    numbers: Numbers
    """Integers, int16, (panels, k / 2, columns, 2)."""

    mixed: Numbers
    """What products by halves take, `half_loops.mixed`; nothing if panels have no halves."""

    unit: Numbers
    """Of each column, float32."""

    bias: Numbers
    """Of each column, float32."""


def panels(numbers: Numbers, unit: Numbers, bias: Numbers) -> Panels:
    """Panels of int16 (n, k), their units and biases (n,), float32; k is a multiple of GROUP."""
    n, k = numbers.shape
    more = (0, -n % COLUMNS)
    parts = np.pad(numbers, (more, (0, 0))).reshape(-1, COLUMNS, k // 2, 2)
    parts = np.ascontiguousarray(parts.transpose(0, 2, 1, 3))
    whole = n % (2 * COLUMNS) == k % (2 * GROUP) == 0
    mixed = half_loops.mixed(parts if whole else parts[:0])
    return Panels(parts, mixed, np.pad(unit, more), np.pad(bias, more))


def _multiply(numbers: Numbers, unit: Numbers, panels: Panels, out: Numbers) -> None:
    """Rows of float32: products of `numbers` (m, k) and panels, in their units, plus the bias.

    All sums of products fit in int32, and int16 holds what is mixed of four numbers.
    """
    if len(numbers) >= MANY and len(panels.mixed):
        multiply_halves(numbers, unit, panels.numbers, panels.mixed, panels.unit, panels.bias, out)
        return
    (m, k), n = numbers.shape, out.shape[1]
    height = padded(m)
    packed = np.empty(height * k, np.int16)
    lay(numbers, packed)
    sums = np.zeros((2, ROWS * COLUMNS), np.int32)
    wide = np.empty((m if n % COLUMNS else 0, COLUMNS), np.float32)
    for panel in range(len(panels.numbers)):
        column = COLUMNS * panel
        to = out.ctypes.data + 4 * column, 4 * n
        to = to if column + COLUMNS <= n else (wide.ctypes.data, 4 * COLUMNS)
        columns = panels.unit.ctypes.data + 4 * column, panels.bias.ctypes.data + 4 * column
        multiply_panel(packed, panels.numbers[panel], sums, unit, columns, to)
    if n % COLUMNS:
        out[:, n - n % COLUMNS :] = wide[:, : n % COLUMNS]


def _multiply_by(
    packed: Numbers, weights: Numbers, sums: Numbers, unit: Numbers, columns: tuple[int, int],
    to: tuple[int, int],
) -> None:  # fmt: skip
    """Set columns of rows to products with a panel."""
    m, k = len(unit), 2 * len(weights)
    height = len(packed) // k
    far, near, size = weights.ctypes.data, packed.ctypes.data, 2 * weights.size
    zero, now, first = sums.ctypes.data, sums[1].ctypes.data, 0
    while first < m:
        rows = rows_of(m - first)
        # While weights are used, tile by tile, those behind them come from memory.
        fetch = far + size + size * first // height, 2 * GROUP * COLUMNS * rows // height
        taken, own = (far, k // GROUP, fetch[0], fetch[1]), (near + 2 * first * k,)
        if rows == SHORT:
            short_product(own, taken, (zero, now))
        else:
            product(own, taken, (zero, now))
        units = unit.ctypes.data + 4 * first, columns[0], columns[1]
        finish((now,), units, (to[0] + to[1] * first, to[1], min(rows, m - first) - 1))
        first += rows


def _lay_rows(numbers: Numbers, packed: Numbers) -> None:
    """Pack rows."""
    (m, k), first = numbers.shape, 0
    while first < m:
        rows = rows_of(m - first)
        near = numbers.ctypes.data + 2 * k * first, 2 * k, m - first - 1
        to = packed.ctypes.data + 2 * first * k, k // GROUP
        if rows == SHORT:
            short_pack(near, to)
        else:
            pack(near, to)
        first += rows


def _padded_to(m: int) -> int:
    """Rows that are taken in all."""
    height = 0
    while height < m:
        height += rows_of(m - height)
    return height


padded = compiled(_padded_to) or _padded_to
lay, multiply_panel = compiled(_lay_rows) or _lay_rows, compiled(_multiply_by) or _multiply_by
multiply = compiled(_multiply)
