"""A Zarr store becomes a TEC archive, and a TEC archive a plain Zarr store again.

Both go through xarray and dask, so that at no time more than some chunks are in memory.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numcodecs
import numpy as np
import xarray as xr
from numcodecs.registry import get_codec
from zarr.registry import get_codec_class

from tec_zarr import runtime
from tec_zarr.archive.stores import (
    NEEDED,
    OPENS_FILL_VALUES,
    check_apart,
    consolidate,
    new_store,
    open_datasets,
    open_group,
)
from tec_zarr.carried import carry
from tec_zarr.config import TecConfig
from tec_zarr.cube import codec_in
from tec_zarr.errors import ConfigError, FormatError
from tec_zarr.images import images

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Context

    from tec_zarr.archive.stores import Location, Progress
    from tec_zarr.config import TecOptions
    from tec_zarr.layout import Sizes

    Format = Literal[2, 3]
    Datasets = Mapping[str, xr.Dataset]

BLOSC = {"cname": "zstd", "clevel": 3}
"""The lossless default of many archives, with bit shuffling."""


def compress(  # noqa: PLR0913 - one operation and how to report it
    source: Location,
    target: Location,
    *,
    zarr_format: Format = 3,
    chunks: Sizes = None,
    shards: Sizes = None,
    overwrite: bool = False,
    embed_model: bool = False,
    progress: Progress | None = None,
    **options: Unpack[TecOptions],
) -> None:
    """Make a TEC archive of any store that xarray opens; plain `xr.open_zarr` opens it.

    Images of all groups are compressed by the rules of `tec_zarr.encoding`; all other variables,
    the coordinates and all attributes are stored as they are. `options` are those of `TEC` (model,
    quality, nodata, ...), `chunks` and `shards` those of `.tec.to_zarr`. `embed_model` puts the
    model into the archive. The target appears when it is complete.

    Raises ConfigError if there is no image, if the target exists, and where the result would be
    wrong or unreadable; TecError if the source cannot be opened.
    """
    check_apart(source, target)
    groups = open_datasets(source)
    _check_formats(groups, zarr_format)
    layout: Any = {"zarr_format": zarr_format, "chunks": chunks, "shards": shards}
    pictured = {path for path, group in groups.items() if images(group)} or {""}
    with new_store(target, overwrite=overwrite) as store:
        pending = []
        for path, group in groups.items():
            place = _place(path)
            if path in pictured:
                ready = _with_own_fill_values(group, zarr_format)
                pending.append(ready.tec.to_zarr(store, **place, **layout, **options))
            else:
                plain = _without_storage(group, zarr_format)
                pending.append(plain.to_zarr(store, zarr_format=zarr_format, **place))
        if embed_model:
            carry(store, [TecConfig(**options)])
        _finish(store, pending, progress)


def decompress(
    source: Location,
    target: Location,
    *,
    codec: str = "blosc",
    zarr_format: Format | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Make a plain Zarr store, which needs no package to be read, of a TEC archive.

    Pixels are those that reading the archive gives; chunks, attributes and all else stay as they
    are. `codec` is "blosc" (zstd with bit shuffling), "none" or any codec that Zarr knows by name
    in the format of the target, which is the source's unless given.

    Raises ConfigError for an archive without TEC, an unknown codec, and a target that exists;
    TecError for an archive that cannot be opened or has damaged chunks.
    """
    check_apart(source, target)
    kind: Any = zarr_format or open_group(source).metadata.zarr_format
    groups = open_datasets(source)
    _check_formats(groups, kind)
    if not any(codec_in(image.encoding) for ds in groups.values() for image in ds.values()):
        raise ConfigError(f"{source} holds nothing that was compressed with TEC")
    plain = plain_codec(codec, kind)
    with new_store(target, overwrite=overwrite) as store:
        pending = []
        for path, group in groups.items():
            ready, settings = _decompressed(group, plain, kind)
            place = _place(path)
            pending.append(ready.to_zarr(store, zarr_format=kind, encoding=settings, **place))
        try:
            _finish(store, pending, progress)
        except FormatError as err:
            err.add_note(f"some chunks of {source} are damaged: `tec-zarr verify` lists them")
            raise


def plain_codec(name: str, zarr_format: Format) -> Any:  # noqa: ANN401 - of numcodecs or zarr
    """A compressor by the name that the format has for it; None for "none".

    Raises ConfigError if there is none of this name that works without options.
    """
    if name == "none":
        return None
    try:
        if zarr_format == 2:
            blosc = BLOSC | {"shuffle": numcodecs.Blosc.BITSHUFFLE}
            return get_codec({"id": name} | (blosc if name == "blosc" else {}))
        return get_codec_class(name)(
            **(BLOSC | {"shuffle": "bitshuffle"} if name == "blosc" else {})
        )
    except (KeyError, ValueError, TypeError, ImportError) as err:
        raise ConfigError(
            f"no codec {name!r} for Zarr format {zarr_format} that needs no options; "
            'try "blosc", "zstd", "gzip" or "none"'
        ) from err


def _place(path: str) -> Any:  # noqa: ANN401 - options of to_zarr
    """How a group is written: metadata now, lazy values later."""
    return {"group": path or None, "mode": "a", "compute": False, "consolidated": False}


def _decompressed(
    group: xr.Dataset, codec: object, zarr_format: Format
) -> tuple[xr.Dataset, dict[str, Any]]:
    """A group without traces of TEC, its chunks aligned, and the encoding of its images."""
    ready = _without_storage(group, zarr_format)
    settings: dict[str, Any] = {}
    for name, image in group.items():
        if codec_in(image.encoding):
            chunks, shards = image.encoding["chunks"], image.encoding.get("shards")
            layout = {"chunks": chunks} | ({"shards": shards} if shards else {})
            settings[str(name)] = {"compressors": codec, **layout}
            ready[name] = ready[name].chunk(dict(zip(image.dims, shards or chunks, strict=True)))
    return ready, settings


def _without_storage(group: xr.Dataset, zarr_format: Format) -> xr.Dataset:
    """A shallow copy that has forgotten how it was stored."""
    return _with_own_fill_values(group.drop_encoding(), zarr_format)


def _with_own_fill_values(group: xr.Dataset, zarr_format: Format) -> xr.Dataset:
    """A shallow copy to whose floats xarray will not add a `_FillValue` of NaN by itself.

    In format 3 those that are there go too: they say nothing, and see OPENS_FILL_VALUES.
    """
    ready = group.copy()
    for variable in ready.variables.values():
        if zarr_format == 3 and _is_nan(variable.attrs.get("_FillValue")):
            del variable.attrs["_FillValue"]
        if variable.dtype.kind == "f" and "_FillValue" not in variable.attrs:
            variable.encoding["_FillValue"] = None
    return ready


def _is_nan(value: object) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _check_formats(groups: Datasets, zarr_format: Format) -> None:
    """Refuse to write what the installed xarray could not open again."""
    if zarr_format == 2 or OPENS_FILL_VALUES:
        return
    for path, group in groups.items():
        for name, variable in group.variables.items():
            if _keeps_fill_value(variable):
                raise ConfigError(
                    f"{path}/{name} has a _FillValue, and xarray {xr.__version__} cannot open Zarr"
                    f" format 3 with one: upgrade to {NEEDED} or later, or write format 2"
                )


def _keeps_fill_value(variable: xr.Variable) -> bool:
    """Whether format 3 gets a `_FillValue`; of floats NaN is left out, see `tec_zarr.cube`."""
    value = variable.attrs.get("_FillValue")
    return value is not None and not _is_nan(value)


def _finish(store: Location, pending: list[Any], progress: Progress | None) -> None:
    """Compute all that is still to be written, chunk by chunk.

    In threads that have ended when this ends: those of dask go on writing after one has failed.
    """
    from dask import config
    from dask.base import compute
    from dask.callbacks import Callback

    def report(_key: object, _result: object, _graph: object, state: Any, _worker: object) -> None:  # noqa: ANN401 - dask's
        if progress:
            counts = {key: len(state[key]) for key in ("finished", "ready", "waiting", "running")}
            progress(counts["finished"], sum(counts.values()))

    count = config.get("num_workers", None) or runtime.cores()
    threads = ThreadPoolExecutor(count, initializer=_enter, initargs=(copy_context(),))
    with Callback(posttask=report), threads, config.set(pool=threads):  # type: ignore[no-untyped-call] # dask has no types
        compute(*pending)  # type: ignore[no-untyped-call]
    consolidate(store)


def _enter(context: Context) -> None:
    """Let a thread see what its caller has chosen."""
    for variable, value in context.items():
        variable.set(value)
