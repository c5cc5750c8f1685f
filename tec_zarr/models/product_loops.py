"""Products of int16 matrices in machine code, exact; where it is None, float64 is exact as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]
    Rows = tuple[int, int, int]
    Panel = tuple[int, int, int, int]
    Units = tuple[int, int, int, int]

PART = 384
"""Inputs whose products are added up in int32; sums of these are float64."""

SHORT = 4
"""Rows that are taken together where more would be in vain."""


def columns_of_panels() -> int:
    """What suits this processor."""
    return tile.columns()


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
    (n, k), columns = numbers.shape, columns_of_panels()
    more = (0, -n % columns)
    parts = np.pad(numbers, (more, (0, 0))).reshape(-1, columns, k // 2, 2)
    parts = np.ascontiguousarray(parts.transpose(0, 2, 1, 3))
    return Panels(parts, np.pad(unit, more), np.pad(bias, more))


def _multiply(
    numbers: Numbers, unit: Numbers,
    weights: Numbers, weight_unit: Numbers, bias: Numbers, out: Numbers,
) -> None:  # fmt: skip
    """Rows of float32: products of `numbers` (m, k) and panels, in their units, plus `bias`."""
    (m, k), (_, pairs, columns, _), n = numbers.shape, weights.shape, out.shape[1]
    rows = rows_of(columns)
    room, last = np.empty((rows, columns)), np.empty((rows, columns), np.float32)
    # Addresses are reckoned: arrays of parts of arrays take time to make, and tiles are many.
    row_at, unit_at, room_at = numbers.ctypes.data, unit.ctypes.data, room.ctypes.data
    panel_at, column_at, bias_at = weights.ctypes.data, weight_unit.ctypes.data, bias.ctypes.data
    out_at, last_at = out.ctypes.data, last.ctypes.data
    # While a panel is used, tile by tile, the one behind it comes from memory.
    size = 4 * pairs * columns
    step = turn_of(columns) * 4 * columns * min(rows, m) // m
    for panel in range(len(weights)):
        begin = panel * columns
        address = panel_at + size * panel
        whole, offset = begin + columns <= n, 4 * begin
        first = 0
        while first < m:
            left = m - first
            short = left <= SHORT or rows < left <= 2 * SHORT
            far = address, pairs, address + size + size * first // m, step
            near = row_at + 2 * k * first, 2 * k, left - 1
            own = unit_at + 4 * first, column_at + offset, bias_at + offset, room_at
            if whole:
                to = out_at + 4 * n * first + offset, 4 * n
                product_of(columns, short, near, far, own, to)
            else:
                product_of(columns, short, near, far, own, (last_at, 4 * columns))
                for row in range(min(rows, left)):
                    out[first + row, begin:] = last[row, : n - begin]
            first += SHORT if short else rows


def _rows_of(columns: int) -> int:
    """How many rows are taken together, where panels have so many columns."""
    return WIDE_ROWS if columns == WIDE_COLUMNS else NARROW_ROWS


def _turn_of(columns: int) -> int:
    """How many pairs of inputs a tile takes in a turn."""
    return WIDE_TURN if columns == WIDE_COLUMNS else NARROW_TURN


def _tile_of(columns: int, rows: Rows, panel: tuple[int, int], sums: int) -> None:
    """See `tile.tile`."""
    if columns == WIDE_COLUMNS:
        wide(rows, panel, (sums,))
    else:
        narrow(rows, panel, (sums,))


def _product_of(
    columns: int, short: bool, rows: Rows, panel: Panel, of: Units, out: tuple[int, int]
) -> None:
    """See `tile.product`."""
    if columns == WIDE_COLUMNS:
        if short:
            wide_short(rows, panel, of, out)
        else:
            wide_product(rows, panel, of, out)
    elif short:
        narrow_short(rows, panel, of, out)
    else:
        narrow_product(rows, panel, of, out)


rows_of, tile_of = compiled(_rows_of) or _rows_of, compiled(_tile_of) or _tile_of
product_of, turn_of = compiled(_product_of) or _product_of, compiled(_turn_of) or _turn_of
multiply = compiled(_multiply)
if multiply is not None:
    from tec_zarr.models import tile
    from tec_zarr.models.tile import NARROW, WIDE

    WIDE_ROWS, WIDE_COLUMNS, WIDE_TURN = WIDE.rows, WIDE.columns, WIDE.turn
    NARROW_ROWS, NARROW_COLUMNS, NARROW_TURN = NARROW.rows, NARROW.columns, NARROW.turn
    wide, narrow = tile.tile(WIDE), tile.tile(NARROW)
    wide_product, narrow_product = tile.product(WIDE, PART), tile.product(NARROW, PART)
    wide_short, narrow_short = (
        tile.product(shape._replace(rows=SHORT), PART) for shape in (WIDE, NARROW)
    )
