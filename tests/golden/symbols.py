"""The integers that a chunk holds, before any network turns them into pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from tec_zarr import container, tiling
from tec_zarr.models import batch, registry
from tec_zarr.models.pixels import Units

if TYPE_CHECKING:
    from numpy.typing import NDArray


def integers_of(data: bytes) -> dict[str, NDArray[Any]]:
    """Masks and symbols of each tile, by name; nothing for a constant chunk.

    Of chunks with layers also what readers of the first ones see.
    """
    front = container.parse_front(data[: container.front_size(data)])
    header = front.header
    if front.constant is not None:
        return {}
    model = registry.load(header.artifact.hex(), torch.device("cpu")).by_frame(header.lower)
    series = math.prod(header.shape[:-4])
    units = Units.of(model, header.bands, header.scale, header.offset, series)
    found: dict[str, NDArray[Any]] = {}
    for index, tile in enumerate(tiling.plan(header.shape[-2], header.shape[-1], header.tile)):
        shape = (math.prod(header.shape[:-3]), header.shape[-3], tile.height, tile.width)
        for layers in range(1, front.layers + 1):
            start, size = front.extent(index, layers)
            sections = container.parse_tile(front, index, data[start : start + size], layers)
            masks = batch.masks_of([sections], shape)
            coded = batch.decode_tiles(units, [sections], masks, shape, header.quality)
            if masks is not None:
                found[f"mask{index}"] = masks
            part = f"layers{layers}." if layers < front.layers else ""
            for level, symbols in enumerate(coded.maps):
                if not symbols.is_floating_point():
                    found[f"{part}symbols{index}.{level}"] = symbols.numpy()
    return found
