from __future__ import annotations

import numpy as np
import pytest

from tec_zarr.errors import ConfigError, FormatError
from tec_zarr.sections import TileData, pack_tiles, parse_index, split_tile
from tec_zarr.wire import Reader, crc32c
from tests.chunks import full_tiles


def test_tiles_come_back_by_way_of_the_index() -> None:
    tiles = full_tiles()
    packed, bodies = pack_tiles(tiles)
    reader = Reader(packed)
    index = parse_index(reader, 2)
    assert not reader.left
    assert index.segments.sum(axis=1).tolist() == [len(body) for body in bodies]
    for tile, body, sizes in zip(tiles, bodies, index.sections.tolist(), strict=True):
        assert split_tile(body, sizes, 2) == tile


def test_segments_have_their_checksums_in_the_index() -> None:
    packed, (body,) = pack_tiles([TileData(layers=(b"ab", b"c"), checksums=(1, 2))])
    index = parse_index(Reader(packed), 1)
    assert body == b"\x01\0\0\0ab\x02\0\0\0c"
    assert index.checksums.tolist() == [[crc32c(body[:6]), crc32c(body[6:])]]


def test_sizes_take_as_few_bytes_as_the_largest_of_their_kind() -> None:
    tiles = [TileData(layers=(bytes(size),), checksums=(0,), side=b"s") for size in (0, 255, 256)]
    assert pack_tiles(tiles[:2])[0][:10] == bytes([1, 0, 1, 0, 1, 0]) + b"\1\1" + b"\x00\xff"
    packed = pack_tiles(tiles)[0]
    assert packed[:6] == bytes([1, 0, 1, 0, 2, 0])
    assert packed[9:15] == np.array([0, 255, 256], "<u2").tobytes()
    assert len(packed) == 6 + 3 * (1 + 2 + 4)


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"\0",
        bytes([1, 0, 0, 0]),
        bytes([0, 0, 0, 0, 0]),
        bytes([1, 0, 0, 0, 0, 0]) + bytes(3),
        bytes([1, 0, 0, 0, 0, 0]) + bytes(5),
        bytes([1, 0, 0, 0, 5, 0]) + bytes(5 + 4),
        bytes([1, 0, 0, 0, 8, 0]) + b"\xff" * 8 + bytes(4),
        bytes([1, 0, 0, 0, 0, 1]) + bytes(1 + 4),
        bytes([2, 0, 0, 0, 0, 0]) + bytes(4),
    ],
)
def test_an_index_that_makes_no_sense_is_an_error(index: bytes) -> None:
    with pytest.raises(FormatError):
        parse_index(Reader(index), 1)


def test_tiles_must_have_the_same_layers() -> None:
    one = TileData(layers=(b"",), checksums=(0,))
    for tiles in ([], [one, *full_tiles()]):
        with pytest.raises(ConfigError, match="layers"):
            pack_tiles(tiles)


def test_every_layer_has_a_checksum() -> None:
    for layers, checksums in (
        ((), ()),
        ((b"", b""), (0,)),
        ((b"",), (0, 1)),
        ((b"",) * 256, (0,) * 256),
    ):
        with pytest.raises(ConfigError, match="layer"):
            TileData(layers=layers, checksums=checksums)
