"""Replicated bands on their way into a network and out of it.

A network spares the edges of the squares if it is shown a smooth band with the same averages; to
average what it returns over the squares can only lower the error.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tec_zarr.models import square_loops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from tec_zarr.header import Replication

    Loop = Callable[..., None]


def smooth(frames: Tensor, blocks: Sequence[Sequence[Replication]]) -> None:
    """Smooth the replicated bands of tiles (tiles, frames, band, y, x), in place."""
    for tile, block, bands in _alike(blocks):
        if square_loops.smooth and frames.device.type == "cpu":
            for band in bands:
                _smooth_planes(square_loops.smooth, frames[tile, :, band], block)
        else:
            frames[tile, :, bands] = smoothed(frames[tile, :, bands], block)


def average(
    frames: Tensor, blocks: Sequence[Sequence[Replication]], nodata: NDArray[np.bool_] | None
) -> None:
    """Average the replicated bands of tiles (tiles, frames, band, y, x), in place.

    Pixels that are `nodata`, of the same shape, do not count.
    """
    valid = None if nodata is None else ~torch.from_numpy(nodata).to(frames.device)
    for tile, block, bands in _alike(blocks):
        if square_loops.average and frames.device.type == "cpu":
            for band in bands:
                seen = None if valid is None else valid[tile, :, band]
                _average_planes(square_loops.average, frames[tile, :, band], block, seen)
        else:
            seen = None if valid is None else valid[tile, :, bands]
            frames[tile, :, bands] = averaged(frames[tile, :, bands], block, seen)


def _alike(
    blocks: Sequence[Sequence[Replication]],
) -> Iterator[tuple[int, Replication, list[int]]]:
    """Replicated bands that are alike in a tile."""
    groups: dict[tuple[int, Replication], list[int]] = defaultdict(list)
    for tile, bands in enumerate(blocks):
        for band, block in enumerate(bands):
            if block.factor > 1:
                groups[tile, block].append(band)
    for (tile, block), chosen in groups.items():
        yield tile, block, chosen


def smoothed(band: Tensor, block: Replication) -> Tensor:
    """Turn the steps of a band (..., y, x) into slopes that keep the average of each square.

    Piecewise linear along y and x, as steep as the neighbours on both sides are apart.
    """
    factor, y, x = block
    if square_loops.smooth and band.device.type == "cpu":
        found = band.clone(memory_format=torch.contiguous_format)
        _smooth_planes(square_loops.smooth, found, block)
        return found
    coarse = _sums(_sums(band, factor, y, -2), factor, x, -1)
    ones = torch.ones(band.shape[-2:], dtype=band.dtype, device=band.device)
    coarse = coarse / _sums(_sums(ones, factor, y, -2), factor, x, -1)
    rows = _sloped(coarse, factor, y, band.shape[-2], -2)
    return _sloped(rows, factor, x, band.shape[-1], -1)


def averaged(band: Tensor, block: Replication, valid: Tensor | None) -> Tensor:
    """Replace pixels (..., y, x) by the mean of the `valid` pixels of their squares."""
    factor, y, x = block
    if square_loops.average and band.device.type == "cpu":
        found = band.clone(memory_format=torch.contiguous_format)
        _average_planes(square_loops.average, found, block, valid)
        return found
    weights = torch.ones(band.shape[-2:]).to(band) if valid is None else valid.to(band)
    kept = band if valid is None else band * weights
    total = _sums(_sums(kept, factor, y, -2), factor, x, -1)
    count = _sums(_sums(weights, factor, y, -2), factor, x, -1)
    mean = total / count.clamp(min=1)
    rows = _repeated(mean, factor, y, band.shape[-2], -2)
    return _repeated(rows, factor, x, band.shape[-1], -1)


def _smooth_planes(loop: Loop, band: Tensor, block: Replication) -> None:
    """Smooth a band (..., y, x) in place, by a compiled loop."""
    for plane in _planes(band):
        loop(plane, *block)


def _average_planes(loop: Loop, band: Tensor, block: Replication, valid: Tensor | None) -> None:
    """Average a band (..., y, x) in place, by a compiled loop."""
    if valid is None:
        valid = torch.ones((), dtype=torch.bool).expand(*band.shape[:-2], 0, 0)
    for plane, mask in zip(_planes(band), _planes(valid), strict=True):
        whole = np.ascontiguousarray(plane)  # a loop is compiled for each layout of memory
        loop(whole, mask, *block)
        if whole is not plane:
            plane[...] = whole


def _planes(band: Tensor) -> Iterator[NDArray[Any]]:
    """The planes (y, x) of (..., y, x), contiguous; what becomes of them is put back."""
    planes = band.numpy()
    for place in np.ndindex(planes.shape[:-2]):
        plane = planes[place]
        whole = np.ascontiguousarray(plane)
        yield whole
        if whole is not plane:
            plane[...] = whole


def _sums(values: Tensor, factor: int, phase: int, dim: int) -> Tensor:
    """Sums over the squares along an axis; squares that the border cuts have fewer pixels."""
    front, size = _front(factor, phase), values.shape[dim]
    back = -(front + size) % factor
    if front or back:
        padding = (front, back) if dim == -1 else (0, 0, front, back)
        values = functional.pad(values, padding)
    parts = values.unflatten(dim, (-1, factor)).unbind(dim)
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


def _repeated(values: Tensor, factor: int, phase: int, size: int, dim: int) -> Tensor:
    """Invert `_sums` for squares of one value."""
    return values.repeat_interleave(factor, dim).narrow(dim, _front(factor, phase), size)


def _sloped(values: Tensor, factor: int, phase: int, size: int, dim: int) -> Tensor:
    """Spread values, one a square, along an axis of `size` pixels, linearly within each square."""
    front, count = _front(factor, phase), values.shape[dim]
    places = torch.arange(size, dtype=values.dtype, device=values.device)
    centres = _sums(places, factor, phase, -1) / _sums(torch.ones_like(places), factor, phase, -1)
    around = torch.arange(count + 2, device=values.device).sub_(1).clamp_(0, count - 1)
    distances = (centres[around[2:]] - centres[around[:-2]]).clamp_(min=1)
    ends = values.index_select(dim, around)
    slopes = ends.narrow(dim, 2, count) - ends.narrow(dim, 0, count)
    slopes /= _along(distances, dim)
    shape = list(values.shape)
    shape[dim] = count * factor
    spread = values.new_empty(shape)
    for k, pixels in enumerate(spread.unflatten(dim, (count, factor)).unbind(dim)):
        first = torch.arange(count, dtype=values.dtype, device=values.device) * factor - front
        torch.addcmul(values, slopes, _along(first + k - centres, dim), out=pixels)
    return spread.narrow(dim, front, size)


def _along(values: Tensor, dim: int) -> Tensor:
    """A vector along axis -2 or -1."""
    return values if dim == -1 else values[:, None]


def _front(factor: int, phase: int) -> int:
    """Pixels that the first square lacks."""
    return (factor - phase) % factor
