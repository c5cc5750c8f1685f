"""Models that an archive carries: whoever gets the archive gets what decodes it.

In a Zarr group they are a subgroup with one array of bytes for each artifact, named by its hash and
kept in a single chunk without compression: the object in the store is the artifact file as it is.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.core.sync import sync
from zarr.errors import BaseZarrError

from tec_zarr.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tec_zarr.config import TecConfig

    Array = zarr.Array[Any]

GROUP = "tec_zarr_models"
"""Name of the subgroup."""

MOST_BYTES = 1 << 30
"""Largest artifact that is read from a store; more would be no model but an attack."""

DAMAGED = (BaseZarrError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)
"""What zarr and its codecs raise for chunks that are no bytes of the promised number."""

ABOUT = (
    "Models that the chunks of this archive need, as safetensors files named by their hash."
    " `tec-zarr models add STORE` checks them and makes them known to a reader."
)


def is_carried(path: str) -> bool:
    """Whether a group or array, by its path in a store, belongs to the models and not the data."""
    return GROUP in path.split("/")


def carry(
    place: Any,  # noqa: ANN401 - a path, an address or any store of zarr
    codecs: Iterable[TecConfig],
    group: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Store the artifacts of codecs beside the data of a group; returns their identities.

    What is there already is left alone. Consolidated metadata of the group are renewed if it has
    some. Raises ModelNotFoundError if a model is not at hand.
    """
    from tec_zarr.models import registry

    options: Any = {"storage_options": storage_options and dict(storage_options)}
    parent = zarr.open_group(place, mode="r+", path=group, **options)
    wanted = {(codec.model, max(codec.qualities)) for codec in codecs}
    known, fresh = set(), False
    for model, quality in sorted(wanted):
        identity, data = registry.content(model, quality)
        known.add(identity)
        fresh |= _write(parent, identity, data)
    if fresh:
        _consolidate(parent)
    return tuple(sorted(known))


def carried(group: zarr.Group) -> dict[str, Array]:
    """The arrays with the models that a group and all below it carry, by path."""
    members = group.members(max_depth=None)
    found = {
        path: member
        for path, member in members
        if is_carried(path) and isinstance(member, zarr.Array)
    }
    return dict(sorted(found.items()))


def read(array: Array) -> bytes:
    """The content of an artifact file that a store carries.

    Raises FormatError for arrays that hold none: larger than MOST_BYTES, of other values,
    incomplete, or unreadable.
    """
    if array.ndim != 1 or array.dtype != np.uint8 or not 0 < array.size <= MOST_BYTES:
        raise FormatError(
            f"a model is at most {MOST_BYTES} bytes, this is {array.dtype} {array.shape}"
        )
    unit = (array.shards or array.chunks)[0]
    if unit > MOST_BYTES:
        raise FormatError(f"a chunk of {unit} bytes is too large")
    if not all(_exists(array, index) for index in range(math.ceil(array.size / unit))):
        raise FormatError("some of its bytes are not in the store")
    try:
        return np.asarray(array[:]).tobytes()
    except DAMAGED as err:
        raise FormatError(f"its bytes cannot be read: {err}") from err


def _write(parent: zarr.Group, identity: str, data: bytes) -> bool:
    """Whether there was something to write."""
    group = zarr.open_group(
        parent.store,
        mode="a",
        path=f"{parent.path}/{GROUP}".lstrip("/"),
        zarr_format=parent.metadata.zarr_format,
        use_consolidated=False,
        attributes={"description": ABOUT},
    )
    if identity in group and _is_whole(group[identity], len(data)):
        return False
    # A dimension of its own: of arrays with one in common xarray would expect equal sizes.
    name = f"bytes_{identity[:16]}"
    named: dict[str, Any] = {"dimension_names": [name]}
    if parent.metadata.zarr_format == 2:
        named = {"attributes": {"_ARRAY_DIMENSIONS": [name]}}
    values = np.frombuffer(data, np.uint8)
    array = group.create_array(
        identity,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=None,
        fill_value=0,
        overwrite=identity in group,
        **named,
    )
    array[:] = values
    return True


def _consolidate(group: zarr.Group) -> None:
    """Renew consolidated metadata of a group and of those above it, where there are some."""
    parts = group.path.split("/") if group.path else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        for end in range(len(parts), -1, -1):
            path = "/".join(parts[:end])
            above = zarr.open_group(group.store, mode="r+", path=path or None)
            if above.metadata.consolidated_metadata is not None:
                zarr.consolidate_metadata(group.store, path=path or None)


def _is_whole(found: object, size: int) -> bool:
    return isinstance(found, zarr.Array) and found.shape == (size,) and _exists(found, 0)


def _exists(array: Array, index: int) -> bool:
    """Whether a chunk (or shard) is stored: metadata come first, a writer may have been stopped."""
    return sync((array.store_path / array.metadata.encode_chunk_key((index,))).exists())
