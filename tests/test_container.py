from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tec_zarr.container import (
    PREAMBLE,
    PREFIX,
    Header,
    TileData,
    front_size,
    pack_chunk,
    parse_chunk,
    parse_front,
    parse_tile,
)
from tec_zarr.errors import ChecksumError, ConfigError, FormatError
from tests.chunks import (
    changed,
    full_header,
    full_tiles,
    headers,
    plain,
    tiles_of,
    usual_header,
    values,
)

ONE_TILE = usual_header(shape=(1, 12, 64, 64))
CHUNKS = {
    "constant": pack_chunk(usual_header(), None, constant=7),
    "constant NaN": pack_chunk(usual_header(dtype=">f8", nodata=np.nan), None, constant=np.nan),
    "one tile": pack_chunk(ONE_TILE, [TileData(layers=(b"stream",), checksums=(1,))]),
    "empty streams": pack_chunk(ONE_TILE, [TileData(layers=(b"",), checksums=(0,))]),
    "everything": pack_chunk(full_header(), full_tiles()),
}
damaged = pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS.keys())


def resealed(front: bytes) -> bytes:
    """Make the size and the checksum of a front right again, as a forger would."""
    magic, version, flags, _ = PREAMBLE.unpack_from(front)
    body = PREAMBLE.pack(magic, version, flags, len(front)) + front[PREAMBLE.size : -4]
    return body + struct.pack("<I", google_crc32c.value(body))


def with_flags(front: bytes, flags: int) -> bytes:
    return resealed(front[:5] + struct.pack("<H", flags) + front[7:])


def read_by_parts(chunk: bytes) -> list[TileData]:
    """Read a chunk as a remote reader does: first bytes, front, then each tile."""
    prefix = chunk[:PREFIX]
    front = parse_front(chunk[: front_size(prefix)])
    extents = map(front.extent, range(len(front.segments)))
    return [
        parse_tile(front, index, chunk[start : start + size])
        for index, (start, size) in enumerate(extents)
    ]


@settings(deadline=None)
@given(st.data())
def test_a_chunk_comes_back_as_it_was(data: st.DataObject) -> None:
    header = data.draw(headers())
    tiles = data.draw(tiles_of(header))
    chunk = pack_chunk(header, tiles)
    front, parsed = parse_chunk(memoryview(chunk))
    assert plain(front.header) == plain(header)
    assert list(parsed) == tiles
    assert read_by_parts(chunk) == tiles
    assert front.constant is None
    assert front.total == len(chunk)


@settings(deadline=None)
@given(st.data())
def test_a_constant_chunk_holds_every_bit_of_its_value(data: st.DataObject) -> None:
    header = data.draw(headers())
    value = np.array(data.draw(values(header.dtype)), header.dtype)
    front, tiles = parse_chunk(pack_chunk(header, None, constant=value.flat[0]))
    assert not tiles
    assert np.array(front.constant, header.dtype).tobytes() == value.tobytes()
    stored = ("dtype", "order", "shape", "bands", "nodata", "scale", "offset")
    kept = {name: getattr(header, name) for name in stored}
    assert plain(front.header) == plain(Header(**kept))


def test_a_constant_may_be_a_nan_with_a_payload() -> None:
    value = np.frombuffer(b"\x7f\xc0\x12\x34", ">f4")[0]
    header = usual_header(dtype=">f4", nodata=np.nan)
    front, _ = parse_chunk(pack_chunk(header, None, constant=value))
    assert np.array(front.constant, ">f4").tobytes() == b"\x7f\xc0\x12\x34"


@damaged
def test_every_flipped_bit_is_an_error(chunk: bytes) -> None:
    for bit in range(8 * len(chunk)):
        bad = changed(chunk, bit)
        for read in (parse_chunk, read_by_parts):
            with pytest.raises(FormatError):
                read(bad)


@damaged
def test_every_truncation_and_every_appendix_is_an_error(chunk: bytes) -> None:
    for size in range(len(chunk)):
        for read in (parse_chunk, read_by_parts):
            with pytest.raises(FormatError):
                read(chunk[:size])
    for more in (b"\0", b"\xff", b"\0" * 4, chunk[-4:], chunk):
        with pytest.raises(FormatError):
            parse_chunk(chunk + more)


@settings(deadline=None)
@given(st.data())
def test_damage_of_any_kind_is_an_error(data: st.DataObject) -> None:
    header = data.draw(headers())
    chunk = pack_chunk(header, data.draw(tiles_of(header)))
    start = data.draw(st.integers(0, len(chunk) - 1))
    stop = data.draw(st.integers(start, len(chunk)))
    bad = chunk[:start] + data.draw(st.binary(max_size=8)) + chunk[stop:]
    if bad != chunk:
        with pytest.raises(FormatError):
            parse_chunk(bad)


@settings(deadline=None)
@given(st.sampled_from(list(CHUNKS.values())), st.data())
def test_a_forged_front_is_an_error_or_makes_sense(chunk: bytes, data: st.DataObject) -> None:
    front = bytearray(chunk[: front_size(chunk)])
    for _ in range(data.draw(st.integers(1, 4))):
        front[data.draw(st.integers(5, len(front) - 5))] = data.draw(st.integers(0, 255))
    forged = resealed(bytes(front[: data.draw(st.integers(PREAMBLE.size + 4, len(front)))]))
    tracemalloc.start()
    try:
        parsed = parse_front(forged)
        assert len(parsed.segments) <= len(forged)
        assert parsed.total >= len(forged)
    except FormatError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200_000


def test_a_hostile_number_of_tiles_costs_no_memory() -> None:
    header = usual_header(shape=(1, 1, 1, 2**31 - 1), dtype="|u1", bands=("B02",), tile=2**21)
    front = bytearray(pack_chunk(header, [TileData(layers=(b"",), checksums=(0,))] * 1024))
    front = front[: front_size(bytes(front))]
    sides = front.index(struct.pack("<H", 2**21 // 64) + struct.pack("<H", 64))
    front[sides : sides + 2] = struct.pack("<H", 1)
    tracemalloc.start()
    with pytest.raises(FormatError, match="does not fit its 33554431 tiles"):
        parse_front(resealed(bytes(front)))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_a_tile_of_another_chunk_is_an_error() -> None:
    tiles = [TileData(layers=(bytes([n]) * 50,), checksums=(n,)) for n in range(4)]
    front, _ = parse_chunk(pack_chunk(usual_header(), tiles))
    swapped, _ = parse_chunk(chunk := pack_chunk(usual_header(), tiles[::-1]))
    start, size = swapped.extent(0)
    with pytest.raises(ChecksumError):
        parse_tile(front, 0, chunk[start : start + size])
    assert parse_tile(front, 3, chunk[start : start + size]) == tiles[3]


def test_a_reader_may_stop_after_a_layer_and_leave_the_residual() -> None:
    tile, chunk = full_tiles()[1], pack_chunk(full_header(), full_tiles())
    front = parse_front(chunk[: front_size(chunk)])
    start, size = front.extent(1, layers=1)
    first = parse_tile(front, 1, chunk[start : start + size], layers=1)
    assert first == TileData(
        layers=tile.layers[:1],
        side=tile.side,
        overrides=tile.overrides,
        mask=tile.mask,
        checksums=tile.checksums[:1],
    )
    start, size = front.extent(1, layers=2)
    both = parse_tile(front, 1, chunk[start : start + size], layers=2)
    assert (both.layers, both.residual, both.checksums) == (tile.layers, b"", tile.checksums)
    assert start + size + len(tile.residual) == len(chunk)


@pytest.mark.parametrize(("tile", "layers"), [(-1, None), (2, None), (0, 0), (0, 3)])
def test_tiles_and_layers_that_are_not_there_are_refused(tile: int, layers: int | None) -> None:
    chunk = CHUNKS["everything"]
    with pytest.raises(ConfigError):
        parse_chunk(chunk)[0].extent(tile, layers)


def test_a_newer_version_says_to_upgrade() -> None:
    newer = b"TEC1\x02" + CHUNKS["one tile"][5:]
    with pytest.raises(FormatError, match=r"version 2; this release reads version 1.*upgrade"):
        front_size(newer)


@pytest.mark.parametrize("flag", [256, 512, 2**15])
def test_an_unknown_flag_says_to_upgrade(flag: int) -> None:
    chunk = CHUNKS["one tile"]
    with pytest.raises(FormatError, match=f"{flag:#06x} .*version 1 .*upgrade"):
        parse_front(with_flags(chunk[: front_size(chunk)], flag))


def test_other_bytes_are_no_chunk() -> None:
    for short in (b"", b"TEC1", bytes(10)):
        with pytest.raises(FormatError, match="at least 11 bytes"):
            parse_chunk(short)
    for other in (b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(100)):
        with pytest.raises(FormatError, match="a TEC chunk begins with b'TEC1'"):
            parse_chunk(other)


def test_a_tile_of_another_length_is_an_error() -> None:
    chunk = CHUNKS["one tile"]
    front, _ = parse_chunk(chunk)
    for tile in (b"", chunk[front.offsets[0] :] + b"\0", chunk[front.offsets[0] : -1]):
        with pytest.raises(FormatError, match=f"has {len(tile)} bytes, the index says 10"):
            parse_tile(front, 0, tile)


def test_bytes_between_a_constant_and_its_checksum_are_an_error() -> None:
    with pytest.raises(FormatError, match="1 unknown bytes"):
        parse_front(resealed(CHUNKS["constant"] + b"\0"))


def test_a_constant_chunk_has_nothing_of_a_model() -> None:
    chunk = CHUNKS["constant"]
    for flag in (16, 32, 64, 128):
        with pytest.raises(FormatError, match="model"):
            parse_front(with_flags(chunk, flag + 1))


def test_masks_need_a_nodata_value() -> None:
    tile = TileData(layers=(b"",), mask=b"mask", checksums=(0,))
    with pytest.raises(ConfigError, match="nodata"):
        pack_chunk(usual_header(shape=(12, 64, 64), nodata=None), [tile])
    chunk = pack_chunk(usual_header(shape=(12, 64, 64), nodata=0), [tile])
    front = chunk[: front_size(chunk)]
    without = front[:17] + front[19:]
    with pytest.raises(FormatError, match="nodata"):
        parse_front(with_flags(without, 0))


@pytest.mark.parametrize(
    ("tiles", "constant"),
    [
        (None, None),
        (None, 65536),
        (None, 0.5),
        ([], None),
        ([TileData(layers=(b"",), checksums=(0,))] * 3, None),
        ([*[TileData(layers=(b"",), checksums=(0,))] * 2, *full_tiles()], None),
    ],
)
def test_chunks_that_make_no_sense_are_refused(
    tiles: list[TileData] | None, constant: float | None
) -> None:
    with pytest.raises(ConfigError):
        pack_chunk(usual_header(), tiles, constant=constant)


def test_a_usual_header_and_index_are_small() -> None:
    tile = TileData(layers=(bytes(40_000),), mask=bytes(30), checksums=(0,))
    for header in (usual_header(), usual_header(scale=1e4, offset=-1000, shape=(8, 12, 512, 512))):
        chunk = pack_chunk(header, [tile] * 4)
        beside = len(chunk) - 4 * 40_030
        assert front_size(chunk) <= 96
        assert beside - 4 * 20 <= 96
    assert len(CHUNKS["constant"]) <= 32


def test_the_front_of_thousands_of_tiles_is_announced_by_its_prefix() -> None:
    header = usual_header(shape=(1, 12, 4096, 2048), dtype="|u1", tile=64)
    one = TileData(layers=(bytes(1000),), mask=b"m", side=b"s", checksums=(0,))
    tiles = [replace(one, checksums=(n,)) for n in range(2048)]
    chunk = pack_chunk(header, tiles)
    size = front_size(chunk[:PREFIX])
    assert PREFIX < size <= 96 + 20 * 2048
    assert parse_tile(front := parse_front(chunk[:size]), 2047, chunk[-1006:]) == tiles[-1]
    assert front.total == len(chunk)
