"""Replicated bands and rotations of bands on their way through whole chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tec_zarr import container, tiling
from tec_zarr.codec import decode_chunk, decode_window, encode_chunk, plan_window
from tec_zarr.errors import ChecksumError, FormatError
from tec_zarr.header import Replication
from tec_zarr.replication import ALONE
from tests.chunks import changed
from tests.test_codec import DTYPES, options, rmse, scene
from tests.test_replication import squares
from tests.tiny import RGB

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tec_zarr.container import Front, TileData

pytestmark = pytest.mark.usefixtures("known_models")

BLOCKS = (Replication(6, 4, 1), ALONE, Replication(2, 0, 1))
"""How the bands of `steps` are replicated."""


def steps(*shape: int) -> NDArray[np.uint16]:
    """A scene whose bands are replicated as `BLOCKS` says."""
    chunk = scene(*shape)
    height, width = shape[-2:]
    for band, (factor, y, x) in enumerate(BLOCKS[: shape[-3]]):
        rows, columns = (
            np.clip((np.arange(n) - p) // factor * factor + p, 0, None)
            for n, p in ((height, y), (width, x))
        )
        chunk[..., band, :, :] = chunk[..., band, rows[:, None], columns]
    return chunk


def opened(data: bytes) -> tuple[Front, list[TileData]]:
    front, tiles = container.parse_chunk(data)
    return front, list(tiles)


def is_constant(values: NDArray[Any], block: Replication, valid: NDArray[np.bool_]) -> bool:
    """Whether the valid pixels of all squares of (frame, y, x) are alike, bit by bit."""
    numbers = squares(block, *values.shape[1:])
    for frame, seen in zip(values, valid, strict=True):
        order = numbers[seen].argsort(kind="stable")
        inside = np.diff(numbers[seen][order]) == 0
        if (frame[seen][order][1:] != frame[seen][order][:-1])[inside].any():
            return False
    return True


@pytest.mark.parametrize("dtype", DTYPES)
def test_squares_come_back_as_squares(tiny: str, dtype: str) -> None:
    byte = dtype == "|u1"
    chunk = (steps(2, 3, 90, 101) // (64 if byte else 1)).astype(dtype)
    data = encode_chunk(chunk, options(tiny, scale=64 if byte else 1))
    header = opened(data)[0].header
    assert header.replication == BLOCKS
    back = decode_chunk(data)
    assert back.dtype.str == dtype
    assert rmse(back, chunk) < 200
    valid = np.ones((2, 90, 101), bool)
    for band, block in enumerate(BLOCKS):
        assert is_constant(back[:, band], block, valid)
    assert not is_constant(back[:, 1], Replication(2, 0, 0), valid)


def test_chunks_without_replication_do_not_mention_it(tiny: str) -> None:
    assert opened(encode_chunk(scene(3, 64, 64), options(tiny)))[0].header.replication is None


@pytest.mark.parametrize(("dtype", "nodata"), [("<u2", 0), (">i2", -9999), ("<f4", "NaN")])
def test_nodata_in_replicated_bands_is_exact(tiny: str, dtype: str, nodata: Any) -> None:
    chunk = steps(2, 3, 100, 90).astype(dtype)
    mask = np.random.default_rng(1).random(chunk.shape) < 0.1
    mask[:, :, 20:50, 33:70] = True
    mask[1, 0] = True
    chunk[mask] = float(nodata)
    data = encode_chunk(chunk, options(tiny, nodata=nodata))
    assert opened(data)[0].header.replication == BLOCKS
    back = decode_chunk(data)
    assert ((np.isnan(back) if nodata == "NaN" else back == nodata) == mask).all()
    assert rmse(back[~mask], chunk[~mask]) < 300
    for band, block in enumerate(BLOCKS):
        assert is_constant(back[:, band], block, ~mask[:, band])


@pytest.mark.parametrize("bands", [("B04",), ("B04", "B02"), RGB[::-1]])
def test_subsets_of_bands_may_be_replicated(tiny: str, bands: tuple[str, ...]) -> None:
    chunk = steps(len(bands), 70, 80)
    data = encode_chunk(chunk, options(tiny, bands=bands, quality=50))
    assert opened(data)[0].header.replication == BLOCKS[: len(bands)]
    back = decode_chunk(data)
    assert rmse(back, chunk) < 200
    assert is_constant(back[:1], BLOCKS[0], np.ones((1, 70, 80), bool))


def test_replicated_bands_come_out_closer_than_others(tiny: str) -> None:
    chunk = scene(3, 96, 96)
    chunk[:2] = chunk[:2, ::6, ::6].repeat(6, 1).repeat(6, 2)
    back = decode_chunk(encode_chunk(chunk, options(tiny, quality=30)))
    assert max(rmse(back[b], chunk[b]) for b in (0, 1)) < rmse(back[2], chunk[2])


def test_pixels_are_means_over_the_valid_part_of_a_square_in_its_tile(tiny: str) -> None:
    """docs/format.md, with factors that no encoder of ours looks for."""
    chunk = scene(2, 3, 150, 130).astype("<f4")
    chunk[:, :, 40:90, 50:75] = np.nan
    chunk[1, 2, ::3, ::7] = np.nan
    config = options(tiny, nodata="NaN", tile=64)
    front, tiles = opened(encode_chunk(chunk, config))
    bare = decode_chunk(container.pack_chunk(front.header, tiles))
    blocks = (Replication(64, 63, 1), Replication(5, 2, 4), Replication(7, 0, 6))
    forged = container.pack_chunk(replace(front.header, replication=blocks), tiles)
    back = decode_chunk(forged)
    assert (np.isnan(back) == np.isnan(chunk)).all()
    for tile in tiling.plan(150, 130, 64):
        place = (slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width))
        for band, block in enumerate(blocks):
            numbers = squares(block, 150, 130)[place]
            for frame in range(2):
                before, after = bare[frame, band][place], back[frame, band][place]
                valid = ~np.isnan(before)
                for number in np.unique(numbers[valid]):
                    inside = valid & (numbers == number)
                    mean = before[inside].astype(float).mean()
                    assert np.allclose(after[inside], mean, rtol=0, atol=0.01)


@pytest.fixture(scope="module")
def stepped(tiny: str, model_folder: Path) -> tuple[bytes, NDArray[Any]]:
    """A chunk of six tiles whose squares lie across their borders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEC_ZARR_MODELS", str(model_folder))
        chunk = steps(2, 3, 150, 200)
        chunk[:, :, :80, 130:] = 0
        encoded = encode_chunk(chunk, options(tiny, tile=64))
        return encoded, decode_chunk(encoded)


def test_tiles_decode_alone_as_they_do_together(stepped: tuple[bytes, NDArray[Any]]) -> None:
    """A square that lies in two tiles is averaged in each for itself."""
    encoded, decoded = stepped
    front, tiles = opened(encoded)
    assert front.header.replication == BLOCKS
    assert all(tile.side for tile in tiles)
    valid = decoded != 0
    for tile in tiling.plan(150, 200, 64):
        place = (slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width))
        selection = (slice(None), slice(None), *place)
        window = windowed(encoded, selection)
        assert np.abs(window.astype(int) - decoded[selection]).max() <= 1
        for band, (factor, y, x) in enumerate(BLOCKS):
            block = Replication(factor, (y - tile.y) % factor, (x - tile.x) % factor)
            assert is_constant(window[:, band], block, valid[selection][:, band])


@given(st.data())
@settings(max_examples=30)
def test_windows_with_rotations_are_parts_of_the_chunk(
    stepped: tuple[bytes, NDArray[Any]], data: st.DataObject
) -> None:
    encoded, decoded = stepped
    selection = tuple(
        data.draw(st.one_of(st.integers(-n, n - 1), st.slices(n))) for n in decoded.shape
    )
    window, expected = windowed(encoded, selection), decoded[selection]
    assert window.shape == expected.shape
    assert np.abs(window.astype(int) - expected).max(initial=0) <= 1


def windowed(encoded: bytes, selection: tuple[Any, ...]) -> NDArray[Any]:
    """Decode a selection from the tiles that it needs."""
    front = container.parse_front(encoded[: container.front_size(encoded)])
    parts = {}
    for index in plan_window(front, selection):
        start, size = front.extent(index)
        parts[index] = encoded[start : start + size]
    return decode_window(front, parts, selection)


@given(st.data())
@settings(max_examples=30)
def test_flipped_bits_of_rotations_are_noticed(
    stepped: tuple[bytes, NDArray[Any]], data: st.DataObject
) -> None:
    """By their checksum; by the rotations themselves if somebody mends that."""
    encoded, _ = stepped
    front, tiles = opened(encoded)
    index = data.draw(st.integers(0, len(tiles) - 1))
    side = tiles[index].side
    place = encoded.index(side, front.extent(index)[0])
    bit = data.draw(st.integers(0, 8 * len(side) - 1))
    with pytest.raises(ChecksumError):
        decode_chunk(changed(encoded, 8 * place + bit))
    tiles[index] = replace(tiles[index], side=changed(side, bit))
    try:
        decode_chunk(container.pack_chunk(front.header, tiles))
    except FormatError:
        return
    # A bit of an angle is as good as another; counts and padding are not.
    tiles[index] = replace(tiles[index], side=side[:-1])
    with pytest.raises(FormatError, match="rotations"):
        decode_chunk(container.pack_chunk(front.header, tiles))


@pytest.mark.parametrize("side", [b"\0", b"side", bytes(1000)])
def test_rotations_in_models_without_them_are_an_error(strided: str, side: bytes) -> None:
    data = encode_chunk(scene(1, 12, 64, 64), options(strided, quality=10, bands=None))
    front, (tile,) = opened(data)
    assert tile.side == b""
    with pytest.raises(FormatError, match="nothing beside"):
        decode_chunk(container.pack_chunk(front.header, [replace(tile, side=side)]))
