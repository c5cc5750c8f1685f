"""xarray: which variables are images, what to tell Zarr about them, and the `.tec` accessor."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

import numpy as np
import xarray as xr
import zarr
from packaging.version import Version

from tec_zarr.bands import resolve_bands
from tec_zarr.carried import carry
from tec_zarr.codec import check_config
from tec_zarr.config import NAN, OPTIONS, TecConfig, TecOptions
from tec_zarr.errors import ConfigError
from tec_zarr.images import bands_of, derived_options, images, stored_dtype
from tec_zarr.layout import Layout, check_aligned, is_aligned, plan_layout
from tec_zarr.numcodec import TEC
from tec_zarr.qualities import steps_of
from tec_zarr.serializer import TECSerializer
from tec_zarr.stacking import CF_KEYS, band_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from tec_zarr.layout import Sizes

    Encoding = dict[str, Any]

KEPT = (*CF_KEYS, "coordinates", "grid_mapping")
"""What `encoding` keeps of a variable's own: to_zarr forgets all that it is not told."""

STALE = {"chunks", "preferred_chunks", "shards", "filters", "compressor", "compressors"} | {
    *("serializer", "fill_value", "object_codec", "write_empty_chunks")
}
"""How a variable was stored where it came from."""

SETS_FILL_VALUE = Version(xr.__version__) >= Version("2025.3.1")
"""Older releases of xarray pad the edges of format 3 with 0, which only costs some bytes."""


def encoding(
    data: xr.Dataset | xr.DataArray | str | Iterable[str],
    *,
    zarr_format: Literal[2, 3] = 3,
    chunks: Sizes = None,
    shards: Sizes = None,
    **options: Unpack[TecOptions],
) -> dict[str, Encoding]:
    """Tell `xr.Dataset.to_zarr(encoding=...)` to compress images; `{variable: settings}`.

    Of a dataset (or named array) all images are meant: variables with a dimension called band, or
    labelled with names of Sentinel-2 bands, and y and x after it. What the codec needs to know is
    taken from them, unless `options` (those of `TEC`) say it: the names of the bands, nodata from
    `_FillValue`, scale and offset from `scale_factor` and `add_offset`. Default chunks: one step of
    the leading axes (of time up to 8 for temporal models, or one for each number of `quality`), all
    bands, 512 x 512; a dask array must be rechunked to them (`.tec.to_zarr` does that). Given names
    only, nothing is derived, and chunks are left to xarray. Without images the result is empty.

    Raises `ConfigError` for images that cannot be encoded as they are, and says what to do.
    """
    if zarr_format not in (2, 3) or (zarr_format == 2 and shards is not None):
        raise ConfigError(f"zarr_format is 2 or 3, and shards need 3; got {zarr_format}")
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=data.name or "__xarray_dataarray_variable__")
    if not isinstance(data, xr.Dataset):
        names = [data] if isinstance(data, str) else data
        return {name: _codec_settings(_codec(zarr_format, options)) for name in names}
    settings = {}
    for name, variable in images(data).items():
        codec = _codec(zarr_format, derived_options(variable, options))
        layout = plan_layout(variable.sizes, chunks, shards, steps_of(codec))
        check_config(codec, layout.chunks, stored_dtype(variable))
        own = _codec_settings(codec) | _layout_settings(layout)
        settings[name] = own | _kept(variable, codec)
    return settings


def _codec(zarr_format: int, options: TecOptions) -> TEC | TECSerializer:
    return TEC(**options) if zarr_format == 2 else TECSerializer(**options)


def _codec_settings(codec: TEC | TECSerializer) -> Encoding:
    if isinstance(codec, TEC):
        return {"compressors": codec}
    fill = {} if codec.nodata is None or not SETS_FILL_VALUE else {"fill_value": codec.nodata_value}
    return {"serializer": codec, "compressors": None, **fill}


def _layout_settings(layout: Layout) -> Encoding:
    shards = {} if layout.shards is None else {"shards": layout.shards}
    return {"chunks": layout.chunks, **shards}


def _kept(variable: xr.DataArray, codec: TecConfig) -> Encoding:
    kept = {key: variable.encoding[key] for key in KEPT if key in variable.encoding}
    if stored_dtype(variable).kind == "f" and _is_moot(codec):
        kept["_FillValue"] = None
    elif stored_dtype(variable).kind == "f" and "_FillValue" not in variable.attrs:
        # Left alone, xarray makes it NaN, and format 2 pads the edges with it, nodata or not.
        kept["_FillValue"] = codec.nodata_value
    return kept


def _is_moot(codec: TecConfig) -> bool:
    """Whether a `_FillValue` says nothing: NaN is NaN, and format 3 pads with its `fill_value`."""
    return codec.nodata is None or (codec.nodata == NAN and isinstance(codec, TECSerializer))


def codec_in(settings: Mapping[str, Any]) -> TecConfig | None:
    """The codec of this package in a variable's encoding, whichever key it stands under."""
    found: list[object] = []
    for key in ("serializer", "compressors", "compressor", "filters"):
        value = settings.get(key)
        found += value if isinstance(value, list | tuple) else [value]
    return next((codec for codec in found if isinstance(codec, TecConfig)), None)


@xr.register_dataset_accessor("tec")  # type: ignore[no-untyped-call] # of xarray
class TecAccessor:
    """What this package adds to a dataset: `dataset.tec`."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def to_zarr(
        self,
        store: Any = None,  # noqa: ANN401 - whatever xarray takes
        *,
        zarr_format: Literal[2, 3] = 3,
        chunks: Sizes = None,
        shards: Sizes = None,
        allow_recompress: bool = False,
        embed_model: bool = False,
        **options: Any,  # noqa: ANN401 - passed on
    ) -> Any:  # noqa: ANN401 - what xarray returns
        """Write the dataset with its images compressed and everything else as it is.

        `options` are those of `TEC` (model, quality, nodata, ...) and those of
        `xr.Dataset.to_zarr` (mode, group, append_dim, region, compute, ...); `encoding` is for
        variables that are no images. What is an image and what is derived from it: see
        `tec_zarr.encoding`. Dask arrays are rechunked to the chunks (or shards) where they must be.
        Model and quality are noted in the attributes compression_*. `embed_model` puts the model's
        artifact into the group (see `tec_zarr.carried`), for readers whose package lacks it.

        Raises `ConfigError` where the result would silently be wrong or poor: no image at all, an
        image that was decoded from TEC (copy the archive, or `allow_recompress=True`), and regions
        or appended parts that do not begin and end with a chunk.
        """
        given = cast("TecOptions", {key: options.pop(key) for key in OPTIONS if key in options})
        found = images(self._dataset)
        _check_images(self._dataset, found, allow_recompress=allow_recompress)
        if embed_model and store is None:
            raise ConfigError("to embed the model, give a store")
        if options.get("append_dim") is not None or options.get("region") is not None:
            written, codecs = _extend(self._dataset, store, given, options)
        else:
            layout: Any = {"zarr_format": zarr_format, "chunks": chunks, "shards": shards}
            settings = encoding(self._dataset, **layout, **given)
            codecs = [cast("TecConfig", codec_in(own)) for own in settings.values()]
            written = _write(self._dataset, store, settings, options | {"zarr_format": zarr_format})
        if embed_model:
            carry(store, codecs, options.get("group"), options.get("storage_options"))
        return written


def _check_images(
    dataset: xr.Dataset, found: Mapping[str, xr.DataArray], *, allow_recompress: bool
) -> None:
    if not found:
        single = [str(name) for name in dataset.data_vars if band_of(name)]
        raise ConfigError(
            f"no variable is an image with the axes (..., band, y, x); {single or 'none'} are named"
            " like bands: tec_zarr.stack_bands makes one array of them"
        )
    lossy = [name for name, variable in found.items() if codec_in(variable.encoding)]
    if lossy and not allow_recompress:
        raise ConfigError(
            f"{lossy} were read from a TEC archive, and encoding them again loses quality again:"
            " copy the archive as it is (tec_zarr copy, or copy its files), write new data only,"
            " or say allow_recompress=True"
        )


def _ready(dataset: xr.Dataset, units: Mapping[str, tuple[int, ...]]) -> xr.Dataset:
    """A shallow copy without traces of other stores, dask chunks aligned to what is written."""
    ready = dataset.copy()
    for variable in ready.variables.values():
        variable.encoding = {k: v for k, v in variable.encoding.items() if k not in STALE}
    for name, unit in units.items():
        pieces = ready[name].chunks
        if pieces is not None and not is_aligned(pieces, unit):
            ready[name] = ready[name].chunk(dict(zip(ready[name].dims, unit, strict=True)))
    return ready


def _drop_moot_fill_values(dataset: xr.Dataset) -> None:
    """Keep xarray from giving floats a `_FillValue` of NaN, which tells nobody anything.

    Releases of xarray before 2025.6 cannot open format 3 with any `_FillValue` under zarr 3.1.
    """
    for variable in dataset.variables.values():
        fill = variable.encoding.get("_FillValue", variable.attrs.get("_FillValue"))
        if variable.dtype.kind == "f" and (fill is None or np.isnan(fill)):
            variable.attrs.pop("_FillValue", None)
            variable.encoding["_FillValue"] = None


def _provenance(codec: TecConfig) -> dict[str, Any]:
    """Attributes in the spirit of CF's quantization metadata, which is for floats only."""
    return {
        "compression_algorithm": "TerraCodec (learned, lossy)",
        "compression_implementation": f"tec-zarr {version('tec-zarr')}",
        "compression_model": codec.model,
        "compression_quality": TecConfig.to_dict(codec)["quality"],
    }


def _write(
    dataset: xr.Dataset,
    store: Any,  # noqa: ANN401 - as to_zarr
    settings: dict[str, Encoding],
    options: dict[str, Any],
) -> Any:  # noqa: ANN401 - as to_zarr
    """Write arrays anew, images with these settings."""
    others = dict(options.pop("encoding", None) or {})
    if clash := sorted(settings.keys() & others.keys()):
        raise ConfigError(f"{clash} are images: give chunks and options without encoding=")
    units = {name: own.get("shards") or own["chunks"] for name, own in settings.items()}
    ready = _ready(dataset, units)
    if options["zarr_format"] == 3:
        _drop_moot_fill_values(ready)
    for name, own in settings.items():
        ready[name].attrs.update(_provenance(cast("TecConfig", codec_in(own))))
    return ready.to_zarr(store, encoding=settings | others, **options)


def _extend(
    dataset: xr.Dataset,
    store: Any,  # noqa: ANN401 - as to_zarr
    given: TecOptions,
    options: dict[str, Any],
) -> tuple[Any, list[TecConfig]]:
    """Write into arrays that exist: whole chunks only, with their codecs, which are returned."""
    storage = options.get("storage_options")
    group = zarr.open_group(store, mode="r", path=options.get("group"), storage_options=storage)
    units: dict[str, tuple[int, ...]] = {}
    codecs = []
    for name, variable in images(dataset).items():
        if name not in group:
            raise ConfigError(f"{name!r} is not in the store: write it whole first, with mode='a'")
        array = cast("zarr.Array[Any]", group[name])
        codecs.append(_check_codec(name, variable, _codec_of(array), given))
        units[name] = array.shards or array.chunks
        check_aligned(name, *_place(variable, array.shape, options), units[name])
    ready = _ready(dataset, units)
    return ready.to_zarr(store, zarr_format=group.metadata.zarr_format, **options), codecs


def _codec_of(array: zarr.Array[Any]) -> TecConfig | None:
    parts = {"compressors": array.compressors, "filters": array.filters}
    return codec_in({"serializer": array.serializer, **parts})


def _check_codec(
    name: str, variable: xr.DataArray, codec: TecConfig | None, given: TecOptions
) -> TecConfig:
    """The codec of an array in the store; what would be ignored because of it is refused."""
    if codec is None:
        raise ConfigError(f"{name!r} is stored without TEC; use xr.Dataset.to_zarr to extend it")
    wanted = TecConfig(**given)
    if other := [key for key in given if getattr(wanted, key) != getattr(codec, key)]:
        raise ConfigError(f"{name!r} is stored with other {other}, see {codec}; leave them out")
    labels, count = bands_of(variable), variable.shape[-3]
    if labels is not None and labels != resolve_bands(codec.bands, count):
        raise ConfigError(
            f"{name!r} has the bands {labels}, in the store are others: {codec.bands}"
        )
    return codec


def _place(
    variable: xr.DataArray, shape: tuple[int, ...], options: Mapping[str, Any]
) -> tuple[dict[Hashable, int], dict[Hashable, slice]]:
    """Sizes of the stored array once it is extended, and the region of it that is written."""
    if len(shape) != variable.ndim:
        raise ConfigError(f"{variable.name!r} has the axes {variable.dims}, in the store {shape}")
    dims = dict(zip(variable.dims, shape, strict=True))
    dim, region = options.get("append_dim"), options.get("region")
    if dim is not None:
        old = dims[dim]
        return dims | {dim: old + variable.sizes[dim]}, {dim: slice(old, None)}
    if not isinstance(region, dict) or "auto" in region.values():
        raise ConfigError(
            f"give the region as slices, such as {{'y': slice(0, 512)}}: got {region!r}"
        )
    return dims, region
