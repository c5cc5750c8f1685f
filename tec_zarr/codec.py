"""From an array to the bytes of a chunk and back. Decoding reads the bytes and the artifact only.

Networks live in `tec_zarr.models`, which needs torch; it is imported on first use.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tec_zarr import container, mask, replication, runtime, tiling
from tec_zarr.bands import ORDERS, resolve_bands
from tec_zarr.cards import card, cards
from tec_zarr.container import Achieved, Front, Header, TileData
from tec_zarr.errors import ConfigError, FormatError
from tec_zarr.header import stored_value
from tec_zarr.qualities import check_qualities, codes_of
from tec_zarr.releases import releases
from tec_zarr.window import Selection, Window, batches, cut, needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from tec_zarr.config import TecConfig
    from tec_zarr.container import Replication
    from tec_zarr.models.model import Model
    from tec_zarr.models.pixels import Units
    from tec_zarr.tiling import Tile


def encode_chunk(chunk: NDArray[Any], config: TecConfig) -> bytes:
    """Compress an array of shape (..., band, y, x).

    The array may have any strides and byte order and is not changed. Raises ConfigError if the
    options do not fit the array or the model, ModelNotFoundError if the model is not at hand.
    """
    config.for_encoding()
    check_config(config, chunk.shape, chunk.dtype)
    native = chunk.astype(chunk.dtype.newbyteorder("="), copy=False)
    header = _header(chunk, config)
    if _is_constant(native) or _all_nan(native):
        return container.pack_chunk(header, None, constant=native[(0,) * native.ndim])
    nodata = mask.nodata_mask(native, header.nodata)
    with runtime.slot():
        return _encode(native, nodata if nodata.any() else None, header, config)


def decode_chunk(data: Buffer | NDArray[Any], at_most: float | None = None) -> NDArray[Any]:
    """Decompress a chunk to the dtype, byte order and memory order that it was stored with.

    With `at_most`, as `plan_layers` says. Raises FormatError for bytes that are damaged or no
    chunk, ModelNotFoundError if its model is not at hand.
    """
    view = memoryview(cast("Buffer", data)).cast("B")
    size = container.front_size(bytes(view[: container.PREFIX]))
    front = container.parse_front(bytes(view[:size]))
    if front.total != len(view):
        raise FormatError(f"the chunk has {len(view)} bytes, its header promises {front.total}")
    layers = plan_layers(front, at_most)
    extents = (front.extent(tile, layers) for tile in range(len(front.segments)))
    tiles = {i: bytes(view[start : start + size]) for i, (start, size) in enumerate(extents)}
    return decode_window(front, tiles, (slice(None),) * len(front.header.shape), layers)


def plan_window(front: Front, selection: Selection) -> tuple[int, ...]:
    """Indices of the tiles that `decode_window` needs for a selection of slices and integers."""
    if front.constant is not None:
        return ()
    return needed(_plan(front.header), front.header.shape, selection)


def plan_layers(front: Front, at_most: float | None) -> int | None:
    """How many layers to read for the best quality that is not above `at_most`; None for all.

    Raises ConfigError if a chunk begins with a higher quality, else like `decode_chunk`.
    """
    if at_most is None or front.constant is not None:
        return None
    qualities = _model(front).layers(front.header.quality)
    if qualities[-1] <= at_most:
        return None
    count = sum(quality <= at_most for quality in qualities)
    if not count:
        raise ConfigError(
            f"the chunk can be read at quality {' or '.join(f'{q:g}' for q in qualities)}, not at"
            f" {at_most:g}: ask for one of these, or for none to read all of it"
        )
    return count


def decode_window(
    front: Front, tiles: Mapping[int, bytes], selection: Selection, layers: int | None = None
) -> NDArray[Any]:
    """Decode `chunk[selection]` from the bytes of the tiles that `plan_window` names.

    `selection` has slices and integers, at most one for each axis. With `layers` (of
    `plan_layers`), the bytes are those of so many layers. Raises like `decode_chunk`.
    """
    header, indices = front.header, plan_window(front, selection)
    if not indices:
        constant = np.zeros((), header.dtype) if front.constant is None else front.constant
        window = np.broadcast_to(constant, header.shape)[selection]
    else:
        parsed = {i: container.parse_tile(front, i, tiles[i], layers) for i in indices}
        _check_known(header, parsed.values())
        with runtime.slot():
            window = _decode(front, parsed).select(selection)
    return np.asarray(window).astype(header.dtype, order="F" if header.order == "F" else "C")


def check_config(config: TecConfig, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise ConfigError if arrays of this shape (..., band, y, x) and dtype cannot be encoded.

    Looks at names only: no weights are loaded.
    """
    if len(shape) < 3:
        raise ConfigError(
            f"a chunk must be (..., band, y, x), got shape {shape}; if the array has these axes, "
            "a filter before TEC flattened the chunk: remove the filters"
        )
    if dtype.str not in container.DTYPES:
        raise ConfigError(f"dtype {dtype} is none of {', '.join(container.DTYPES)}")
    if config.nodata is not None:
        stored_value(float(config.nodata), dtype.str)
    check_qualities(config, shape)
    bands = resolve_bands(config.bands, shape[-3])
    known = bands
    if config.model in cards():
        known = ORDERS[card(config.model).bands]
    elif config.model in releases():
        known = ORDERS[releases()[config.model].bands]
    if not set(bands) <= set(known):
        raise ConfigError(
            f"{config.model} codes {', '.join(known)}; the array has {', '.join(bands)}: store the "
            "others apart, or say with bands=[...] what the band axis holds"
        )


def _header(chunk: NDArray[Any], config: TecConfig) -> Header:
    fortran = chunk.flags.f_contiguous and not chunk.flags.c_contiguous
    return Header(
        dtype=chunk.dtype.str,
        order="F" if fortran else "C",
        shape=chunk.shape,
        scale=config.scale,
        offset=config.offset,
        bands=resolve_bands(config.bands, chunk.shape[-3]),
        nodata=None if config.nodata is None else float(config.nodata),
        tile=config.tile,
    )


def _encode(
    native: NDArray[Any], nodata: NDArray[np.bool_] | None, header: Header, config: TecConfig
) -> bytes:
    from tec_zarr.models import batch, registry

    model = registry.load(config.model, runtime.device(), max(config.qualities))
    code, lower = codes_of(model.qualities, config)
    model = model.by_frame(lower)
    frames = native.reshape(-1, *native.shape[-3:])
    masks = None if nodata is None else nodata.reshape(frames.shape)
    found = replication.find(frames, masks)
    header = replace(header, artifact=model.identity, quality=code, lower=lower, replication=found)
    units, plan = _units(model, header), _plan(header)
    errors = _Errors()
    tiles: dict[int, TileData] = {}
    for indices in batches(plan, range(len(plan)), runtime.BATCH_PIXELS // len(frames)):
        places = [plan[index] for index in indices]
        stored = cut(frames, places)
        missing = None if masks is None else cut(masks, places)
        blocks = _blocks(header, places)
        data, coded = batch.encode_tiles(units, stored, missing, blocks, code)
        tiles.update(zip(indices, data, strict=True))
        if config.measure:
            seen = batch.pixels_of(units, coded, missing, blocks, stored[0].shape, header)
            errors.add(stored, seen, missing)
    if config.measure:
        header = replace(header, achieved=errors.achieved())
    return container.pack_chunk(header, [tiles[index] for index in range(len(plan))])


def _model(front: Front) -> Model:
    """The model of a chunk; FormatError if the chunk cannot be of it."""
    from tec_zarr.models import registry

    code = front.header.quality
    model = registry.load(front.header.artifact.hex(), runtime.device())
    if code >= len(model.qualities):
        raise FormatError(f"the chunk has quality code {code}, which its model lacks")
    if front.layers != (count := len(model.layers(code))):
        raise FormatError(f"the chunk has {front.layers} layers, its model makes {count}")
    try:
        return model.by_frame(front.header.lower)
    except ConfigError as err:
        raise FormatError(f"the chunk has a quality code for each step, but {err}") from err


def _decode(front: Front, tiles: Mapping[int, TileData]) -> Window:
    from tec_zarr.models import batch

    header, model = front.header, _model(front)
    units, plan = _units(model, header), _plan(header)
    frames = math.prod(header.shape[:-3])
    native = np.dtype(header.dtype).newbyteorder("=")
    window = Window(header.shape, [plan[index] for index in tiles], native)
    for indices in batches(plan, tiles, runtime.BATCH_PIXELS // frames):
        shape = (frames, header.shape[-3], plan[indices[0]].height, plan[indices[0]].width)
        data = [tiles[index] for index in indices]
        missing = batch.masks_of(data, shape)
        coded = batch.decode_tiles(units, data, missing, shape, header.quality)
        blocks = _blocks(header, [plan[index] for index in indices])
        pixels = batch.pixels_of(units, coded, missing, blocks, shape, header)
        for index, tile in zip(indices, pixels, strict=True):
            window.put(plan[index], tile)
    return window


class _Errors:
    """The largest and the mean squared error of a chunk, in stored units.

    Nodata pixels do not count.
    """

    def __init__(self) -> None:
        self.largest, self.squares, self.count = 0.0, 0.0, 0

    def add(
        self, stored: NDArray[Any], seen: NDArray[Any], missing: NDArray[np.bool_] | None
    ) -> None:
        error = seen.astype(np.float64) - stored
        error = error.ravel() if missing is None else error[~missing]
        self.largest = max(self.largest, float(np.abs(error).max(initial=0.0)))
        self.squares += float(np.square(error).sum())
        self.count += error.size

    def achieved(self) -> Achieved:
        return Achieved(self.largest, self.squares / max(1, self.count))


def _check_known(header: Header, tiles: Iterable[TileData]) -> None:
    """Raise FormatError for parts of version 1 that this release cannot decode yet."""
    parts = {
        "an error bound": header.max_error is not None,
        "residuals": any(tile.residual for tile in tiles),
    }
    unknown = [part for part, there in parts.items() if there]
    if unknown:
        raise FormatError(
            f"the chunk has {' and '.join(unknown)}, which this release cannot decode: upgrade "
            "tec-zarr"
        )


def _plan(header: Header) -> tuple[Tile, ...]:
    return tiling.plan(header.shape[-2], header.shape[-1], header.tile)


def _blocks(header: Header, tiles: Sequence[Tile]) -> list[tuple[Replication, ...]]:
    """How the bands of each tile are replicated."""
    return [replication.within(header.replication or (), tile) for tile in tiles]


def _units(model: Model, header: Header) -> Units:
    from tec_zarr.models.pixels import Units

    series = math.prod(header.shape[:-4])
    return Units.of(model, header.bands, header.scale, header.offset, series)


def _is_constant(values: NDArray[Any]) -> bool:
    line = values[(0,) * (values.ndim - 1)]  # of a picture, it says no at once
    return bool((line == line[0]).all()) and bool((values == line[0]).all())


def _all_nan(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "f" and bool(np.isnan(values).all())
