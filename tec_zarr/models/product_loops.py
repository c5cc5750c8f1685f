"""Products of int16 matrices in machine code, exact; where it is None, float64 is exact as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

PART = 384
"""Inputs whose products are added up in int32; sums of these are float64."""

SHORT = 4
"""Rows that are taken together where more would be in vain."""


class Panels(NamedTuple):
    """Weights (n, k) as `multiply` takes them; zeros make n a multiple of the columns."""

    numbers: Numbers
    """Integers, int16, (panels, k / 2, columns, 2)."""

    unit: Numbers
    """Of each column, float32."""

    bias: Numbers
    """Of each column, float32."""


def panels(numbers: Numbers, unit: Numbers, bias: Numbers) -> Panels:
    """Panels of int16 (n, k), their units and biases (n,), float32; k is even."""
    n, k = numbers.shape
    more = (0, -n % COLUMNS)
    parts = np.pad(numbers, (more, (0, 0))).reshape(-1, COLUMNS, k // 2, 2)
    parts = np.ascontiguousarray(parts.transpose(0, 2, 1, 3))
    return Panels(parts, np.pad(unit, more), np.pad(bias, more))


def _multiply(numbers: Numbers, unit: Numbers, panels: Panels, out: Numbers) -> None:
    """Rows of float32: products of `numbers` (m, k) and panels, in their units, plus the bias."""
    m, (count, pairs, _, _), n = len(numbers), panels.numbers.shape, out.shape[1]
    room, last = np.empty((ROWS, COLUMNS)), np.empty((ROWS, COLUMNS), np.float32)
    # Addresses are reckoned: arrays of parts of arrays take time to make, and tiles are many.
    row_at, unit_at = numbers.ctypes.data, unit.ctypes.data
    panel_at, out_at = panels.numbers.ctypes.data, out.ctypes.data
    column_at, bias_at = panels.unit.ctypes.data, panels.bias.ctypes.data
    # While a panel is used, tile by tile, the one behind it comes from memory.
    size = 4 * pairs * COLUMNS
    step = 4 * TURN * COLUMNS * min(ROWS, m) // m
    for panel in range(count):
        # Here, not above: numba frees an array behind the last line that names it.
        room_at, last_at = room.ctypes.data, last.ctypes.data
        begin = panel * COLUMNS
        address, offset = panel_at + size * panel, 4 * begin
        whole, first = begin + COLUMNS <= n, 0
        while first < m:
            left = m - first
            near = row_at + 4 * pairs * first, 4 * pairs, left - 1
            far = address, pairs, address + size + size * first // m, step
            own = unit_at + 4 * first, column_at + offset, bias_at + offset, room_at
            to = (out_at + 4 * n * first + offset, 4 * n) if whole else (last_at, 4 * COLUMNS)
            if left <= SHORT or ROWS < left <= 2 * SHORT:
                done = SHORT
                short_product(near, far, own, to)
            else:
                done = ROWS
                product(near, far, own, to)
            for row in range(0 if whole else min(done, left)):
                for k in range(n - begin):
                    out[first + row, begin + k] = last[row, k]
            first += done


multiply = compiled(_multiply)
ROWS, COLUMNS, TURN = 0, 0, 0
product: Any = None
short_product: Any = None
product_of_few: Any = None
if multiply is not None:
    from tec_zarr.models import tile

    HOST = tile.suitable()
    ROWS, COLUMNS, TURN = HOST.rows, HOST.columns, HOST.turn
    product, product_of_few = tile.product(HOST, PART), tile.product_of_few(HOST)
    short_product = tile.product(HOST._replace(rows=SHORT), PART)
