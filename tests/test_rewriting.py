"""Chunks that are written again at the edges of an array, where what is stored may be damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from tec_zarr.errors import TecError
from tests.cubes import WORST, Whatever, dataset, error, pixels
from tests.test_serializer import create, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata")

SHAPE = (2, 12, 96, 80)
SIZE = 64
"""Side of the chunks, or of the shards; those at the end of y have 32 lines, of x 16 columns."""

PLAIN = {"chunks": (1, 12, SIZE, SIZE)}
WHOLE_IN_SHARDS = {"chunks": (1, 12, 32, 16), "shards": (1, 12, SIZE, SIZE)}
CUT_IN_SHARDS = {"chunks": (1, 12, SIZE, SIZE), "shards": (1, 12, SIZE, SIZE)}
INDEX = 16 * 8 + 4
"""Bytes at the end of a shard of eight chunks that are not damaged here."""

TOP, BOTTOM = slice(0, SIZE), slice(SIZE, SHAPE[-2])
LEFT, RIGHT = slice(0, SIZE), slice(SIZE, SHAPE[-1])
EDGES = {"y": (BOTTOM, LEFT), "x": (TOP, RIGHT), "both": (BOTTOM, RIGHT)}
DAMAGE = "damaged|begins with"

LAYOUTS = pytest.mark.parametrize("layout", [PLAIN, WHOLE_IN_SHARDS], ids=["plain", "sharded"])
AT_EDGES = pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)


def key_of(edge: tuple[slice, slice]) -> str:
    """Where the first date's chunk, or shard, is stored."""
    return "c/0/0/" + "/".join(str(part.start // SIZE) for part in edge)


def damage(store: Whatever, key: str) -> None:
    """Change all bytes of a chunk from its tiles on, or of all chunks of a shard but the first."""
    data = bytearray(store._store_dict[key].to_bytes())
    for place in range(200, len(data) - INDEX):
        data[place] ^= 255
    store._store_dict[key] = default_buffer_prototype().buffer.from_bytes(bytes(data))


def part_of(edge: tuple[slice, slice]) -> tuple[slice, slice]:
    y, x = edge
    return slice(y.start, y.start + 20), slice(x.start, x.start + 10)


@LAYOUTS
@AT_EDGES
def test_a_damaged_chunk_at_an_edge_is_written_anew(
    layout: dict[str, Any], edge: tuple[slice, slice]
) -> None:
    array, values, key = create(shape=SHAPE, **layout), pixels(SHAPE), key_of(edge)
    array[:] = values
    first = stored_bytes(array, key)
    damage(array.store, key)
    whole = (slice(0, 1), slice(None), *edge)
    with pytest.raises(TecError, match=DAMAGE):
        array[whole]
    array[whole] = values[whole]
    assert stored_bytes(array, key) == first, "something of the old chunk is left"
    assert error(array[whole], values[whole]) < WORST
    array[whole] = 0
    assert key not in array.store._store_dict


@LAYOUTS
@AT_EDGES
def test_a_part_of_a_damaged_chunk_is_not_written(
    layout: dict[str, Any], edge: tuple[slice, slice]
) -> None:
    """The rest of the chunk would be lost, and nobody told."""
    array, values, key = create(shape=SHAPE, **layout), pixels(SHAPE), key_of(edge)
    array[:] = values
    damage(array.store, key)
    before = stored_bytes(array, key)
    part = (slice(0, 1), slice(None), *part_of(edge))
    with pytest.raises(TecError, match=DAMAGE):
        array[part] = values[part]
    assert stored_bytes(array, key) == before


def test_zarr_takes_cut_chunks_in_shards_for_parts() -> None:
    """It does not tell codecs in a shard where the array ends; without the shard they are new."""
    array, values, edge = create(shape=SHAPE, **CUT_IN_SHARDS), pixels(SHAPE), EDGES["both"]
    array[:] = values
    key, whole = key_of(edge), (slice(0, 1), slice(None), *edge)
    damage(array.store, key)
    with pytest.raises(TecError, match=DAMAGE):
        array[whole] = values[whole]
    del array.store._store_dict[key]
    array[whole] = values[whole]
    assert error(array[whole], values[whole]) < WORST


def by_xarray(part: xr.Dataset, store: Whatever, region: Whatever) -> None:
    part.to_zarr(store, region=region)


def by_accessor(part: xr.Dataset, store: Whatever, region: Whatever) -> None:
    part.tec.to_zarr(store, region=region)


@pytest.mark.parametrize("write", [by_xarray, by_accessor])
@LAYOUTS
@AT_EDGES
def test_regions_over_damaged_chunks(
    layout: dict[str, Any],
    edge: tuple[slice, slice],
    write: Callable[[xr.Dataset, Whatever, Whatever], None],
) -> None:
    store: Whatever = MemoryStore()
    cube = dataset(SHAPE)[["s2"]]
    cube.tec.to_zarr(store, **layout)
    cube = cube.drop_vars(["band", "y", "x"])
    damage(store, f"s2/{key_of(edge)}")
    region = dict(zip(("time", "y", "x"), (slice(0, 1), *edge), strict=True))
    part = region | dict(zip(("y", "x"), part_of(edge), strict=True))
    with pytest.raises(TecError, match=DAMAGE):
        by_xarray(cube.isel(part), store, part)
    write(cube.isel(region), store, region)
    assert error(zarr.open_array(store, path="s2")[:], cube["s2"].values) < WORST
