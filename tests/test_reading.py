from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import xarray as xr
import zarr
from dask.base import tokenize

import tec_zarr
from tec_zarr.codec import encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.cube import codec_in
from tec_zarr.errors import ConfigError
from tec_zarr.models import registry
from tec_zarr.reading import limited
from tests.cubes import Whatever, alike, dataset
from tests.test_serializer import Counting
from tests.tiny import temporal_artifact

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
]

BUDGETS = (4, 16)
SHARDED: dict[str, Any] = {"shards": {"time": 2, "y": 128, "x": 128}}
KINDS: dict[str, dict[str, Any]] = {"v3": {}, "v2": {"zarr_format": 2}, "sharded": SHARDED}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A layered model whose chunks are large enough for layers to be worth a request."""
    folder: Path = tmp_path_factory.mktemp("layered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEC_ZARR_MODELS", str(folder))
        registry.forget()
        artifact = temporal_artifact(repacked=True, budgets=BUDGETS)
        yield artifact.save(folder / "layered.tec.safetensors")
    registry.forget()


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return dataset((2, 12, 128, 256))


@pytest.fixture(scope="module")
def stores(named: str, cube: xr.Dataset) -> dict[str, Counting]:
    """The cube in chunks of two dates and 128 x 128 pixels, in each kind of store."""
    found = {}
    for kind, options in KINDS.items():
        found[kind] = Counting()
        settings: dict[str, Any] = {"chunks": {"time": 2, "y": 128, "x": 128}, "quality": 16}
        cube.tec.to_zarr(found[kind], model=named, tile=64, **(settings | options))
    return found


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, stores: dict[str, Counting]) -> Counting:
    return stores[request.param]


@pytest.fixture(scope="module")
def expected(named: str, cube: xr.Dataset) -> dict[float, Whatever]:
    """What is encoded with the tokens of a layer, decoded."""
    values = cube["s2"].values
    halves = [values[..., :128], values[..., 128:]]
    return {
        quality: np.concatenate(
            [
                tec_zarr.codec.decode_chunk(
                    encode_chunk(half, TecConfig(model=named, quality=quality, tile=64))
                )
                for half in halves
            ],
            -1,
        )
        for quality in BUDGETS
    }


def fetched(part: Whatever) -> int:
    """Bytes of chunks that reading takes."""
    Counting.asked.clear()
    part.load()
    return sum(size for _, size in Counting.asked)


def test_a_lower_quality_is_read_and_nothing_stored_is_changed(
    store: Counting, expected: dict[float, Whatever]
) -> None:
    before = {key: value.to_bytes() for key, value in store._store_dict.items()}
    low, high = tec_zarr.open_zarr(store, quality=4), tec_zarr.open_zarr(store)
    assert alike(low["s2"].values, expected[4])
    assert alike(high["s2"].values, expected[16])
    assert alike(tec_zarr.open_zarr(store, quality=16)["s2"].values, expected[16])
    assert not alike(expected[4], expected[16])
    assert low.drop_encoding().equals(low)
    assert np.array_equal(low["scl"].values, high["scl"].values)
    assert {key: value.to_bytes() for key, value in store._store_dict.items()} == before


@pytest.mark.parametrize("part", [{}, {"y": slice(0, 40), "x": slice(140, 180)}, {"time": 1}])
def test_fewer_bytes_are_fetched(stores: dict[str, Counting], part: dict[str, Any]) -> None:
    store = stores["v3"]
    sizes = [
        fetched(tec_zarr.open_zarr(store, quality, chunks=None)["s2"].isel(part))
        for quality in (4, 16, None)
    ]
    assert 0 < sizes[0] < 0.9 * sizes[1]
    assert sizes[1] <= sizes[2] + 2 * 4096


@pytest.mark.parametrize("kind", ["v3", "sharded"])
def test_the_quality_goes_to_other_processes_and_threads(
    stores: dict[str, Counting], expected: dict[float, Whatever], kind: str
) -> None:
    low, high = (tec_zarr.open_zarr(stores[kind], quality) for quality in (4, None))
    sent = pickle.loads(pickle.dumps(low["s2"]))
    assert alike(sent.values, expected[4])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda cube: cube["s2"].values, [low, high] * 4))
    for values, quality in zip(found, [4, 16] * 4, strict=True):
        assert alike(values, expected[quality])


def test_dask_never_takes_one_quality_for_another(stores: dict[str, Counting]) -> None:
    low, high, plain = (tec_zarr.open_zarr(stores["v3"], quality) for quality in (4, 16, None))
    keys = [cube["s2"].data.name for cube in (low, high, plain)]
    assert len(set(keys)) == 3
    difference = (low["s2"].astype("i4") - high["s2"]).compute().values
    assert np.abs(difference).max() > 1
    assert tokenize(codec_in(low["s2"].encoding)) != tokenize(codec_in(high["s2"].encoding))


@pytest.mark.parametrize("kind", ["v3", "v2"])
def test_what_was_opened_to_read_does_not_write(stores: dict[str, Counting], kind: str) -> None:
    low = tec_zarr.open_zarr(stores[kind], 4)
    zarr_format: Literal[2, 3] = 2 if kind == "v2" else 3
    store: Whatever = zarr.storage.MemoryStore()
    with pytest.raises(ConfigError, match=r"only reads.*drop_encoding"):
        low[["s2"]].drop_vars("band").to_zarr(store, zarr_format=zarr_format)
    with pytest.raises(ConfigError, match="allow_recompress"):
        low.tec.to_zarr(store)


def test_qualities_that_are_not_there_are_refused(
    stores: dict[str, Counting], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="quality 4 or 16, not at 3"):
        tec_zarr.open_zarr(stores["v3"], quality=3)["s2"].load()
    with pytest.raises(ConfigError, match="finite number"):
        tec_zarr.open_zarr(stores["v3"], quality="low")  # type: ignore[arg-type]
    cube = dataset((1, 12, 40, 50))
    cube.tec.to_zarr(tmp_path / "fp.zarr", group="a", quality=44)
    with pytest.raises(ConfigError, match="quality 44, not at 40"):
        tec_zarr.open_zarr(tmp_path / "fp.zarr", 40, group="a")["s2"].load()
    whole = tec_zarr.open_zarr(tmp_path / "fp.zarr", 50, group="a", chunks=None)
    assert alike(whole["s2"].values, xr.open_zarr(tmp_path / "fp.zarr", group="a")["s2"].values)


def test_only_codecs_are_changed_in_metadata() -> None:
    own = {"name": "tec_zarr", "configuration": {"quality": 16}}
    metadata = {"codecs": [own], "attributes": {"note": own}, "a/.zattrs": {"id": "tec_zarr"}}
    found = limited(metadata, 4.0)
    assert found["codecs"][0]["configuration"] == {"quality": 16, "at_most": 4.0}
    assert found["attributes"] == metadata["attributes"]
    assert found["a/.zattrs"] == metadata["a/.zattrs"]
    assert limited({"compressor": {"id": "tec_zarr"}}, 4)["compressor"]["at_most"] == 4
