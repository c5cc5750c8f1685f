"""Products of int16 matrices in machine code, exact; where it is None, float64 is exact as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

PART = 384
"""Inputs whose products are added up in int32; sums of these are float64."""


def columns_of_panels() -> int:
    """What suits this processor."""
    return tile.columns()


def panels(weights: Numbers) -> Numbers:
    """Weights (n, k) of int16 as `multiply` takes them, (panels, k / 2, columns, 2); k is even."""
    (n, k), columns = weights.shape, columns_of_panels()
    padded = np.zeros((-(-n // columns) * columns, k), np.int16)
    padded[:n] = weights
    parts = padded.reshape(-1, columns, k // 2, 2)
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 3))


def _multiply(
    numbers: Numbers, unit: Numbers,
    weights: Numbers, weight_unit: Numbers, bias: Numbers, out: Numbers,
) -> None:  # fmt: skip
    """Rows of float32: products of `numbers` (m, k) and panels, in their units, plus `bias`."""
    (m, k), (count, _, columns, _), n = numbers.shape, weights.shape, out.shape[1]
    rows = rows_of(columns)
    part, sums = np.empty((rows, columns), np.int32), np.empty((rows, columns))
    for panel in range(count):
        begin, width = panel * columns, min(columns, n - panel * columns)
        for first in range(0, m, rows):
            sums[:] = 0
            for at in range(0, k, PART):
                near = numbers[first:, at:].ctypes.data, 2 * k, m - 1 - first
                far = weights[panel, at // 2 :].ctypes.data, min(PART, k - at) // 2
                tile_of(columns, near, far, part.ctypes.data)
                for row in range(rows):
                    for c in range(columns):
                        sums[row, c] += part[row, c]
            for row in range(min(rows, m - first)):
                for c in range(width):
                    single = np.float32(sums[row, c]) * unit[first + row] * weight_unit[begin + c]
                    out[first + row, begin + c] = single + bias[begin + c]


def _rows_of(columns: int) -> int:
    """How many rows are taken together, where panels have so many columns."""
    return WIDE_ROWS if columns == WIDE_COLUMNS else NARROW_ROWS


def _tile_of(columns: int, near: tuple[int, int, int], far: tuple[int, int], sums: int) -> None:
    """Sums (rows, columns), given addresses of rows and of a panel; see `tile.tile`."""
    if columns == WIDE_COLUMNS:
        _wide(*near, *far, sums)
    else:
        _narrow(*near, *far, sums)


rows_of, tile_of = compiled(_rows_of) or _rows_of, compiled(_tile_of) or _tile_of
multiply = compiled(_multiply)
if multiply is not None:
    from tec_zarr.models import tile
    from tec_zarr.models.tile import NARROW, WIDE

    _wide, _narrow = tile.tile(WIDE), tile.tile(NARROW)
    WIDE_ROWS, WIDE_COLUMNS = WIDE.rows, WIDE.columns
    NARROW_ROWS, NARROW_COLUMNS = NARROW.rows, NARROW.columns
