"""Tiles of equal size on their way through a model, in both directions. No container bytes here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr import mask
from tec_zarr.container import Header, TileData
from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.errors import ChecksumError
from tec_zarr.models import squares
from tec_zarr.models.coding import Checked, Recorder, Replay, pack_lists, parse_lists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from tec_zarr.header import Replication
    from tec_zarr.models.coding import Coder, Guard
    from tec_zarr.models.model import Model
    from tec_zarr.models.pixels import Units
    from tec_zarr.models.priors import Coded, Grid


Blocks = tuple["Replication", ...]
"""How each band of a tile is replicated; phases count from the tile's corner."""

Shape = tuple[int, int, int, int]
"""(frames, band, y, x) of a tile."""


def encode_tiles(
    units: Units,
    stored: NDArray[Any],
    nodata: NDArray[np.bool_] | None,
    blocks: Sequence[Blocks],
    quality: int,
) -> tuple[list[TileData], Coded]:
    """Code tiles (tiles, frames, band, y, x) of stored values; `nodata` has the same shape.

    `blocks` tells for each tile how its bands are replicated. Returns the tiles' sections and the
    symbols as a reader will see them.
    """
    with np.errstate(over="ignore"):  # nodata may be beyond single precision; `fill` replaces it
        values = stored.astype(np.float32)
    absent: NDArray[np.bool_] = np.zeros(values.shape[:3], np.bool_)
    masks = [b""] * len(values)
    if nodata is not None:
        absent = np.logical_and.reduce(nodata, axis=(3, 4))
        masks = [mask.pack_mask(tile) for tile in nodata]
        for tile, missing in zip(values, nodata, strict=True):
            tile[...] = mask.fill(tile, missing)
    model = units.model
    frames = units.normalised(values, absent, blocks)
    given = model.analyse(frames, quality)
    grid = _grid(units, values.shape, np.logical_and.reduce(absent, axis=2))
    tiles, seen = _write(model, given, grid, quality)
    harmed = model.harmed(given, seen)
    if (harmed != given.whole).any():
        given = model.analyse(frames, quality, harmed)
        tiles, seen = _write(model, given, grid, quality)
    beside = zip(tiles, model.sides(seen), masks, strict=True)
    return [replace(tile, side=side, mask=packed) for tile, side, packed in beside], seen


def decode_tiles(
    units: Units,
    tiles: Sequence[TileData],
    nodata: NDArray[np.bool_] | None,
    shape: Shape,
    quality: int,
) -> Coded:
    """Read the symbols of tiles of equal `shape` (frames, band, y, x); `nodata` is `masks_of` them.

    All layers are read that the tiles have. Raises ChecksumError if the symbols are not those that
    the encoder saw.
    """
    model = units.model
    absent = None if nodata is None else np.logical_and.reduce(nodata, axis=(2, 3, 4))
    streams = zip(*(tile.layers for tile in tiles), strict=True)
    decoders = [Decoder(model.tables, own) for own in streams]
    count = len(model.layers(quality))
    lists = zip(*(parse_lists(tile.overrides, count) for tile in tiles), strict=True)
    guards = [Replay(own) for own, _ in zip(lists, decoders, strict=False)]
    layers = stacked(model, decoders, guards, len(tiles))
    grid = _grid(units, (len(tiles), *shape), absent)
    grid = grid._replace(sides=tuple(tile.side for tile in tiles))
    coded = model.code(layers[0], None, grid, quality)
    for decoder, guard in zip(decoders, guards, strict=True):
        decoder.finish()
        guard.finish()
    if [tile.checksums for tile in tiles] != _checksums(layers):
        raise ChecksumError(
            "the decoded symbols are not those that were encoded: this machine computes the "
            "model differently. Please report the processor and the versions of torch, numpy "
            "and tec-zarr"
        )
    return model.with_sides(coded, [tile.side for tile in tiles])


def masks_of(tiles: Sequence[TileData], shape: Shape) -> NDArray[np.bool_] | None:
    """Nodata masks (tiles, frames, band, y, x) of tiles of equal `shape`, None if all are valid."""
    if not any(tile.mask for tile in tiles):
        return None
    return np.stack([mask.unpack_mask(tile.mask, shape) for tile in tiles])


def pixels_of(
    units: Units,
    coded: Coded,
    nodata: NDArray[np.bool_] | None,
    blocks: Sequence[Blocks],
    shape: Shape,
    header: Header,
) -> NDArray[Any]:
    """Stored values (tiles, frames, band, y, x) of decoded symbols, in native byte order."""
    dtype = np.dtype(header.dtype).newbyteorder("=")
    frames: Tensor = units.model.synthesise(coded, header.quality)
    frames = units.chosen(frames, (shape[-2], shape[-1]))
    squares.average(frames, blocks, nodata)
    pixels = units.stored(frames, dtype)
    if header.nodata is not None:
        missing = np.zeros(pixels.shape, np.bool_) if nodata is None else nodata
        mask.keep_valid(pixels, missing, header.nodata)
    return pixels


def _write(model: Model, coded: Coded, grid: Grid, quality: int) -> tuple[list[TileData], Coded]:
    count = len(model.layers(quality))
    encoders = [Encoder(model.tables, grid.tiles) for _ in range(count)]
    guards = [Recorder(grid.tiles) for _ in range(count)]
    layers = stacked(model, encoders, guards, grid.tiles)
    seen = model.code(layers[0], coded, grid, quality)
    streams = zip(*(encoder.finish() for encoder in encoders), strict=True)
    overrides = map(pack_lists, zip(*(guard.finish() for guard in guards), strict=True))
    sections = zip(streams, overrides, _checksums(layers), strict=True)
    return [TileData(layers=s, overrides=o, checksums=c) for s, o, c in sections], seen


def stacked(
    model: Model, coders: Sequence[Coder], guards: Sequence[Guard], tiles: int
) -> list[Checked]:
    """A coder for each layer that knows those above it."""
    layers: list[Checked] = []
    for coder, guard in zip(reversed(coders), reversed(guards), strict=True):
        layers.insert(0, Checked(coder, guard, model.tables, tiles, tuple(layers)))
    return layers


def _checksums(layers: Sequence[Checked]) -> list[tuple[int, ...]]:
    """Of each tile, one a layer."""
    return list(zip(*(layer.checksums for layer in layers), strict=True))


def _grid(units: Units, shape: tuple[int, ...], absent: NDArray[np.bool_] | None) -> Grid:
    """Sizes of the latents of tiles (tiles, frames, band, y, x), and which frames are absent."""
    tiles, frames, _, height, width = shape
    grid = units.model.grid(tiles, frames, units.padded_size(height, width))
    none = absent is None or not absent.any()
    return grid._replace(series=units.series, absent=None if none else absent)
