from __future__ import annotations

import asyncio
import json
import pickle
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pytest
import zarr
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from zarr.codecs import BytesCodec, Crc32cCodec, TransposeCodec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.dtype import UInt16
from zarr.storage import LocalStore, MemoryStore

from tec_zarr import TECSerializer
from tec_zarr.errors import ConfigError, FormatError, TecError
from tec_zarr.serializer import GAP, _cut, _runs, split_selection
from tests.cubes import WORST, Whatever, alike, error, pixels

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (3, 12, 150, 170)
CHUNKS = (2, 12, 100, 128)


class Counting(MemoryStore):
    """A store that writes down what is asked of it: ranges and the bytes that they had."""

    asked: ClassVar[list[tuple[Whatever, int]]] = []

    async def get(
        self, key: str, prototype: Whatever = None, byte_range: Whatever = None
    ) -> Whatever:
        found = await super().get(key, prototype, byte_range)
        if "/c/" in f"/{key}":
            self.asked.append((byte_range, 0 if found is None else len(found)))
        return found


def create(store: Whatever = None, **options: Whatever) -> Whatever:
    usual: dict[str, Any] = {
        "shape": SHAPE, "chunks": CHUNKS, "dtype": "<u2", "fill_value": 0, "compressors": None,
        "serializer": TECSerializer(tile=64), "zarr_format": 3,
    }  # fmt: skip
    return zarr.create_array(MemoryStore() if store is None else store, **(usual | options))


def reopened(store: Whatever, mode: Literal["r", "r+"] = "r") -> Whatever:
    return zarr.open_array(store, mode=mode)


def written(store: Whatever = None, values: Whatever = None, **options: Whatever) -> Whatever:
    values = pixels(SHAPE) if values is None else values
    array = create(store, shape=values.shape, **options)
    array[:] = values
    return reopened(array.store)


SHARDED = {"chunks": (1, 12, 50, 64), "shards": CHUNKS}


@pytest.fixture(scope="module")
def plain() -> Whatever:
    return written()


@pytest.fixture(scope="module", params=[{}, SHARDED], ids=["plain", "sharded"])
def stored(request: pytest.FixtureRequest) -> tuple[Whatever, Whatever]:
    """An array and all its values."""
    array = written(**request.param)
    return array, array[:]


@pytest.mark.parametrize("codec", [TECSerializer(), TECSerializer(nodata="NaN", bands=["B02"])])
def test_its_metadata_and_its_text_make_it_again(codec: TECSerializer) -> None:
    data = json.loads(json.dumps(codec.to_dict(), allow_nan=False))
    assert set(data) == {"name", "configuration"}
    assert data["name"] == "tec_zarr"
    assert TECSerializer.from_dict(data) == codec == eval(repr(codec))
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert hash(TECSerializer.from_dict(data)) == hash(codec)
    assert tokenize(TECSerializer.from_dict(data)) == tokenize(codec)
    assert TECSerializer.from_dict({"name": "tec_zarr"}) == TECSerializer()


def test_metadata_of_another_codec_is_refused() -> None:
    with pytest.raises(ConfigError, match="zstd"):
        TECSerializer.from_dict({"name": "zstd", "configuration": {}})


@pytest.mark.parametrize("store", ["memory", "disk"])
@pytest.mark.parametrize("layout", [{}, SHARDED], ids=["plain", "sharded"])
def test_an_array_comes_back(store: str, layout: dict[str, Any], tmp_path: Path) -> None:
    array = written(LocalStore(tmp_path / "a.zarr") if store == "disk" else None, **layout)
    assert array.dtype == np.uint16
    assert error(array[:], pixels(SHAPE)) < WORST


@pytest.mark.parametrize("dtype", ["|u1", ">u2", "<i2", ">i4", "<f4", ">f8"])
def test_dtypes_and_byte_orders(dtype: str) -> None:
    scale = 64 if dtype == "|u1" else 1
    values = pixels((1, 12, 70, 40), dtype)
    codec = TECSerializer(scale=scale)
    array = written(values=values, dtype=dtype, chunks=(1, 12, 70, 30), serializer=codec)
    assert array.dtype.newbyteorder("=") == values.dtype.newbyteorder("=")
    assert error(array[:], values, scale) < WORST
    assert alike(array[0, 5, 60, 10:35], array[:][0, 5, 60, 10:35])


def test_strided_values_of_a_user_are_stored_as_they_look() -> None:
    values = pixels((12, 150, 90)).transpose(0, 2, 1)[:, ::-1]
    before = values.copy()
    array = written(values=values, chunks=(12, 50, 100))
    assert error(array[:], before) < WORST
    assert np.array_equal(values, before)


def test_a_transposing_filter_is_fine_where_bands_stay_before_y_and_x() -> None:
    values = pixels((2, 12, 40, 50))
    swapped = TransposeCodec(order=(0, 1, 3, 2))
    array = written(values=values, chunks=(1, 12, 40, 50), filters=[swapped])
    assert error(array[:], values) < WORST


def test_a_compressor_behind_it_is_allowed() -> None:
    values = pixels((12, 40, 50))
    array = written(values=values, chunks=(12, 40, 50), compressors=[Crc32cCodec()])
    assert error(array[:], values) < WORST


def axis(size: int) -> st.SearchStrategy[Any]:
    steps = st.slices(size).filter(lambda part: part.step is None or part.step > 0)
    return st.integers(-size, size - 1) | steps


@settings(max_examples=25, deadline=None)
@given(selection=st.tuples(*map(axis, SHAPE)))
def test_any_basic_selection_equals_that_of_the_whole(
    stored: tuple[Whatever, Whatever], selection: Whatever
) -> None:
    array, whole = stored
    assert alike(array[selection], whole[selection])


def test_orthogonal_and_pointwise_selections(stored: tuple[Whatever, Whatever]) -> None:
    array, whole = stored
    ys, xs = [3, 99, 100, 149], [0, 1, 64, 169]
    assert alike(array.oindex[:, [0, 11], ys, :], whole[:, [0, 11]][:, :, ys])
    assert alike(array.oindex[0:2, :, ys, xs], whole[:2][:, :, ys][..., xs])
    points = ([0, 2, 1, 2], [5, 0, 11, 5], ys, xs)
    assert alike(array.vindex[points], whole[points])
    mask = np.zeros(SHAPE, bool)
    mask[points] = True
    assert alike(array.vindex[mask], whole[mask])
    inside = np.arange(SHAPE[-2]) % 13 == 0
    assert alike(array.oindex[..., inside, 7:9], whole[:, :, inside, 7:9])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_window_and_the_rest_are_the_selection(data: st.DataObject) -> None:
    shape = data.draw(npst.array_shapes(min_dims=3, max_dims=5, max_side=6))
    array = np.arange(np.prod(shape)).reshape(shape)
    basic = npst.basic_indices(shape, allow_newaxis=False)
    integers = npst.integer_array_indices(shape)
    selection = data.draw(basic | integers | st.tuples(*map(axis, shape)))
    window, rest = split_selection(selection, shape)
    assert all(part.step in (None, 1) for part in window)
    assert np.array_equal(array[window][rest], array[selection])


def test_windows_of_index_arrays() -> None:
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    flags = np.array([False, True, False, True, True])
    selections: list[Whatever] = [
        np.ix_(np.array([1, 3]), flags, np.array([-1, 0])),
        np.ix_(np.array([2]), np.array([], int), np.array([1])),
        (slice(None), flags, 3),
        (np.int64(2), Ellipsis, np.array([[1, 2], [3, 3]])),
        (slice(3, 1), 0),
        2,
        (),
    ]
    for selection in selections:
        window, rest = split_selection(selection, array.shape)
        assert np.array_equal(array[window][rest], array[selection])


@given(st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 5000)), min_size=1, max_size=9))
def test_runs_hold_every_extent_and_join_neighbours(extents: list[tuple[int, int]]) -> None:
    data = np.random.default_rng(1).bytes(110000)
    runs = _runs([(start, start + size) for start, size in extents])
    loaded = [(start, data[start:stop]) for start, stop in runs]
    assert [_cut(loaded, *extent) for extent in extents] == [data[a : a + n] for a, n in extents]
    assert all(b[0] - a[1] > GAP for a, b in pairwise(runs))


def noisy() -> np.ndarray[Any, Any]:
    """Values that no codec makes small, so that tiles are far apart in a chunk."""
    noise = np.random.default_rng(7).integers(0, 9000, (1, 12, 512, 512))
    return (pixels((1, 12, 512, 512)) // 2 + noise).astype("<u2")


def test_a_window_fetches_its_tiles_only() -> None:
    store = Counting()
    array = written(store, noisy(), chunks=(1, 12, 512, 512), serializer=TECSerializer(tile=64))
    store.asked.clear()
    whole = array[:]
    assert [byte_range for byte_range, _ in store.asked] == [None]
    size = store.asked[0][1]
    store.asked.clear()
    assert alike(array[:, :, 70:75, 3:60], whole[:, :, 70:75, 3:60])
    assert len(store.asked) == 2
    assert sum(length for _, length in store.asked) < 4096 + size / 32
    store.asked.clear()
    assert alike(array[0, 0, :, 511], whole[0, 0, :, 511])
    assert sum(length for _, length in store.asked) < 4096 + size / 4


def test_a_small_chunk_is_one_request() -> None:
    store = Counting()
    array = written(store, np.full((1, 12, 300, 300), 7, "<u2"), chunks=(1, 12, 300, 300))
    store.asked.clear()
    assert (array[0, 3, 10:20] == 7).all()
    assert len(store.asked) == 1


def test_chunks_that_are_not_there_are_fill_values() -> None:
    array: Whatever = create(fill_value=7)
    assert (array[2, :, 10:20, 10:20] == 7).all()
    assert (array[2] == 7).all()


def test_parts_can_be_written() -> None:
    array = create(shape=CHUNKS)
    array[:] = pixels(CHUNKS)
    array[0, :, 10:20, 10:20] = 1234
    assert error(array[0, :, 10:20, 10:20], np.full((12, 10, 10), 1234)) < 5 * WORST


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunks": (2, 6, 100, 128)}, "band axis"),
        ({"chunks": (2, 16, 100, 128)}, "band axis"),
        ({"shape": (3, 5, 9, 9), "chunks": (1, 5, 9, 9)}, "band"),
        ({"dtype": "int64"}, "dtype"),
        ({"dtype": "bool", "fill_value": False}, "dtype"),
        ({"shape": (12, 90), "chunks": (12, 90)}, "axes|band, y, x"),
    ],
)
def test_arrays_that_cannot_be_encoded_are_not_created(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        create(**options)


FIRST = "c/0/0/0/0"


def changed(array: Whatever, key: str, data: bytes) -> MemoryStore:
    """A copy of an array's store with another object at a key."""
    buffer = default_buffer_prototype().buffer.from_bytes(data)
    return MemoryStore({**array.store._store_dict, key: buffer})


def stored_bytes(array: Whatever, key: str) -> bytes:
    data: bytes = array.store._store_dict[key].to_bytes()
    return data


@pytest.mark.parametrize(
    "other", [pixels((2, 12, 100, 120)), pixels(CHUNKS, "<i2")], ids=["shape", "dtype"]
)
def test_a_chunk_of_another_array_is_refused(plain: Whatever, other: Whatever) -> None:
    foreign = written(values=other, chunks=other.shape, dtype=other.dtype)
    array = reopened(changed(plain, FIRST, stored_bytes(foreign, FIRST)))
    for selection in (np.s_[:2, :, :100, :128], np.s_[0, :, :10, :10]):
        with pytest.raises(FormatError, match="another array"):
            array[selection]


@pytest.mark.parametrize("cut", [0, 3, 50, -1])
def test_cut_chunks_are_errors_in_whole_and_in_part(plain: Whatever, cut: int) -> None:
    array = reopened(changed(plain, FIRST, stored_bytes(plain, FIRST)[:cut]))
    for selection in (np.s_[:2, :, :100, :128], np.s_[0, :, 80:99, 100:128]):
        with pytest.raises(TecError):
            array[selection]


def test_options_of_a_newer_release_open_and_decode(plain: Whatever) -> None:
    meta = json.loads(stored_bytes(plain, "zarr.json"))
    meta["codecs"][0]["configuration"] |= {"max_error": 3, "model": "tec-of-tomorrow"}
    with pytest.warns(UserWarning, match="max_error"):
        array = reopened(changed(plain, "zarr.json", json.dumps(meta).encode()), mode="r+")
    assert alike(array[1, :, :50], plain[1, :, :50])
    with pytest.raises(ConfigError, match="max_error"):
        array[:2, :, :100, :128] = pixels(CHUNKS)


def test_sync_and_async_agree_and_size_is_unknown() -> None:
    codec = TECSerializer(tile=64)
    prototype = default_buffer_prototype()
    spec = ArraySpec(CHUNKS, UInt16(), 0, ArrayConfig.from_dict({}), prototype)
    buffer = spec.prototype.nd_buffer.from_numpy_array(pixels(CHUNKS))
    encoded = codec._encode_sync(buffer, spec)
    assert asyncio.run(codec._encode_single(buffer, spec)).to_bytes() == encoded.to_bytes()
    decoded = codec._decode_sync(encoded, spec).as_numpy_array()
    again = asyncio.run(codec._decode_single(encoded, spec)).as_numpy_array()
    assert alike(decoded, again)
    with pytest.raises(NotImplementedError):
        codec.compute_encoded_size(100, spec)


def test_the_metadata_says_what_the_specification_says(plain: Whatever) -> None:
    codecs = plain.metadata.to_dict()["codecs"]
    assert json.loads(json.dumps(codecs)) == [
        {
            "name": "tec_zarr",
            "configuration": {
                "model": "tec-fp-s2l2a", "quality": 44.0, "nodata": 0, "bands": None,
                "scale": 1.0, "offset": 0.0, "tile": 64, "measure": False,
            },
        }
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zarr.open_array(plain.store, mode="r")
    assert not isinstance(plain.serializer, BytesCodec)
