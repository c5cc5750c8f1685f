"""What a store or a single chunk file holds, read from metadata and headers; nothing is decoded."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr import container
from tec_zarr.archive.chunks import codec_of, is_direct, objects, places
from tec_zarr.archive.stores import arrays_of, local, open_group
from tec_zarr.cards import name_of
from tec_zarr.carried import carried
from tec_zarr.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tec_zarr.archive.chunks import Array, Place, Stored
    from tec_zarr.archive.stores import Location, Progress
    from tec_zarr.config import TecConfig
    from tec_zarr.container import Achieved, Front, Header


@dataclass(frozen=True, kw_only=True)
class ArrayInfo:
    """An array of a store."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    stored_bytes: int
    """Of all its objects, metadata included."""

    raw_bytes: int
    codec: TecConfig | None
    """How it is compressed, if by this package; its `model` is a name, an alias."""

    contents: Contents | None = None
    """What the headers of its chunks say; None without TEC, or behind other codecs."""

    @property
    def ratio(self) -> float:
        """How many times smaller it is than its plain values."""
        return self.raw_bytes / max(1, self.stored_bytes)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The chunks of an array, by their headers."""

    chunks: int
    stored: int
    """The rest is all fill value."""

    constant: int
    damaged: int
    """Chunks whose header cannot be read."""

    models: tuple[str, ...]
    """Hashes, in hex, of the models that the chunks need; as long as a chunk stores them."""

    max_error: float | None
    """The loosest bound of a chunk, in stored units; None if a chunk has none."""

    achieved: Achieved | None
    """Largest and mean squared error in stored units, if every chunk recorded its own; the mean
    weighs chunks by their size, nodata included."""


@dataclass(frozen=True, kw_only=True)
class CarriedInfo:
    """A model that a store carries."""

    place: str
    """Path of its array in the store."""

    identity: str
    """Hash of its artifact, in hex, as the array's name says; `verify` checks it."""

    name: str | None
    """Its name, if this release knows the hash."""

    stored_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """A store."""

    zarr_format: int
    arrays: tuple[ArrayInfo, ...]
    models: tuple[CarriedInfo, ...] = ()

    @property
    def stored_bytes(self) -> int:
        models = sum(model.stored_bytes for model in self.models)
        return models + sum(array.stored_bytes for array in self.arrays)

    @property
    def raw_bytes(self) -> int:
        return sum(array.raw_bytes for array in self.arrays)


@dataclass(frozen=True, kw_only=True)
class ChunkInfo:
    """A file with one chunk."""

    header: Header
    stored_bytes: int
    raw_bytes: int
    tiles: int
    constant: bool
    """Whether all its pixels are one value; such a chunk needs no model."""

    model: str | None
    """Name of its model, if this release knows the hash."""


def info(place: Location, progress: Progress | None = None) -> StoreInfo | ChunkInfo:
    """Describe a store, or a file that holds one chunk.

    Raises TecError if there is no such store, FormatError for a file that is no chunk.
    """
    path = local(place)
    if path is not None and path.is_file():
        try:
            return _chunk_info(path)
        except FormatError as err:
            raise type(err)(f"{path}: {err}") from err
    group = open_group(place)
    arrays = arrays_of(group)
    total = sum(math.prod(array.cdata_shape) for array in arrays.values())
    seen: list[ArrayInfo] = []
    for name, array in arrays.items():
        seen.append(_array_info(name, array))
        if progress:
            progress(sum(math.prod(arrays[one.name].cdata_shape) for one in seen), total)
    models = tuple(_carried_info(path, array) for path, array in carried(group).items())
    return StoreInfo(zarr_format=group.metadata.zarr_format, arrays=tuple(seen), models=models)


def _carried_info(path: str, array: Array) -> CarriedInfo:
    identity = path.split("/")[-1]
    stored = array.nbytes_stored()
    return CarriedInfo(place=path, identity=identity, name=name_of(identity), stored_bytes=stored)


def _chunk_info(path: Path) -> ChunkInfo:
    with path.open("rb") as file:
        size = container.front_size(file.read(container.PREFIX))
        file.seek(0)
        front = container.parse_front(file.read(size))
    stored = path.stat().st_size
    if stored != front.total:
        raise FormatError(f"the file has {stored} bytes, its header promises {front.total}")
    constant = front.constant is not None
    return ChunkInfo(
        header=front.header,
        stored_bytes=stored,
        raw_bytes=_raw_bytes(front.header),
        tiles=len(front.segments),
        constant=constant,
        model=None if constant else name_of(front.header.artifact.hex()),
    )


def _array_info(name: str, array: Array) -> ArrayInfo:
    return ArrayInfo(
        name=name,
        shape=array.shape,
        dtype="string" if array.dtype.kind in "OTU" else array.dtype.name,
        chunks=array.chunks,
        shards=array.shards,
        stored_bytes=array.nbytes_stored(),
        raw_bytes=array.nbytes,
        codec=codec_of(array),
        contents=_contents(array) if is_direct(array) else None,
    )


def _contents(array: Array) -> Contents:
    """Read the headers of all chunks, several at a time: far away, waiting is most of it."""
    with ThreadPoolExecutor() as pool:
        parts = pool.map(lambda stored: _fronts(array, stored), objects(array))
        found = [front for part in parts for front in part]
    fronts = [front for front in found if isinstance(front, container.Front)]
    coded = [front.header for front in fronts if front.constant is None]
    bounds = [header.max_error for header in coded if header.max_error is not None]
    return Contents(
        chunks=len(found),
        stored=sum(front is not None for front in found),
        constant=len(fronts) - len(coded),
        damaged=sum(isinstance(front, FormatError) for front in found),
        models=tuple(sorted({header.artifact.hex() for header in coded})),
        max_error=max(bounds) if bounds and len(bounds) == len(coded) else None,
        achieved=_pooled(coded),
    )


def _fronts(array: Array, stored: Stored) -> list[Front | FormatError | None]:
    try:
        return [_front(array, place) for place in places(array, stored)]
    except FormatError as err:
        return [err]


def _front(array: Array, place: Place) -> Front | FormatError | None:
    start = place.read(array, container.PREFIX)
    if start is None:
        return None
    try:
        size = container.front_size(start)
        whole = start if size <= len(start) else place.read(array, size) or b""
        return container.parse_front(whole[:size])
    except FormatError as err:
        return err


def _pooled(headers: Sequence[Header]) -> Achieved | None:
    measured = [header.achieved for header in headers if header.achieved]
    if not measured or len(measured) < len(headers):
        return None
    sizes = [math.prod(header.shape) for header in headers]
    means = [achieved.mse for achieved in measured]
    return container.Achieved(
        max(achieved.max_abs for achieved in measured), float(np.average(means, weights=sizes))
    )


def _raw_bytes(header: Header) -> int:
    return math.prod(header.shape) * np.dtype(header.dtype).itemsize
