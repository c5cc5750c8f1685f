"""Tiles of a chunk and tiles of a selection. Only whole numbers, no pixels."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNIT = 64
"""Sides of tiles are multiples of this many pixels; a smaller remainder gets no tile of its own."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of a chunk, all its frames and bands; in pixels."""

    y: int
    x: int
    height: int
    width: int


def plan(height: int, width: int, side: int) -> tuple[Tile, ...]:
    """Tiles that cover `height` x `width` pixels once each, row by row.

    A tile is `side` x `side`, but for the last ones of each axis: a remainder of 64 pixels or
    more is a tile of its own, a smaller one joins its neighbour. ConfigError: sizes below 1, or
    a side that is no positive multiple of 64.

    >>> [tile.width for tile in plan(64, 600, 256)]
    [256, 256, 88]
    """
    rows, columns = _spans(height, side), _spans(width, side)
    return tuple(
        Tile(y, x, tile_height, tile_width) for y, tile_height in rows for x, tile_width in columns
    )


def count(height: int, width: int, side: int) -> int:
    """Return `len(plan(height, width, side))` without making the tiles; the same errors.

    For readers, who learn the sizes from bytes that they cannot trust yet.
    """
    return _parts(height, side) * _parts(width, side)


def overlapping(tiles: Sequence[Tile], y: slice, x: slice) -> tuple[int, ...]:
    """Indices of the tiles that hold at least one pixel of `chunk[..., y, x]`.

    Slices mean what they mean to a sequence: open and negative ends, any step.
    """
    rows = _chosen(y, max((tile.y + tile.height for tile in tiles), default=0))
    columns = _chosen(x, max((tile.x + tile.width for tile in tiles), default=0))
    return tuple(
        index
        for index, tile in enumerate(tiles)
        if _meets(rows, tile.y, tile.height) and _meets(columns, tile.x, tile.width)
    )


def padded(size: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is not below `size`."""
    return -(-size // multiple) * multiple


def _parts(size: int, side: int) -> int:
    if size < 1:
        raise ConfigError(f"a chunk needs at least one pixel along y and x, got {size}")
    if side < UNIT or side % UNIT:
        raise ConfigError(f"tile must be a positive multiple of {UNIT}, got {side}")
    return max(1, size // side + (size % side >= UNIT))


def _spans(size: int, side: int) -> list[tuple[int, int]]:
    """Start and length of each tile along one axis."""
    starts = [side * part for part in range(_parts(size, side))]
    ends = [*starts[1:], size]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]


def _chosen(selection: slice, size: int) -> range:
    """Return what a slice selects of an axis, in ascending order."""
    chosen = range(*selection.indices(size))
    return chosen if chosen.step > 0 else chosen[::-1]


def _meets(chosen: range, start: int, length: int) -> bool:
    first = bisect_left(chosen, start)
    return first < len(chosen) and chosen[first] < start + length
