"""Archives of temporal models that grow: only by whole chunks of dates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import tec_zarr
from tec_zarr.errors import ConfigError
from tec_zarr.models import registry
from tests.cubes import Whatever, alike, dataset
from tests.tiny import temporal_artifact

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
]

FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a temporal model with chunks of two dates."""
    folder: Path = tmp_path_factory.mktemp("temporal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEC_ZARR_MODELS", str(folder))
        registry.forget()
        name = temporal_artifact().save(folder / "tt.tec.safetensors")
        yield {"model": name, "quality": 20, "chunks": {"time": 2}}
    registry.forget()


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return dataset((6, 12, 40, 50)).assign_coords(time=np.arange(6))


@pytest.fixture(scope="module")
def whole(cube: xr.Dataset, options: dict[str, Any]) -> Whatever:
    """The values of the cube when it is written at once."""
    store: Whatever = MemoryStore()
    cube.tec.to_zarr(store, **options)
    return xr.open_zarr(store)["s2"].values


def chunks_of(store: Whatever) -> dict[str, bytes]:
    """The stored chunks of the image."""
    stored = store._store_dict.items()
    return {
        key: value.to_bytes() for key, value in stored if key.startswith(("s2/c/", "s2/0", "s2/1"))
    }


def opened(store: Whatever) -> xr.Dataset:
    return xr.open_zarr(store)


@FORMATS
def test_whole_chunks_of_dates_are_appended(
    cube: xr.Dataset, whole: Whatever, options: dict[str, Any], zarr_format: Literal[2, 3]
) -> None:
    store: Whatever = MemoryStore()
    cube.isel(time=slice(0, 2)).tec.to_zarr(store, zarr_format=zarr_format, **options)
    before = chunks_of(store)
    rest = cube.isel(time=slice(2, 6))
    rest["s2"] = rest["s2"].chunk(time=1)
    rest.tec.to_zarr(store, append_dim="time")
    found = xr.open_zarr(store)
    assert alike(found["s2"].values, whole)
    assert found["time"].values.tolist() == list(range(6))
    assert len(before) == 1
    assert before.items() <= chunks_of(store).items()


def test_a_chunk_that_is_not_full_is_never_appended_to(
    cube: xr.Dataset, options: dict[str, Any]
) -> None:
    store: Whatever = MemoryStore()
    cube.isel(time=slice(0, 2)).tec.to_zarr(store, **options)
    cube.isel(time=[2]).tec.to_zarr(store, append_dim="time")
    before, rest = chunks_of(store), cube.isel(time=slice(3, 6))
    with pytest.raises(ConfigError, match=r"filled up to 1.*of its own.*concat.*anew.*'time': 1"):
        rest.tec.to_zarr(store, append_dim="time")
    assert chunks_of(store) == before
    assert xr.open_zarr(store).sizes["time"] == 3


def test_the_ways_out_work(cube: xr.Dataset, options: dict[str, Any]) -> None:
    first, second, anew = (MemoryStore() for _ in range(3))
    old, new = cube.isel(time=slice(0, 3)), cube.isel(time=slice(3, 6))
    old.tec.to_zarr(first, **options)
    new.tec.to_zarr(second, **options)
    joined = xr.concat([opened(first), opened(second)], "time")
    assert joined["time"].values.tolist() == list(range(6))
    assert alike(joined["s2"].values[:3], opened(first)["s2"].values)
    old.tec.to_zarr(anew, **(options | {"chunks": {"time": 1}}))
    new.tec.to_zarr(anew, append_dim="time")
    assert opened(anew).sizes["time"] == 6


@FORMATS
def test_regions_of_dates_are_whole_chunks(
    cube: xr.Dataset, whole: Whatever, options: dict[str, Any], zarr_format: Literal[2, 3]
) -> None:
    store: Whatever = MemoryStore()
    bare = cube[["s2"]].drop_vars(["band", "x", "y", "time"])
    bands = tuple(cube["band"].values)
    empty = bare.chunk().tec
    empty.to_zarr(store, compute=False, bands=bands, zarr_format=zarr_format, **options)
    for dates in (slice(4, 6), slice(0, 2), slice(2, 4)):
        before = chunks_of(store)
        bare.isel(time=dates).tec.to_zarr(store, region={"time": dates})
        assert before.items() <= chunks_of(store).items()
    assert alike(xr.open_zarr(store)["s2"].values, whole)
    for dates in (slice(1, 3), slice(2, 3), slice(0, 5)):
        with pytest.raises(ConfigError, match="multiples of 2"):
            bare.isel(time=dates).tec.to_zarr(store, region={"time": dates})


@pytest.mark.parametrize(("dates", "steps"), [(3, 3), (8, 8), (12, 8)])
def test_a_first_write_decides_how_many_dates_are_appended(dates: int, steps: int) -> None:
    found = tec_zarr.encoding(dataset((dates, 12, 40, 50)), model="flextec_v1_s2l2a", quality=8)
    assert found["s2"]["chunks"][0] == steps
