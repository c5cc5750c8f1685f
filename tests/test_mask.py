from __future__ import annotations

import contextlib
import math
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tec_zarr.errors import ConfigError, FormatError
from tec_zarr.mask import fill, keep_valid, nodata_mask, pack_mask, unpack_mask

Bools = np.ndarray[tuple[int, int, int, int], np.dtype[np.bool_]]
Array = np.ndarray[Any, np.dtype[Any]]

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20))
EDGE = np.add.outer(np.arange(256), 3 * np.arange(256)) < 300


@st.composite
def masks(draw: st.DrawFn) -> Bools:
    """Frames without nodata, of nothing else, alike in all bands and different in each."""
    shape = draw(SHAPES)
    mask = draw(hnp.arrays(np.bool_, shape, elements=st.booleans(), fill=st.booleans()))
    for frame, before in zip(mask, [mask[-1], *mask], strict=False):
        kind = draw(st.sampled_from(["none", "all", "before", "shared", "per band"]))
        if kind == "shared":
            frame[...] = frame[:1]
        elif kind == "before":
            frame[...] = before
        elif kind != "per band":
            frame[...] = kind == "all"
    return mask


def broadcast(plane: Array, *leading: int) -> Bools:
    return np.broadcast_to(plane, (*leading, *plane.shape)).copy()


def smooth_image(bands: int, size: int) -> Array:
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(3 * y + band) + np.cos(2 * x) for band in range(bands)]
    return np.array([waves], np.float32)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("kind", "nodata"),
    [("u1", 255), ("u2", 0), ("i2", -9999), ("i4", -1), ("f4", 0.1), ("f8", -9999), ("f4", np.inf)],
)
def test_nodata_is_found_in_any_dtype(kind: str, order: str, nodata: float) -> None:
    chunk = np.arange(24).reshape(1, 2, 3, 4).astype(order + kind)
    chunk[0, 1, 2] = nodata
    chunk[0, 0, 0, 0] = 5
    before = chunk.copy()
    expected = np.zeros(chunk.shape, bool)
    expected[0, 1, 2] = True
    np.testing.assert_array_equal(nodata_mask(chunk, nodata), expected)
    np.testing.assert_array_equal(chunk, before)


def test_nan_is_nodata_if_it_is_declared() -> None:
    chunk = np.ones((2, 3, 4, 4), ">f4")
    chunk[1, :, 2:] = np.nan
    np.testing.assert_array_equal(nodata_mask(chunk, math.nan), np.isnan(chunk))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e39, -1.7e308])
@pytest.mark.parametrize("nodata", [None, 0, 7.5])
def test_what_no_network_can_see_must_be_declared(odd: float, nodata: float | None) -> None:
    chunk = np.full((1, 1, 4, 4), np.finfo(np.float32).max, np.float64)
    assert not nodata_mask(chunk, nodata).any()
    chunk[0, 0, 1, 1] = odd
    with pytest.raises(ConfigError, match=r"NaN or infinite.*nodata"):
        nodata_mask(chunk, nodata)


def test_infinity_is_refused_beside_declared_nan() -> None:
    with pytest.raises(ConfigError):
        nodata_mask(np.array([[[np.nan, np.inf]]]), math.nan)


def test_nodata_must_be_a_value_of_the_dtype() -> None:
    with pytest.raises(ConfigError, match="-9999 is no value of uint16"):
        nodata_mask(np.zeros((1, 2, 2), np.uint16), -9999)


@settings(deadline=None)
@given(masks())
def test_a_mask_comes_back_as_it_was(mask: Bools) -> None:
    packed = pack_mask(mask)
    assert (packed == b"") == (not mask.any())
    np.testing.assert_array_equal(unpack_mask(packed, mask.shape), mask)


@settings(deadline=None)
@given(masks(), st.data())
def test_damaged_masks_are_errors_or_other_masks(mask: Bools, data: st.DataObject) -> None:
    packed = bytearray(pack_mask(mask) or pack_mask(~mask))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        assert unpack_mask(bytes(packed), mask.shape).shape == mask.shape


def deflated(raw: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(raw) + deflate.flush()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"garbage",
        pack_mask(broadcast(EDGE[:5, :5], 2, 3))[:-1],
        pack_mask(broadcast(EDGE[:5, :5], 2, 3)) + b"\0",
        deflated(b""),
        deflated(b"\x01"),
        deflated(b"\x01\x05"),
        deflated(b"\x02\x01"),
        deflated(b"\x01\x01\x00"),
        deflated(b"\x00\x03" + bytes(4)),
        deflated(b"\x00\x03" + bytes(6)),
        deflated(b"\x00\x03" + b"\x04" + bytes(4)),
        deflated(b"\x04\x04" + bytes(39)),
    ],
)
def test_what_is_no_mask_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        unpack_mask(data, (2, 3, 5, 5))


def test_a_bomb_costs_no_memory() -> None:
    bomb = deflated(bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(FormatError):
        unpack_mask(bomb, (1, 12, 64, 64))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_usual_masks_are_small() -> None:
    everything = np.ones((4, 12, 256, 256), np.bool_)
    assert len(pack_mask(everything)) <= 8
    shared = broadcast(EDGE, 1, 12)
    assert len(pack_mask(shared)) <= 256
    assert len(pack_mask(broadcast(EDGE, 8, 12))) <= 256
    speckled = shared.copy()
    speckled[0, 3, 100, ::50] = True
    assert len(pack_mask(speckled)) <= 256 + 200


@settings(deadline=None)
@given(masks(), st.integers(0, 2**32 - 1))
def test_filling_keeps_what_is_valid_and_looks_at_nothing_else(mask: Bools, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=mask.shape).astype(np.float32)
    hidden = np.where(mask, np.float32(np.nan), values)
    before = hidden.copy()
    filled = fill(hidden, mask)
    np.testing.assert_array_equal(hidden, before)
    np.testing.assert_array_equal(filled[~mask], values[~mask])
    np.testing.assert_array_equal(filled, fill(np.where(mask, np.float32(1e30), values), mask))
    assert filled.dtype == np.float32
    for band, absent, result in zip(
        values.reshape(-1, values[0, 0].size),
        mask.reshape(-1, values[0, 0].size),
        filled.reshape(-1, values[0, 0].size),
        strict=True,
    ):
        valid = band[~absent] if not absent.all() else np.zeros(1, np.float32)
        assert valid.min() - 1e-5 <= result.min()
        assert result.max() <= valid.max() + 1e-5


def test_nothing_masked_is_nothing_done() -> None:
    values = smooth_image(2, 16)
    assert fill(values, np.zeros(values.shape, np.bool_)) is values


def test_frames_and_bands_are_filled_on_their_own() -> None:
    values = np.concatenate([smooth_image(3, 40), 100 + smooth_image(3, 40)])
    mask = np.zeros(values.shape, np.bool_)
    mask[0, :, 5:20, 5:20] = True
    mask[1, 0, :, :9] = True
    mask[1, 1] = True
    filled = fill(values, mask)
    assert not filled[1, 1].any()
    for frame, band in np.ndindex(2, 3):
        alone = (slice(frame, frame + 1), slice(band, band + 1))
        np.testing.assert_allclose(filled[alone], fill(values[alone], mask[alone]), atol=1e-5)


@pytest.mark.parametrize("mask", [EDGE, EDGE[::-1], ~EDGE, np.roll(EDGE, 60, 1)])
def test_filling_continues_a_smooth_image_smoothly(mask: Array) -> None:
    values = smooth_image(4, 256)
    absent = broadcast(mask, 1, 4)
    filled = fill(np.where(absent, np.float32(np.nan), values), absent)
    for axis in (-1, -2):
        steps = np.abs(np.diff(filled, axis=axis))
        assert steps.max() < 0.1  # the image spans 3.5
        assert np.abs(np.diff(steps, axis=axis)).mean() < 0.002


@pytest.mark.parametrize(
    ("dtype", "nodata", "other"),
    [
        ("|u1", 0, 1),
        ("<u2", 0, 1),
        (">u2", 0, 1),
        ("<u2", 65535, 65534),
        ("<u2", 100, 99),
        ("<i2", 0, 1),
        (">i2", -9999, -9998),
        ("<i2", -32768, -32767),
        ("<i2", 32767, 32766),
        ("<i4", -(2**31), 1 - 2**31),
        ("<f4", 0.0, np.nextafter(np.float32(0), np.float32(1))),
        (">f4", -9999.0, np.nextafter(np.float32(-9999), np.float32(0))),
        ("<f4", np.inf, np.finfo(np.float32).max),
        (">f8", 0.1, np.nextafter(0.1, 0)),
        ("<f8", -0.0, np.nextafter(0.0, 1)),
    ],
)
def test_valid_pixels_never_become_nodata(dtype: str, nodata: float, other: float) -> None:
    values = np.full((1, 2, 3, 4), nodata, dtype)
    values[0, 0, 0] = 5
    mask = np.zeros(values.shape, np.bool_)
    mask[0, :, 1] = True
    keep_valid(values, mask, nodata)
    assert values.dtype == np.dtype(dtype)
    assert (values[mask] == np.array(nodata, dtype)).all()
    assert (values[0, 0, 0] == 5).all()
    assert (values[0, 0, 2] == np.array(other, dtype)).all()
    assert (values[~mask] != np.array(nodata, dtype)).all()


def test_nan_is_kept_where_it_was_and_nowhere_else() -> None:
    values = np.arange(12, dtype=">f4").reshape(1, 1, 3, 4)
    mask = values > 8
    keep_valid(values, mask, math.nan)
    np.testing.assert_array_equal(np.isnan(values), mask)
    np.testing.assert_array_equal(values[~mask], np.arange(9))


@pytest.mark.parametrize("nodata", [None, 0, math.nan])
def test_a_reconstruction_that_is_no_number_is_an_error(nodata: float | None) -> None:
    values = np.array([[[[1, np.nan, 3]]]], np.float32)
    with pytest.raises(FormatError, match="no numbers"):
        keep_valid(values, np.zeros(values.shape, np.bool_), nodata)


def test_without_nodata_every_value_is_valid() -> None:
    values = np.arange(4, dtype=np.uint16).reshape(1, 1, 2, 2)
    keep_valid(values, np.zeros(values.shape, np.bool_), None)
    np.testing.assert_array_equal(values.ravel(), np.arange(4))
