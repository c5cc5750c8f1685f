"""The tile of this processor, as loops in machine code call it; without numba it is None.

Rows are packed, some at a time, and then all of them taken beside one panel after the other.
"""

from __future__ import annotations

from typing import Any

from tec_zarr.compiled import compiled

GROUP = 8
"""Inputs that are taken at a time, four pairs: zeros make rows a multiple of it."""

SHORT = 4
"""Rows that are taken together where more would be in vain."""


def _rows_of(left: int) -> int:
    """Rows that are taken next, of those that are left."""
    return SHORT if left <= SHORT or ROWS < left <= 2 * SHORT else ROWS


ROWS, COLUMNS = 0, 0
product: Any = None
less_product: Any = None
short_product: Any = None
product_of_few: Any = None
short_product_of_few: Any = None
pack: Any = None
less_pack: Any = None
short_pack: Any = None
finish: Any = None
rows_of: Any = compiled(_rows_of)
if rows_of is not None:
    from tec_zarr.models import tile, tile_ends, vectors

    HERE = vectors.suitable()
    LESS, FEW = (HERE._replace(rows=rows) for rows in (HERE.rows - 1, SHORT))
    ROWS, COLUMNS = HERE.rows, HERE.columns
    product, less_product, short_product = map(tile.product, (HERE, LESS, FEW))
    product_of_few, short_product_of_few = map(tile.product_of_few, (HERE, FEW))
    pack, less_pack, short_pack = map(tile_ends.pack, (HERE, LESS, FEW))
    finish = tile_ends.finish(HERE)
