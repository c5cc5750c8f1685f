"""Opening archives at a lower quality than they hold. Nothing is decoded here, or written.

zarr builds the codecs of an array from its metadata. On their way from the store, those of this
package get the quality at which they stop; from there on it goes with them, to threads and to
other processes, and no state is shared with what is opened otherwise.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import WrapperStore

from tec_zarr.config import AT_MOST, finite
from tec_zarr.cube import codec_in
from tec_zarr.errors import TecError
from tec_zarr.serializer import NAME

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

METADATA = ("zarr.json", ".zarray", ".zmetadata")
"""Keys, or their ends, of what says how arrays are encoded."""

UNTOUCHED = ("attributes", ".zattrs")
"""Keys within metadata, or their ends, of what belongs to the user."""


def open_zarr(
    store: Any,  # noqa: ANN401 - whatever xarray takes
    quality: float | None = None,
    *,
    group: str | None = None,
    storage_options: dict[str, Any] | None = None,
    **options: Any,  # noqa: ANN401 - passed on
) -> xr.Dataset:
    """Open a store as `xr.open_zarr` does, with TEC arrays at `quality` at most.

    Chunks of several layers (FlexTEC, `docs/format.md`) are read up to the best one that is not
    above `quality`: the others are not decoded, and in format 3 not fetched (within shards zarr
    fetches whole chunks). Chunks that hold `quality` or less are read whole. Where a chunk begins
    with a higher quality, as all of models without layers do, reading it raises `ConfigError`,
    which names what there is. `options` are those of `xr.open_zarr`.

    What is opened is for reading: its `encoding` refuses to write (`ds.drop_encoding()`).
    """
    if quality is None:
        return xr.open_zarr(store, group=group, storage_options=storage_options, **options)
    quality = finite("quality", quality)
    found = zarr.open_group(store, mode="r", path=group, storage_options=storage_options)
    dataset = xr.open_zarr(AtMost(found.store, quality), group=found.path or None, **options)
    for name, variable in dataset.variables.items():
        codec = codec_in(variable.encoding)
        if codec is not None and codec.at_most != quality:
            raise TecError(f"zarr {zarr.__version__} does not let {name!r} be read at a quality")
    return dataset


class AtMost(WrapperStore[Store]):
    """A store whose TEC codecs stop at a quality. What it wraps stays as it is."""

    def __init__(self, store: Store, quality: float) -> None:
        super().__init__(store)
        self.quality = quality

    def _with_store(self, store: Store) -> AtMost:
        return AtMost(store, self.quality)

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.quality == getattr(other, "quality", None)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As the store it wraps, but for metadata of arrays."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None or not key.endswith(METADATA):
            return found
        changed = json.dumps(limited(json.loads(found.to_bytes()), self.quality))
        return prototype.buffer.from_bytes(changed.encode())


def limited(metadata: Any, quality: float) -> Any:  # noqa: ANN401 - JSON
    """Metadata in which TEC codecs stop at a quality; consolidated or not, of either format."""
    if isinstance(metadata, list):
        return [limited(item, quality) for item in metadata]
    if not isinstance(metadata, dict):
        return metadata
    if metadata.get("id") == NAME:
        return metadata | {AT_MOST: quality}
    if metadata.get("name") == NAME:
        own = metadata.get("configuration") or {}
        return metadata | {"configuration": own | {AT_MOST: quality}}
    return {
        key: value if key.endswith(UNTOUCHED) else limited(value, quality)
        for key, value in metadata.items()
    }
