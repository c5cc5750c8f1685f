from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr.errors import FormatError
from tec_zarr.wire import Reader, crc32c, varint


@given(st.integers(0, 2**63 - 1), st.binary())
def test_a_number_comes_back_and_what_follows_is_left(value: int, rest: bytes) -> None:
    reader = Reader(varint(value) + rest)
    assert reader.varint() == value
    assert reader.left == len(rest)
    assert reader.take(reader.left) == rest


@given(st.binary(max_size=12))
def test_numbers_are_written_in_one_way_only(data: bytes) -> None:
    reader = Reader(data)
    try:
        value = reader.varint()
    except FormatError:
        return
    assert varint(value) == data[: len(data) - reader.left]


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9, b"\x80" * 9 + b"\x01"])
def test_numbers_that_end_early_or_late_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Reader(data).varint()


def test_nothing_is_taken_beyond_the_end() -> None:
    reader = Reader(b"abc")
    with pytest.raises(FormatError, match="4 bytes expected where 3 are left"):
        reader.unpack(struct.Struct("<I"))
    assert reader.take(3) == b"abc"


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
