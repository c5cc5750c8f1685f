from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from tec_zarr.bands import S2L1C, S2L2A
from tec_zarr.errors import ConfigError, FormatError
from tec_zarr.header import (
    BLOCK_CODES,
    Achieved,
    Flags,
    Header,
    Replication,
    pack_header,
    parse_header,
    stored_value,
)
from tec_zarr.wire import Reader, varint
from tests.chunks import full_header, headers, plain, usual_header


@settings(deadline=None)
@given(headers())
def test_a_header_comes_back_as_it_was(header: Header) -> None:
    flags, packed = pack_header(header, constant=False)
    reader = Reader(packed)
    assert plain(parse_header(reader, flags)) == plain(header)
    assert not reader.left


def test_every_part_has_its_flag() -> None:
    assert pack_header(usual_header(nodata=None), constant=False)[0] == 0
    flags = pack_header(full_header(), constant=False)[0]
    assert flags == Flags.CONSTANT ^ Flags(sum(Flags))
    value = Flags.CONSTANT | Flags.FORTRAN | Flags.NODATA | Flags.SCALING
    assert pack_header(full_header(), constant=True)[0] == value


def test_well_known_band_orders_cost_one_byte() -> None:
    usual = len(pack_header(usual_header(), constant=False)[1])
    l1c = usual_header(bands=S2L1C, shape=(1, 13, 512, 512))
    reverse = usual_header(bands=S2L2A[::-1])
    assert len(pack_header(l1c, constant=False)[1]) == usual
    assert len(pack_header(reverse, constant=False)[1]) == usual + 12


def test_the_replication_of_a_band_costs_one_byte_up_to_factor_6() -> None:
    blocks = [
        Replication(factor, y, x)
        for factor in range(1, 65)
        for y in range(factor)
        for x in range(factor)
    ]
    assert len(blocks) == BLOCK_CODES[-1]
    usual = len(pack_header(usual_header(), constant=False)[1])
    for start in range(0, 91 - 12, 12):
        header = usual_header(replication=tuple(blocks[start : start + 12]))
        assert len(pack_header(header, constant=False)[1]) == usual + 12


def test_an_unknown_replication_is_refused() -> None:
    header = usual_header(bands=("B02",), shape=(1, 8, 8), replication=(Replication(64, 63, 63),))
    flags, packed = pack_header(header, constant=False)
    last, beyond = varint(BLOCK_CODES[-1] - 1), varint(BLOCK_CODES[-1])
    assert packed.count(last) == 1
    with pytest.raises(FormatError, match="replication"):
        parse_header(Reader(packed.replace(last, beyond)), flags)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "<u8"},
        {"dtype": "uint16"},
        {"order": "A"},
        {"shape": (512, 512), "bands": ()},
        {"shape": (1,) * 30 + (12, 8, 8)},
        {"shape": (0, 12, 8, 8)},
        {"shape": (1, 13, 8, 8)},
        {"bands": (*S2L2A[:-1], "B13")},
        {"bands": (*S2L2A[:-1], "B01")},
        {"nodata": 65536},
        {"nodata": -1},
        {"nodata": 0.5},
        {"nodata": math.nan},
        {"nodata": math.inf},
        {"scale": 0},
        {"scale": math.nan},
        {"offset": math.inf},
        {"replication": (Replication(2, 0, 0),)},
        {"replication": (Replication(2, 2, 0),) * 12},
        {"replication": (Replication(65, 0, 0),) * 12},
        {"replication": (Replication(0, 0, 0),) * 12},
        {"max_error": -1.0},
        {"max_error": math.nan},
        {"achieved": Achieved(1, math.inf)},
        {"tile": 0},
        {"tile": 100},
        {"tile": 64 << 16},
        {"quality": 65536},
        {"quality": -1},
        {"lower": (0,)},
        {"lower": (0, 1)},
        {"lower": (0, 1), "shape": (3, 12, 8, 8)},
        {"lower": (0, 0), "shape": (2, 12, 8, 8)},
        {"lower": (1, 1), "shape": (2, 12, 8, 8)},
        {"lower": (1, 2), "shape": (2, 12, 8, 8)},
        {"lower": (0, 65), "shape": (2, 12, 8, 8)},
        {"lower": (0, -1), "shape": (2, 12, 8, 8)},
        {"artifact": b"short"},
    ],
)
def test_headers_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        usual_header(**changes)


def test_codes_of_steps_cost_a_byte_each_where_they_differ() -> None:
    shape = (2, 3, 12, 8, 8)
    usual = pack_header(usual_header(shape=shape), constant=False)
    header = usual_header(shape=shape, lower=(0, 64, 5))
    flags, packed = pack_header(header, constant=False)
    assert (flags, packed) == (usual[0] | Flags.FRAMES, usual[1] + b"\x00\x40\x05")
    assert pack_header(header, constant=True) == pack_header(
        usual_header(shape=shape), constant=True
    )
    for wrong in (b"\x00\x40", b"\x00\x41\x05", b"\x00\x00\x00", b"\x01\x40\x05", b"\xff" * 9):
        with pytest.raises(FormatError):
            parse_header(Reader(usual[1] + wrong), flags)


def test_the_decoded_size_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    large = {"shape": (86, 12, 1024, 1024)}
    flags, packed = pack_header(usual_header(shape=(85, 12, 1024, 1024)), constant=False)
    with pytest.raises(ConfigError, match=r"over the limit of 2147483648.*MAX_CHUNK_BYTES"):
        usual_header(**large)
    monkeypatch.setenv("TEC_ZARR_MAX_CHUNK_BYTES", str(1 << 32))
    assert usual_header(**large).shape[0] == 86
    monkeypatch.setenv("TEC_ZARR_MAX_CHUNK_BYTES", "1000")
    with pytest.raises(FormatError, match="over the limit of 1000"):
        parse_header(Reader(packed), flags)
    monkeypatch.setenv("TEC_ZARR_MAX_CHUNK_BYTES", "2 GiB")
    with pytest.raises(ConfigError, match="'2 GiB', expected a number of bytes"):
        usual_header()


@pytest.mark.parametrize("field", [0, 1, 6])
def test_codes_of_a_later_version_are_refused(field: int) -> None:
    flags, packed = pack_header(usual_header(shape=(1, 12, 8, 8)), constant=False)
    with pytest.raises(FormatError, match="unknown to version 1"):
        parse_header(Reader(packed[:field] + b"\x63" + packed[field + 1 :]), flags)


def test_a_band_code_of_a_later_version_is_refused() -> None:
    header = usual_header(bands=("B12", "B02"), shape=(2, 8, 8))
    flags, packed = pack_header(header, constant=False)
    assert packed[5:8] == b"\x00\x0c\x01"
    with pytest.raises(FormatError, match="band code 13"):
        parse_header(Reader(packed[:6] + b"\x0d" + packed[7:]), flags)


def test_a_header_that_contradicts_itself_is_damaged() -> None:
    flags, packed = pack_header(usual_header(bands=("B12", "B02"), shape=(2, 8, 8)), constant=False)
    with pytest.raises(FormatError, match="repeated band"):
        parse_header(Reader(packed[:6] + b"\x01" + packed[7:]), flags)


@pytest.mark.parametrize(
    ("value", "dtype", "stored"),
    [
        (0.0, "<u2", b"\0\0"),
        (65535, ">u2", b"\xff\xff"),
        (-9999, ">i2", b"\xd8\xf1"),
        (-9999.0, "<i4", b"\xf1\xd8\xff\xff"),
        (-0.0, ">f4", b"\x80\0\0\0"),
        (3.40282347e38, ">f4", b"\x7f\x7f\xff\xff"),
        (-math.inf, ">f4", b"\xff\x80\0\0"),
        (np.float32(1e20), ">f8", b"\x44\x15\xaf\x1d\x80\0\0\0"),
    ],
)
def test_values_are_stored_as_the_array_holds_them(value: float, dtype: str, stored: bytes) -> None:
    assert stored_value(value, dtype).tobytes() == stored


@pytest.mark.parametrize(
    ("value", "dtype"), [(256, "|u1"), (-1, "|u1"), (32768, "<i2"), (1.5, "<i4"), (1e39, "<f4")]
)
def test_values_that_a_dtype_cannot_hold_are_refused(value: float, dtype: str) -> None:
    with pytest.raises(ConfigError, match="is no value of"):
        stored_value(value, dtype)


def test_nodata_becomes_what_the_array_holds() -> None:
    assert usual_header(dtype="<f4", nodata=0.1).nodata == np.float32(0.1)
    assert isinstance(usual_header(nodata=0.0).nodata, int)
