"""Tiles of equal size on their way through a model, in both directions. No container bytes here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr import mask
from tec_zarr.container import Header, TileData
from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.errors import ChecksumError
from tec_zarr.models.coding import Checked, Recorder, Replay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from tec_zarr.models.pixels import Units
    from tec_zarr.models.priors import Coded, Grid


Shape = tuple[int, int, int, int]
"""(frames, band, y, x) of a tile."""


def encode_tiles(
    units: Units, stored: NDArray[Any], nodata: NDArray[np.bool_] | None, quality: int
) -> tuple[list[TileData], Coded]:
    """Code tiles (tiles, frames, band, y, x) of stored values; `nodata` has the same shape.

    Returns the tiles' sections and the symbols as a reader will see them.
    """
    values = stored.astype(np.float32)
    absent: NDArray[np.bool_] = np.zeros(values.shape[:3], np.bool_)
    masks = [b""] * len(values)
    if nodata is not None:
        absent = np.logical_and.reduce(nodata, axis=(3, 4))
        masks = [mask.pack_mask(tile) for tile in nodata]
        for tile, missing in zip(values, nodata, strict=True):
            tile[...] = mask.fill(tile, missing)
    model = units.model
    given = model.analyse(units.normalised(values, absent), quality)
    tiles, seen = _write(units, given, values.shape, quality)
    revised = model.revised(given, seen)
    if revised is not None:
        tiles, seen = _write(units, revised, values.shape, quality)
    return [replace(tile, mask=m) for tile, m in zip(tiles, masks, strict=True)], seen


def decode_tiles(units: Units, tiles: Sequence[TileData], shape: Shape, quality: int) -> Coded:
    """Read the symbols of tiles of equal `shape` (frames, band, y, x).

    Raises ChecksumError if they are not those that the encoder saw.
    """
    model = units.model
    decoder = Decoder(model.tables, [tile.layers[0] for tile in tiles])
    guard = Replay([tile.overrides for tile in tiles])
    checked = Checked(decoder, guard, len(tiles))
    coded = model.code(checked, None, _grid(units, (len(tiles), *shape)), quality)
    decoder.finish()
    guard.finish()
    for tile, checksum in zip(tiles, checked.checksums, strict=True):
        if tile.checksum != checksum:
            raise ChecksumError(
                "the decoded symbols are not those that were encoded: this machine computes the "
                "model differently. Please report the processor and the versions of torch, numpy "
                "and tec-zarr"
            )
    return coded


def masks_of(tiles: Sequence[TileData], shape: Shape) -> NDArray[np.bool_] | None:
    """Nodata masks (tiles, frames, band, y, x) of tiles of equal `shape`, None if all are valid."""
    if not any(tile.mask for tile in tiles):
        return None
    return np.stack([mask.unpack_mask(tile.mask, shape) for tile in tiles])


def pixels_of(
    units: Units,
    coded: Coded,
    nodata: NDArray[np.bool_] | None,
    shape: Shape,
    header: Header,
) -> NDArray[Any]:
    """Stored values (tiles, frames, band, y, x) of decoded symbols, in native byte order."""
    dtype = np.dtype(header.dtype).newbyteorder("=")
    frames: Tensor = units.model.synthesise(coded, header.quality)
    pixels = units.stored(frames, (shape[-2], shape[-1]), dtype)
    if header.nodata is not None:
        missing = np.zeros(pixels.shape, np.bool_) if nodata is None else nodata
        mask.keep_valid(pixels, missing, header.nodata)
    return pixels


def _write(
    units: Units, coded: Coded, shape: tuple[int, ...], quality: int
) -> tuple[list[TileData], Coded]:
    encoder, guard = Encoder(units.model.tables, shape[0]), Recorder(shape[0])
    checked = Checked(encoder, guard, shape[0])
    seen = units.model.code(checked, coded, _grid(units, shape), quality)
    sections = zip(encoder.finish(), guard.finish(), checked.checksums, strict=True)
    return [TileData(layers=(s,), overrides=o, checksum=c) for s, o, c in sections], seen


def _grid(units: Units, shape: tuple[int, ...]) -> Grid:
    tiles, frames, _, height, width = shape
    size = units.padded_size(height, width)
    return units.model.grid(tiles, frames, size)
