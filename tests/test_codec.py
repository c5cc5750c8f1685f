from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr import container
from tec_zarr.codec import decode_chunk, decode_window, encode_chunk, plan_window
from tec_zarr.config import TecConfig
from tec_zarr.errors import (
    ChecksumError,
    ConfigError,
    FormatError,
    ModelMismatchError,
    ModelNotFoundError,
    TecError,
)
from tec_zarr.models import artifact as artifacts
from tests.tiny import RGB

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Pair = tuple[bytes, Any]
pytestmark = pytest.mark.usefixtures("known_models")

DTYPES = ("|u1", "<u2", "<i2", "<i4", "<f4", "<f8", ">u2", ">i2", ">i4", ">f4", ">f8")


def scene(*shape: int, seed: int = 0) -> NDArray[np.uint16]:
    """Something smooth with some texture, 1 to 9000."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(0, 3, n) for n in shape[-2:]), indexing="ij")
    base = 2000 + 900 * np.sin(y * 2 + x) + 400 * np.cos(3 * x - y)
    noise = random.normal(0, 60, shape)
    return np.clip(base + noise, 1, 9000).astype(np.uint16)


def options(model: str, **changes: Any) -> TecConfig:
    return TecConfig(**{"model": model, "quality": 40, "bands": RGB, **changes})


def rmse(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(a.astype(float) - b.astype(float)).mean()))


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 1, 1), (2, 3, 65, 130), (2, 2, 3, 7, 301)])
def test_a_chunk_comes_back_close(tiny: str, shape: tuple[int, ...]) -> None:
    chunk = scene(*shape)
    back = decode_chunk(encode_chunk(chunk, options(tiny)))
    assert back.shape == chunk.shape
    assert back.dtype == chunk.dtype
    assert rmse(back, chunk) < 200


def test_higher_quality_is_closer_and_longer(tiny: str) -> None:
    chunk = scene(3, 128, 128)
    encoded = [encode_chunk(chunk, options(tiny, quality=q)) for q in (30, 40, 50)]
    errors = [rmse(decode_chunk(data), chunk) for data in encoded]
    assert errors == sorted(errors, reverse=True)
    assert [len(data) for data in encoded] == sorted(len(data) for data in encoded)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_byte_order_and_memory_order_come_back(tiny: str, dtype: str, order: Any) -> None:
    stored = scene(2, 3, 64, 70) // (64 if dtype == "|u1" else 1)
    chunk = np.asarray(stored.astype(dtype), order=order)
    back = decode_chunk(encode_chunk(chunk, options(tiny, scale=64 if dtype == "|u1" else 1)))
    assert back.dtype.str == dtype
    assert back.flags.c_contiguous == (order == "C")
    assert back.flags.f_contiguous == (order == "F")
    assert rmse(back, chunk) < 200


def test_the_array_of_the_user_is_not_touched(tiny: str) -> None:
    chunk = scene(3, 64, 64)
    chunk[:, :20] = 0
    before = chunk.copy()
    encode_chunk(chunk, options(tiny))
    encode_chunk(chunk[:, ::2, ::-1], options(tiny))
    assert (chunk == before).all()


def test_a_view_encodes_like_its_copy(tiny: str) -> None:
    view = scene(2, 3, 90, 140)[::-1, :, ::1, 70:]
    assert encode_chunk(view, options(tiny)) == encode_chunk(view.copy(), options(tiny))


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("<u2", 0), ("<u2", 65535), ("<i2", -9999), ("<f4", "NaN"), (">f8", 0), ("<f8", -1.7e308)],
)
def test_nodata_is_exact(tiny: str, dtype: str, nodata: Any) -> None:
    random = np.random.default_rng(1)
    chunk = scene(2, 3, 100, 90).astype(dtype)
    mask = np.zeros(chunk.shape, bool)
    mask[:, :, :30, 40:] = True
    mask[1, 2] |= random.random((100, 90)) < 0.1
    mask[0, 1] = True
    chunk[mask] = float(nodata)
    back = decode_chunk(encode_chunk(chunk, options(tiny, nodata=nodata)))
    found = np.isnan(back) if nodata == "NaN" else back == nodata
    assert (found == mask).all()
    assert rmse(back[~mask], chunk[~mask]) < 300


def test_valid_pixels_next_to_nodata_values_stay_valid(tiny: str) -> None:
    chunk = np.random.default_rng(0).integers(1, 60, (3, 64, 64)).astype(np.uint16)
    back = decode_chunk(encode_chunk(chunk, options(tiny, quality=30)))
    assert back.min() >= 1


def test_reflectance_with_scale_and_offset(tiny: str) -> None:
    numbers = scene(3, 80, 80)
    reflectance = ((numbers + 1000.0) / 10000).astype(np.float32)
    config = options(tiny, scale=10000, offset=-1000, nodata="NaN")
    back = decode_chunk(encode_chunk(reflectance, config))
    plain = decode_chunk(encode_chunk(numbers, options(tiny)))
    assert np.abs(back * 10000 - 1000 - plain).max() < 1


def test_bands_in_another_order(tiny: str) -> None:
    chunk = scene(3, 64, 64)
    chunk[1] //= 2
    back = decode_chunk(encode_chunk(chunk[::-1], options(tiny, bands=RGB[::-1])))
    straight = decode_chunk(encode_chunk(chunk, options(tiny)))
    assert np.abs(back[::-1].astype(int) - straight).max() <= 1


def test_a_subset_of_bands(tiny: str) -> None:
    chunk = scene(1, 64, 64)
    back = decode_chunk(encode_chunk(chunk, options(tiny, bands=("B04",), quality=50)))
    assert rmse(back, chunk) < 200


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_chunk_is_a_header(tiny: str, value: int) -> None:
    chunk = np.full((5, 3, 256, 256), value, np.uint16)
    data = encode_chunk(chunk, options(tiny))
    assert len(data) < 60
    assert (decode_chunk(data) == chunk).all()


def test_chunks_of_nan_alone(tiny: str) -> None:
    chunk = np.full((3, 64, 64), np.nan, np.float32)
    assert np.isnan(decode_chunk(encode_chunk(chunk, options(tiny, nodata="NaN")))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_undeclared_nan_and_infinity_are_refused(tiny: str, bad: float) -> None:
    chunk = scene(3, 64, 64).astype(np.float32)
    chunk[1, 2, 3] = bad
    with pytest.raises(ConfigError, match="nodata"):
        encode_chunk(chunk, options(tiny))


def test_wild_values_survive(tiny: str) -> None:
    """Noise over the whole range has symbols that no table calls likely."""
    random = np.random.default_rng(5)
    chunk = random.integers(0, 65536, (3, 64, 64)).astype(np.uint16)
    back = decode_chunk(encode_chunk(chunk, options(tiny, quality=50, nodata=None)))
    assert rmse(back, chunk) < 3000
    huge = np.array([1e30, -1e30, 5.0], np.float64).repeat(64 * 64).reshape(3, 64, 64)
    assert decode_chunk(encode_chunk(huge, options(tiny))).shape == huge.shape


def test_a_pattern_that_tables_call_impossible_is_kept(tiny: str) -> None:
    chunk = scene(3, 64, 64).astype(np.int32)
    chunk[:, 24:40, 24:40] += 3000 * (np.indices((16, 16)).sum(0) % 2)
    back = decode_chunk(encode_chunk(chunk, options(tiny, quality=50)))
    assert rmse(back[:, 24:40, 24:40], chunk[:, 24:40, 24:40]) < 400


@given(st.data())
def test_a_window_is_a_part_of_the_chunk(tiny_chunk: Pair, data: st.DataObject) -> None:
    encoded, decoded = tiny_chunk
    selection = tuple(
        data.draw(st.one_of(st.integers(-n, n - 1), st.slices(n))) for n in decoded.shape
    )
    front = container.parse_front(encoded[: container.front_size(encoded)])
    parts = {}
    for index in plan_window(front, selection):
        start, size = front.extent(index)
        parts[index] = encoded[start : start + size]
    window = decode_window(front, parts, selection)
    expected = decoded[selection]
    assert window.shape == expected.shape
    assert np.abs(window.astype(int) - expected).max(initial=0) <= 1


@pytest.fixture(scope="module")
def tiny_chunk(tiny: str, model_folder: Path) -> Pair:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEC_ZARR_MODELS", str(model_folder))
        chunk = scene(2, 3, 150, 200)
        chunk[:, :, :80, 130:] = 0
        encoded = encode_chunk(chunk, options(tiny, tile=64))
        return encoded, decode_chunk(encoded)


@given(st.integers(0, 10**9))
def test_any_flipped_bit_is_an_error(tiny_chunk: Pair, place: int) -> None:
    damaged = bytearray(tiny_chunk[0])
    damaged[place // 8 % len(damaged)] ^= 1 << place % 8
    with pytest.raises(TecError):
        decode_chunk(bytes(damaged))


@given(st.integers(0, 10**9))
def test_any_truncation_is_an_error(tiny_chunk: Pair, place: int) -> None:
    with pytest.raises(FormatError):
        decode_chunk(tiny_chunk[0][: place % len(tiny_chunk[0])])


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_error(noise: bytes) -> None:
    for data in (noise, b"TEC1" + noise):
        with pytest.raises(FormatError):
            decode_chunk(data)


def test_a_stream_of_other_symbols_is_noticed(tiny: str) -> None:
    """Right checksums over wrong content: the checksum of the integers tells."""
    chunk = scene(3, 64, 64)
    data = encode_chunk(chunk, options(tiny))
    front = container.parse_front(data[: container.front_size(data)])
    tile = container.parse_tile(front, 0, data[slice(*_bounds(front))])
    from dataclasses import replace

    forged = container.pack_chunk(front.header, [replace(tile, checksums=(tile.checksums[0] ^ 1,))])
    with pytest.raises(ChecksumError, match="symbols"):
        decode_chunk(forged)
    other = container.pack_chunk(replace(front.header, quality=0), [tile])
    with pytest.raises(FormatError):
        decode_chunk(other)


def _bounds(front: container.Front) -> tuple[int, int]:
    start, size = front.extent(0)
    return start, start + size


def test_measured_errors_stand_in_the_header(tiny: str) -> None:
    chunk = scene(2, 3, 100, 100)
    chunk[:, :, :10] = 0
    data = encode_chunk(chunk, options(tiny, measure=True))
    achieved = container.parse_front(data[: container.front_size(data)]).header.achieved
    error = (decode_chunk(data).astype(float) - chunk)[chunk != 0]
    assert achieved is not None
    assert achieved.max_abs == pytest.approx(np.abs(error).max())
    assert achieved.mse == pytest.approx(np.square(error).mean())


def test_plain_fp_of_any_size(strided: str) -> None:
    chunk = scene(2, 12, 75, 130)
    back = decode_chunk(encode_chunk(chunk, TecConfig(model=strided, quality=10)))
    assert back.shape == chunk.shape


def test_errors_say_what_to_do(tiny: str) -> None:
    chunk = scene(3, 64, 64)
    with pytest.raises(ConfigError, match=r"bands=\["):
        encode_chunk(chunk, options(tiny, bands=None))
    with pytest.raises(ConfigError, match="nearest is 40"):
        encode_chunk(chunk, options(tiny, quality=41))
    with pytest.raises(ConfigError, match="filter"):
        encode_chunk(chunk.ravel(), options(tiny))
    with pytest.raises(ConfigError, match="dtype"):
        encode_chunk(chunk.astype(np.int64), options(tiny))
    with pytest.raises(ConfigError, match="B05"):
        encode_chunk(chunk, options(tiny, bands=("B04", "B05", "B06")))
    with pytest.raises(ModelNotFoundError, match="tec-fp-s2l2a"):
        encode_chunk(chunk, options("tec-fp-s2l3a"))


def test_a_missing_model_is_named(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_chunk(scene(3, 64, 64), options(tiny))
    from tec_zarr.models import registry

    registry.forget()
    monkeypatch.delenv("TEC_ZARR_MODELS")
    with pytest.raises(ModelNotFoundError, match=tiny[:32]):
        decode_chunk(data)
    registry.forget()


def test_a_changed_artifact_is_refused(
    tiny: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tec_zarr.models import registry

    data = encode_chunk(scene(3, 64, 64), options(tiny))
    genuine = artifacts.load(model_folder / "patch.tec.safetensors")
    tensors = dict(genuine.tensors)
    tensors["mean"] = tensors["mean"] + 1
    artifacts.Artifact(genuine.fields, tensors).save(tmp_path / f"{tiny}.tec.safetensors")
    monkeypatch.setenv("TEC_ZARR_CACHE", str(tmp_path))
    monkeypatch.delenv("TEC_ZARR_MODELS")
    registry.forget()
    with pytest.raises(ModelMismatchError, match="changed"):
        decode_chunk(data)
    registry.forget()


def test_threads_agree(tiny: str) -> None:
    chunks = [scene(3, 64 + 8 * i, 96, seed=i) for i in range(6)]
    expected = [encode_chunk(chunk, options(tiny)) for chunk in chunks]
    results: dict[int, bytes] = {}

    def work(i: int) -> None:
        results[i] = encode_chunk(chunks[i], options(tiny))
        decode_chunk(results[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(chunks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(len(chunks))] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
    ],
    ids=["sse41", "avx2"],
)
def test_other_instruction_sets_decode_the_same(
    tiny_chunk: Pair, model_folder: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    import os

    encoded, decoded = tiny_chunk
    (tmp_path / "chunk").write_bytes(encoded)
    code = (
        "import sys, numpy as np; from tec_zarr.codec import decode_chunk\n"
        "np.save(sys.argv[2], decode_chunk(open(sys.argv[1], 'rb').read()))"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "chunk"), str(tmp_path / "back.npy")]
    environment = {**os.environ, **variables, "TEC_ZARR_MODELS": str(model_folder)}
    subprocess.run(arguments, check=True, env=environment)
    back = np.load(tmp_path / "back.npy")
    assert np.abs(back.astype(int) - decoded).max() <= 1
