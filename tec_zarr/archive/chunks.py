"""The stored bytes of an array's chunks, one by one, also those within shards."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.sync import sync

from tec_zarr.cube import codec_in
from tec_zarr.errors import ChecksumError, FormatError
from tec_zarr.wire import CHECKSUM, crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator

    import zarr
    from zarr.abc.store import ByteRequest

    from tec_zarr.config import TecConfig

    Array = zarr.Array[Any]
    Region = tuple[slice, ...]

ENTRY = np.dtype("<u8")  # shard index of the Zarr v3 specification: offset and length of each chunk
ABSENT = 2**64 - 1


@dataclass(frozen=True)
class Stored:
    """A stored object: a chunk, or a shard of chunks."""

    key: str
    """Below the array."""

    region: Region
    """The part of the array that it covers."""


@dataclass(frozen=True)
class Place:
    """Where a chunk is."""

    key: str
    region: Region
    offset: int = 0
    length: int | None = None
    """Bytes; None for the whole object, 0 for a chunk that is all fill value and not stored."""

    def __str__(self) -> str:
        starts = ", ".join(f"{part.start}:{part.stop}" for part in self.region)
        return f"[{starts}] ({self.key})"

    def read(self, array: Array, limit: int | None = None) -> bytes | None:
        """The first `limit` bytes of the chunk, or all of it; None if it is not stored."""
        if self.length == 0:
            return None
        if self.length is None and limit is None:
            return _get(array, self.key)
        size = min(self.length or math.inf, limit or math.inf)
        return _get(array, self.key, RangeByteRequest(self.offset, self.offset + int(size)))


def codec_of(array: Array) -> TecConfig | None:
    """The codec of this package that an array has, if any."""
    parts = {"compressors": array.compressors, "filters": array.filters}
    return codec_in({"serializer": array.serializer, **parts})


def is_direct(array: Array) -> bool:
    """Whether the stored bytes of a chunk are those of `encode_chunk`, without other codecs."""
    others = [*array.filters, *array.compressors]
    expected = 1 if array.metadata.zarr_format == 2 else 0
    return codec_of(array) is not None and len(others) == expected


def objects(array: Array) -> Iterator[Stored]:
    """All objects that the array may have, stored or not."""
    unit = array.shards or array.chunks
    for index, region in _cells(array.shape, unit):
        yield Stored(array.metadata.encode_chunk_key(index), region)


def places(array: Array, stored: Stored) -> list[Place]:
    """The chunks of an object.

    Raises FormatError or ChecksumError if the index of a shard is damaged.
    """
    if array.shards is None:
        return [Place(stored.key, stored.region)]
    counts = tuple(shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True))
    entries = _shard_index(array, stored.key, counts)
    found = []
    for index, inner in _cells(array.shards, array.chunks):
        region = tuple(
            slice(outer.start + part.start, min(outer.start + part.stop, outer.stop))
            for outer, part in zip(stored.region, inner, strict=True)
        )
        if all(part.start < part.stop for part in region):
            offset, length = (int(number) for number in entries[index])
            missing = offset == ABSENT
            found.append(
                Place(stored.key, region, 0 if missing else offset, 0 if missing else length)
            )
    return found


def _cells(
    shape: tuple[int, ...], cell: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], Region]]:
    """Index and region of each cell of a grid over an array, in C order."""
    counts = (range(-(-size // step)) for size, step in zip(shape, cell, strict=True))
    for index in itertools.product(*counts):
        edges = zip(index, cell, shape, strict=True)
        yield index, tuple(slice(at * step, min((at + 1) * step, size)) for at, step, size in edges)


def _shard_index(array: Array, key: str, counts: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Offset and length of each chunk of a shard: (*counts, 2)."""
    codec: Any = array.metadata.codecs[0]  # type: ignore[union-attr] # shards are of format 3
    size = 2 * ENTRY.itemsize * math.prod(counts)
    checked = len(codec.index_codecs) > 1
    total = size + CHECKSUM.size * checked
    # An enumeration in zarr 3.1, a string in 3.4.
    first = str(getattr(codec.index_location, "value", codec.index_location)) == "start"
    data = _get(array, key, RangeByteRequest(0, total) if first else SuffixByteRequest(total))
    if data is None:
        return np.full((*counts, 2), ABSENT, ENTRY)
    if len(data) != total:
        raise FormatError(f"the shard is shorter than its index of {total} bytes")
    if checked and CHECKSUM.pack(crc32c(data[:size])) != data[size:]:
        raise ChecksumError("the index of the shard is damaged: its checksum is wrong")
    return np.frombuffer(data[:size], ENTRY).reshape(*counts, 2)


def _get(array: Array, key: str, part: ByteRequest | None = None) -> bytes | None:
    path = array.store_path / key
    found = sync(path.get(byte_range=part))
    return None if found is None else found.to_bytes()
