"""Parts of large arrays, which are read when crops of them are drawn."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tec_zarr.bands import S2L2A, resolve_bands
from tec_zarr.replication import find
from tec_zarr.train.scenes import Scene, is_replicated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tec_zarr.config import TecConfig

    Values = NDArray[Any]

SIDES = (512, 256, 128)
"""Sides of blocks, in pixels; the first that gives enough places is taken."""

PLACES = 8
"""Places that are enough to hold some of them out; with fewer, dates are held out."""

HELD_OUT = 8
"""One in this many places, files or spans of time is kept for validation."""


@dataclass(frozen=True, eq=False)
class Block:
    """A part of an array, which is read when crops of it are drawn."""

    read: Callable[[], Values]
    """Gives stored values (..., band, y, x)."""

    codec: TecConfig
    """Bands, nodata, and the way from stored values to digital numbers."""

    size: tuple[int, int]
    """Pixels along y and x."""

    group: str
    """Blocks of one group are held out together."""

    weight: float

    @property
    def places(self) -> NDArray[np.int64]:
        """Place of each band in S2L2A."""
        return np.array([S2L2A.index(name) for _, name in self._kept()])

    def opened(self) -> Scene:
        """Read it; values become digital numbers, at least 1, and 0 for nodata."""
        stored = self.read()
        frames = stored.reshape(-1, *stored.shape[-3:])[:, [at for at, _ in self._kept()]]
        numbers, places = _digital_numbers(frames, self.codec), self.places
        aligned = _aligned(numbers)
        replicated = is_replicated(aligned[0], places)
        kept = np.ascontiguousarray(aligned if replicated else numbers)
        return Scene(kept, places, replicated, self.weight)

    def _kept(self) -> list[tuple[int, str]]:
        """Position and name of the bands that level 2A has, in its order."""
        named = enumerate(cast("tuple[str, ...]", self.codec.bands))
        known = ((at, name) for at, name in named if name in S2L2A)
        return sorted(known, key=lambda kept: S2L2A.index(kept[1]))


@dataclass(frozen=True)
class Array:
    """Something to be read by parts."""

    name: str
    shape: tuple[int, ...]
    """(..., band, y, x)."""

    unit: tuple[int, ...]
    """Pixels along y and x that are read at once anyway."""

    read: Callable[[tuple[Any, ...]], Values]


def blocks(array: Array, codec: TecConfig, crop: int) -> Iterator[Block]:
    """Cut an array into blocks, each within a chunk if chunks are large."""
    *leading, _, height, width = array.shape
    for side in SIDES:
        edges = zip((height, width), array.unit, strict=True)
        rows, columns = (_spans(size, unit, max(side, crop), crop) for size, unit in edges)
        if len(rows) * len(columns) >= PLACES:
            break
    dates, spatial = math.prod(leading), len(rows) * len(columns) >= PLACES
    for number, index in enumerate(np.ndindex(*leading)):
        for y, x in itertools.product(rows, columns):
            span = number * HELD_OUT // max(dates, 1)
            group = f"{y.start},{x.start}" if spatial or dates < 2 else str(span)
            at = (*index, slice(None), y, x)
            yield block(array, codec, at, f"{array.name}#{group}")


def block(array: Array, codec: TecConfig, index: tuple[Any, ...], group: str) -> Block:
    """A part of an array, by an index over all its axes."""
    size = np.broadcast_to(np.uint8(0), array.shape)[index].shape
    names = resolve_bands(codec.bands, size[-3])
    weight = float(size[-2] * size[-1]) ** 0.6
    named = replace(codec, bands=names)
    return Block(lambda: array.read(index), named, (size[-2], size[-1]), group, weight)


def _spans(size: int, unit: int, side: int, least: int) -> list[slice]:
    """Parts of an axis of about `side` pixels: parts of chunks, or some chunks together.

    A rest that holds no crop is left out.
    """
    unit = min(unit, size)
    step = side // unit * unit if unit <= side else math.ceil(unit / math.ceil(unit / side))
    edges = range(0, size, unit if unit > side else step)
    starts = [a + b for a in edges for b in range(0, unit, step)] if unit > side else list(edges)
    ends = [*starts[1:], size]
    spans = [slice(a, min(b, size)) for a, b in zip(starts, ends, strict=True) if a < size]
    return [span for span in spans if span.stop - span.start >= least] or [slice(0, size)]


def _digital_numbers(stored: Values, codec: TecConfig) -> NDArray[np.uint16]:
    nodata = codec.nodata_value
    absent = np.zeros(stored.shape, np.bool_)
    if stored.dtype.kind == "f":
        absent = ~np.isfinite(stored)
    if nodata is not None and not math.isnan(nodata):
        absent |= stored == nodata
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = stored.astype(np.float64) * codec.scale + codec.offset
        whole = np.clip(np.rint(np.where(absent, 0, numbers)), 1, 65535)
    return np.where(absent, 0, whole).astype(np.uint16)


def _aligned(frames: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Cut frames (frame, band, y, x) so that squares of replicated bands begin at the corner."""
    found = find(frames, frames == 0)
    if found is None:
        return frames
    largest = max(found, key=lambda block: block.factor)
    return frames[..., largest.phase_y :, largest.phase_x :]
