"""The Zarr v3 adapter of `tec_zarr.codec`. It translates and fetches bytes; it decides nothing."""

from __future__ import annotations

import asyncio
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin
from zarr.abc.store import RangeByteRequest

from tec_zarr.codec import (
    check_config,
    decode_chunk,
    decode_window,
    encode_chunk,
    plan_layers,
    plan_window,
)
from tec_zarr.config import TecConfig
from tec_zarr.container import PREFIX, front_size, parse_front
from tec_zarr.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from numpy.typing import NDArray
    from zarr.abc.store import ByteGetter
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, BufferPrototype, NDBuffer

    from tec_zarr.container import Front, Header

    Window = tuple[slice, ...]
    Selection = Any  # of any of zarr's indexers
    Varying = Any  # typed differently by zarr 3.1 and later

NAME = "tec_zarr"

GAP = 8192
"""Unneeded bytes that are cheaper to fetch than another request."""


@dataclass(frozen=True, kw_only=True)
class TECSerializer(TecConfig, ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin):
    """Learned compression of satellite images; the options are those of `TecConfig`.

    Reads of a part of a chunk fetch and decode the tiles that they touch. That works as long as no
    other codec follows, so set `compressors=None`: they would find nothing to compress anyway.
    """

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the metadata of this or any other release; see `TecConfig.from_dict`."""
        if data.get("name") != NAME:
            raise ConfigError(f"expected the metadata of {NAME!r}, got {data.get('name')!r}")
        return super().from_dict(data.get("configuration") or {})

    def to_dict(self) -> dict[str, Any]:
        """Name and options, as Zarr v3 stores them."""
        return {"name": NAME, "configuration": super().to_dict()}

    def validate(self, *, shape: tuple[int, ...], dtype: Varying, chunk_grid: Varying) -> None:
        """Refuse with a `ConfigError` what no chunk could be encoded with."""
        if self.newer:
            return  # what is not understood must not keep an array from being opened
        chunk = getattr(chunk_grid, "chunk_shape", shape)
        if len(shape) >= 3 and chunk[-3] != shape[-3]:
            raise ConfigError(
                f"the band axis (-3) must not be split: the array has {shape[-3]} bands, a chunk"
                f" {chunk[-3]}; choose the chunks {(*chunk[:-3], shape[-3], *chunk[-2:])}"
            )
        check_config(self, tuple(chunk), dtype.to_native_dtype())

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """No one knows how small a chunk gets before it is encoded."""
        raise NotImplementedError

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        chunk = chunk_data.as_numpy_array().astype(_dtype(chunk_spec), copy=False)
        return chunk_spec.prototype.buffer.from_bytes(encode_chunk(chunk, self))

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        data = chunk_data.as_numpy_array()
        front = parse_front(data[: front_size(data[:PREFIX].tobytes())].tobytes())
        _check_header(front.header, chunk_spec)
        return _buffer(decode_chunk(data, self.at_most), chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _decode_partial_single(
        self,
        byte_getter: ByteGetter,
        selection: Selection,
        chunk_spec: ArraySpec,
    ) -> NDBuffer | None:
        window, rest = split_selection(selection, chunk_spec.shape)
        if self.at_most is None and window == tuple(slice(0, size) for size in chunk_spec.shape):
            chunk = await byte_getter.get(chunk_spec.prototype)
            if chunk is None:
                return None
            decoded = await self._decode_single(chunk, chunk_spec)
            return _buffer(decoded.as_numpy_array()[rest], chunk_spec)
        stored = _Stored(byte_getter, chunk_spec.prototype)
        front = await stored.front()
        if front is None:
            return None
        _check_header(front.header, chunk_spec)
        layers = await asyncio.to_thread(plan_layers, front, self.at_most)
        tiles = await stored.tiles(front, plan_window(front, window), layers)
        pixels = await asyncio.to_thread(decode_window, front, tiles, window, layers)
        return _buffer(pixels[rest], chunk_spec)


def _dtype(spec: ArraySpec) -> np.dtype[Any]:
    return cast("np.dtype[Any]", spec.dtype.to_native_dtype())


def _buffer(array: NDArray[Any] | np.generic, spec: ArraySpec) -> NDBuffer:
    return spec.prototype.nd_buffer.from_numpy_array(np.asarray(array, _dtype(spec)))


def _check_header(header: Header, spec: ArraySpec) -> None:
    """Refuse a chunk that is not of this array, before anything of its size is allocated."""
    expected, found = _dtype(spec), np.dtype(header.dtype)
    if found.newbyteorder("=") != expected.newbyteorder("=") or header.shape != spec.shape:
        raise FormatError(
            f"the chunk holds {found} of shape {header.shape}, but the array's chunks are"
            f" {expected} of shape {spec.shape}: it belongs to another array"
        )


def split_selection(selection: Selection, shape: Sequence[int]) -> tuple[Window, Selection]:
    """Split a selection into the window that holds it and what to select from that window.

    `selection` is what NumPy takes: integers, slices, integer or boolean arrays and one Ellipsis.
    For both results `array[window][rest]` equals `array[selection]`.
    """
    items = selection if isinstance(selection, tuple) else (selection,)
    dots = next((at for at, item in enumerate(items) if item is Ellipsis), len(items))
    given = len(items) - (dots < len(items))
    items = (*items[:dots], *[slice(None)] * (len(shape) - given), *items[dots + 1 :])
    window, rest = zip(*map(_split_axis, items, shape), strict=True)
    return window, rest


def _split_axis(item: Selection, size: int) -> tuple[slice, Selection]:
    if isinstance(item, slice):
        steps = range(*item.indices(size))
        low, high = (min(steps[0], steps[-1]), max(steps[0], steps[-1]) + 1) if steps else (0, 0)
        return slice(low, high), slice(None, None, item.step)
    if not isinstance(item, np.ndarray) or item.ndim == 0:
        start = operator.index(item) % size
        return slice(start, start + 1), 0
    places = np.flatnonzero(item) if item.dtype == bool else np.where(item < 0, item + size, item)
    low, high = (int(places.min()), int(places.max()) + 1) if places.size else (0, 0)
    return slice(low, high), places - low


class _Stored:
    """The stored bytes of one chunk, fetched by range, or at once where there are no ranges."""

    def __init__(self, getter: ByteGetter, prototype: BufferPrototype) -> None:
        self._getter = getter
        self._prototype = prototype
        self._head = b""
        self._whole: bytes | None = None

    async def front(self) -> Front | None:
        """Everything before the tiles; None if there is no such chunk."""
        head = await self._read(0, PREFIX)
        if head is None:
            return None
        size = front_size(head)
        if size > len(head):
            head += await self._read(len(head), size) or b""
        self._head = head
        return parse_front(head[:size])

    async def tiles(
        self, front: Front, needed: Sequence[int], layers: int | None
    ) -> dict[int, bytes]:
        """The bytes of tiles, or of their first layers, by index; neighbours come together."""
        extents = {index: front.extent(index, layers) for index in needed}
        runs = _runs([(offset, offset + length) for offset, length in extents.values()])
        parts = await asyncio.gather(*(self._read(start, stop) for start, stop in runs))
        loaded = [(start, part or b"") for (start, _), part in zip(runs, parts, strict=True)]
        return {index: _cut(loaded, *extent) for index, extent in extents.items()}

    async def _read(self, start: int, stop: int) -> bytes | None:
        if stop <= len(self._head):
            return self._head[start:stop]
        if self._whole is None:
            try:
                part = await self._getter.get(self._prototype, RangeByteRequest(start, stop))
            except AssertionError:  # how zarr < 3.4 says that there are no ranges within shards
                whole = await self._getter.get(self._prototype)
                self._whole = None if whole is None else whole.to_bytes()
            else:
                return None if part is None else part.to_bytes()
        return None if self._whole is None else self._whole[start:stop]


def _runs(extents: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of bytes to fetch for extents (start, stop)."""
    runs: list[tuple[int, int]] = []
    for start, stop in sorted(extents):
        if runs and start - runs[-1][1] <= GAP:
            runs[-1] = runs[-1][0], max(stop, runs[-1][1])
        else:
            runs.append((start, stop))
    return runs


def _cut(loaded: Sequence[tuple[int, bytes]], offset: int, length: int) -> bytes:
    """The bytes of an extent, out of fetched ranges (start, bytes); short if those are."""
    start, data = max((part for part in loaded if part[0] <= offset), key=operator.itemgetter(0))
    return data[offset - start : offset - start + length]
