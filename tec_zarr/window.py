"""The part of a chunk that some of its tiles cover: cutting tiles out, putting tiles in."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr import tiling
from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from tec_zarr.tiling import Tile

Selection = tuple[slice | int, ...]


def cut(frames: NDArray[Any], tiles: Sequence[Tile]) -> NDArray[Any]:
    """Tiles of equal size, (tiles, frames, band, y, x), of frames (frames, band, y, x)."""
    return np.stack([frames[..., *_place(tile)] for tile in tiles])


def batches(plan: Sequence[Tile], indices: Iterable[int], most: int) -> Iterator[list[int]]:
    """Group the indices of tiles of equal size, at most `most` pixels of tiles in a group."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in indices:
        alike[plan[index].height, plan[index].width].append(index)
    for (height, width), group in alike.items():
        count = max(1, most // (height * width))
        yield from (group[start : start + count] for start in range(0, len(group), count))


def needed(plan: Sequence[Tile], shape: tuple[int, ...], selection: Selection) -> tuple[int, ...]:
    """Indices of the tiles that hold pixels of a selection; ConfigError if it does not fit."""
    y, x = (_span(*pair) for pair in zip(_full(shape, selection)[-2:], shape[-2:], strict=True))
    return tiling.overlapping(plan, y, x)


class Window:
    """The smallest rectangle of tiles that holds some of them, filled tile by tile."""

    def __init__(self, shape: tuple[int, ...], tiles: Sequence[Tile], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.top = min((tile.y for tile in tiles), default=0)
        self.left = min((tile.x for tile in tiles), default=0)
        bottom = max((tile.y + tile.height for tile in tiles), default=0)
        right = max((tile.x + tile.width for tile in tiles), default=0)
        size = (bottom - self.top, right - self.left)
        self.pixels = np.zeros((*shape[:-2], *size), dtype)

    def put(self, tile: Tile, pixels: NDArray[Any]) -> None:
        """Set a tile (frames, band, y, x)."""
        y, x = tile.y - self.top, tile.x - self.left
        place = self.pixels[..., y : y + tile.height, x : x + tile.width]
        place[...] = pixels.reshape(place.shape)

    def select(self, selection: Selection) -> NDArray[Any]:
        """`chunk[selection]`, given that the window covers it."""
        full = _full(self.shape, selection)
        starts = (*(0 for _ in self.shape[:-2]), self.top, self.left)
        moved = (_moved(*part) for part in zip(full, self.shape, starts, strict=True))
        return self.pixels[tuple(moved)]


def _place(tile: Tile) -> tuple[slice, slice]:
    return slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width)


def _full(shape: tuple[int, ...], selection: Selection) -> Selection:
    if len(selection) > len(shape):
        raise ConfigError(f"a selection of {len(selection)} axes for a chunk of shape {shape}")
    return (*selection, *(slice(None) for _ in shape[len(selection) :]))


def _span(part: slice | int, size: int) -> slice:
    """The pixels that a part selects, as a slice with a positive step."""
    if isinstance(part, slice):
        return part
    place = int(part)
    if not -size <= place < size:
        raise ConfigError(f"index {place} is out of bounds for an axis of {size}")
    return slice(place % size, place % size + 1)


def _moved(part: slice | int, size: int, start: int) -> slice | int:
    """The same pixels in an array that begins at `start`."""
    if not isinstance(part, slice):
        return _span(part, size).start - start
    chosen = range(*part.indices(size))
    if not chosen:
        return slice(0, 0)
    stop = chosen.stop - start
    return slice(chosen.start - start, None if stop < 0 else stop, chosen.step)
