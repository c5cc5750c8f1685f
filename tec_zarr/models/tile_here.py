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


def _conclude(
    sums: tuple[int, int, int], part: int, parts: int,
    units: tuple[int, int, int], to: tuple[int, int, int],
) -> None:  # fmt: skip
    """Add sums of a part to those of earlier ones, or set rows to all of them after the last part.

    Addresses of sums, of those of earlier parts and of zeros, both float64; then those that
    `tile_ends.finish` takes.
    """
    now, earlier, zeros = sums
    if part + 1 < parts:
        gather((now,), (earlier if part else zeros, earlier))
    elif part:
        finish((now, earlier), units, to)
    else:
        finish_whole((now, earlier), units, to)


ROWS, COLUMNS = 0, 0
product: Any = None
less_product: Any = None
short_product: Any = None
product_of_few: Any = None
pack: Any = None
less_pack: Any = None
short_pack: Any = None
gather: Any = None
finish: Any = None
finish_whole: Any = None
conclude: Any = compiled(_conclude)
if conclude is not None:
    from tec_zarr.models import tile, tile_ends, vectors

    HERE = vectors.suitable()
    LESS, FEW = (HERE._replace(rows=rows) for rows in (HERE.rows - 1, SHORT))
    ROWS, COLUMNS = HERE.rows, HERE.columns
    product, less_product, short_product = map(tile.product, (HERE, LESS, FEW))
    product_of_few = tile.product_of_few(HERE)
    pack, less_pack, short_pack = map(tile_ends.pack, (HERE, LESS, FEW))
    gather, finish = tile_ends.gather(HERE), tile_ends.finish(HERE, whole=False)
    finish_whole = tile_ends.finish(HERE, whole=True)
