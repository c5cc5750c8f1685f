from __future__ import annotations

import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numcodecs
import numpy as np
import pytest
import zarr
from dask.base import tokenize

from tec_zarr import TEC, TecError
from tec_zarr.bands import S2L2A
from tec_zarr.errors import ConfigError, FormatError
from tests.cubes import WORST, Whatever, alike, error, pixels

DTYPES = ("|u1", "<u2", ">u2", "<i2", ">i2", "<i4", ">i4", "<f4", ">f4", "<f8", ">f8")
CODECS = [
    TEC(),
    TEC(quality=40, nodata=None, bands=["B02", "B08"], scale=1e-4, offset=-1000, tile=64),
    TEC(nodata=float("nan"), measure=True),
]


def tec(dtype: str, **options: Whatever) -> TEC:
    """A codec for `cubes.pixels` of a dtype."""
    return TEC(scale=64 if dtype == "|u1" else 1, **options)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_its_metadata_and_its_text_make_it_again(codec: TEC) -> None:
    config = json.loads(json.dumps(codec.get_config(), allow_nan=False))
    assert config["id"] == "tec_zarr"
    assert numcodecs.get_codec(config) == codec
    assert eval(repr(codec)) == codec
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert hash(numcodecs.get_codec(config)) == hash(codec)
    assert tokenize(numcodecs.get_codec(config)) == tokenize(codec)


def test_codecs_differ_if_an_option_does() -> None:
    assert len({*CODECS, TEC(), TEC(quality=43.75)}) == len(CODECS) + 1


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chunk_comes_back_in_its_dtype_and_memory_order(
    dtype: str, order: Literal["C", "F"]
) -> None:
    chunk = pixels((2, 12, 33, 70), dtype).copy(order)
    found = tec(dtype).decode(tec(dtype).encode(chunk))
    assert (found.dtype, found.shape) == (chunk.dtype, chunk.shape)
    assert found.flags.c_contiguous == chunk.flags.c_contiguous
    assert error(found, chunk, 64 if dtype == "|u1" else 1) < WORST


@pytest.mark.parametrize("shape", [(12, 1, 1), (1, 12, 65, 3), (2, 1, 2, 12, 17, 130)])
def test_any_leading_axes_and_any_size(shape: tuple[int, ...]) -> None:
    chunk = pixels(shape)
    assert error(TEC().decode(TEC().encode(chunk)), chunk) < 2 * WORST


def test_strided_and_read_only_chunks_are_left_alone() -> None:
    whole = pixels((3, 12, 80, 90))
    before = whole.copy()
    chunk = whole[::-2, :, 5:69, 80:1:-1]
    chunk.flags.writeable = False
    found = TEC().decode(TEC().encode(chunk))
    assert error(found, chunk) < WORST
    assert np.array_equal(whole, before)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.array])
def test_any_buffer_decodes(kind: Whatever) -> None:
    chunk = pixels((12, 40, 40))
    encoded = TEC().encode(chunk)
    data = np.frombuffer(encoded, np.uint8) if kind is np.array else kind(encoded)
    assert alike(TEC().decode(data), TEC().decode(encoded))


@pytest.mark.parametrize("order", ["C", "F"])
def test_decoding_fills_what_it_is_given(order: Literal["C", "F"]) -> None:
    chunk = pixels((12, 40, 50)).copy(order)
    encoded = TEC().encode(chunk)
    out = np.zeros(chunk.shape, chunk.dtype, order)
    assert TEC().decode(encoded, out=out) is out
    assert alike(out, TEC().decode(encoded))


def test_bands_may_be_any_in_any_order() -> None:
    chosen = ("B8A", "B02", "B11")
    chunk = np.ascontiguousarray(pixels((1, 12, 64, 64))[:, [S2L2A.index(name) for name in chosen]])
    codec = TEC(bands=chosen)
    assert error(codec.decode(codec.encode(chunk)), chunk) < WORST


def test_nan_comes_back_as_nan() -> None:
    chunk = pixels((12, 70, 70), "<f4")
    chunk[:, 10:20, 15:40] = np.nan
    chunk[3, 60] = np.nan
    codec = TEC(nodata="NaN")
    found = codec.decode(codec.encode(chunk))
    assert np.array_equal(np.isnan(found), np.isnan(chunk))
    assert error(found, chunk) < WORST


def test_a_flattened_chunk_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"\(\.\.\., band, y, x\).*filter"):
        TEC().encode(pixels((12, 8, 8)).ravel())
    store = zarr.storage.MemoryStore()
    filters = [numcodecs.Delta("<u2")]
    array = create(store, (12, 8, 8), compressors=TEC(), filters=filters)
    with pytest.raises(TecError, match="filter"):
        array[:] = pixels((12, 8, 8))


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, (5, 8, 8)), ({"bands": ["B02"]}, (12, 8, 8)), ({"bands": ["B10", "SCL"]}, (2, 8, 8))],
)
def test_bands_that_do_not_fit_are_refused(options: Whatever, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="band"):
        TEC(**options).encode(pixels(shape))


@pytest.mark.parametrize("data", [b"", b"TEC1", bytes(5000), b"no chunk at all" * 9])
def test_foreign_bytes_are_no_chunk(data: bytes) -> None:
    with pytest.raises(FormatError):
        TEC().decode(data)


def test_options_of_a_newer_release_decode_and_do_not_encode() -> None:
    chunk = pixels((12, 20, 20))
    encoded = TEC().encode(chunk)
    with pytest.warns(UserWarning, match="max_error"):
        newer = numcodecs.get_codec({"id": "tec_zarr", "quality": 40, "max_error": 3})
    assert alike(newer.decode(encoded), TEC().decode(encoded))
    assert newer.get_config()["max_error"] == 3
    with pytest.raises(ConfigError, match="max_error"):
        newer.encode(chunk)


def test_threads_do_not_disturb_each_other() -> None:
    chunks = [np.roll(pixels((12, 64, 64)), 7 * turn, axis=-1) for turn in range(6)]
    expected = [TEC().decode(TEC().encode(chunk)) for chunk in chunks]
    with ThreadPoolExecutor(3) as pool:
        encoded = list(pool.map(TEC().encode, chunks))
        for found, alone in zip(pool.map(TEC().decode, encoded), expected, strict=True):
            assert error(found, alone) < WORST / 100


def create(store: Whatever, shape: tuple[int, ...], **options: Whatever) -> Whatever:
    """A format-2 array in chunks of 40 x 48 pixels that do not divide it."""
    kind: Any = {"dtype": "<u2", "fill_value": 0} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr, on codecs without a specification
        return zarr.create_array(
            store, shape=shape, chunks=(*shape[:-2], 40, 48), zarr_format=2, **kind
        )


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", ">f4"])
def test_zarr_format_2_stores_what_was_meant(dtype: str, order: str) -> None:
    values = pixels((2, 12, 70, 90), dtype)
    store = zarr.storage.MemoryStore()
    array = create(store, values.shape, dtype=dtype, order=order, compressors=tec(dtype))
    array[:] = values
    again: Whatever = zarr.open_array(store, mode="r")
    assert again.compressors == (tec(dtype),)
    assert again.dtype == values.dtype
    assert error(again[:], values) < WORST
    assert alike(again[1, 3:9, 35:60, ::7], again[:][1, 3:9, 35:60, ::7])


def test_it_may_be_a_filter_before_another_compressor() -> None:
    values = pixels((12, 40, 48))
    store = zarr.storage.MemoryStore()
    array = create(store, values.shape, filters=[TEC()], compressors=numcodecs.Zstd())
    array[:] = values
    assert error(zarr.open_array(store, mode="r")[:], values) < WORST
