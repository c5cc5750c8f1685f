from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tec_zarr.errors import ConfigError
from tec_zarr.tiling import Tile, count, overlapping, padded, plan

SIZES = st.integers(1, 700)
SIDES = st.sampled_from([64, 128, 192, 256, 512])
BORDERS = st.builds(lambda tile, step: 64 * tile + step, st.integers(-9, 9), st.integers(-1, 1))
ENDS = st.none() | st.integers(-800, 800) | BORDERS
SLICES = st.builds(slice, ENDS, ENDS, st.none() | st.integers(-300, 300).filter(bool))


@given(SIZES, SIZES, SIDES)
def test_every_pixel_is_in_one_tile(height: int, width: int, side: int) -> None:
    covered = np.zeros((height, width), int)
    for tile in plan(height, width, side):
        covered[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
    assert (covered == 1).all()


@given(SIZES, SIZES, SIDES)
def test_tiles_are_neither_slivers_nor_giants(height: int, width: int, side: int) -> None:
    tiles = plan(height, width, side)
    assert len(tiles) == count(height, width, side)
    assert list(tiles) == sorted(tiles, key=lambda tile: (tile.y, tile.x))
    for tile in tiles:
        assert min(64, height) <= tile.height < side + 64
        assert min(64, width) <= tile.width < side + 64


def test_a_remainder_of_64_pixels_is_a_tile_and_a_smaller_one_is_not() -> None:
    assert [tile.width for tile in plan(1, 512, 256)] == [256, 256]
    assert [tile.width for tile in plan(1, 512 + 63, 256)] == [256, 319]
    assert [tile.width for tile in plan(1, 512 + 64, 256)] == [256, 256, 64]
    assert plan(300, 1, 256) == (Tile(0, 0, 300, 1),)


@given(SIZES, SIZES, SIDES, SLICES, SLICES)
@example(256, 256, 128, slice(128, 129), slice(127, 128))
def test_a_selection_needs_the_tiles_that_it_touches(
    height: int, width: int, side: int, y: slice, x: slice
) -> None:
    selected = np.zeros((height, width), bool)
    selected[y, x] = True
    tiles = plan(height, width, side)
    touched = [
        selected[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width].any()
        for tile in tiles
    ]
    assert overlapping(tiles, y, x) == tuple(np.flatnonzero(touched))


def test_counting_tiles_makes_none() -> None:
    assert count(1, 2**40, 64) == 2**34


@pytest.mark.parametrize(
    ("height", "width", "side"), [(0, 5, 64), (5, 0, 64), (5, 5, 0), (5, 5, -64), (5, 5, 100)]
)
def test_sizes_that_make_no_sense_are_refused(height: int, width: int, side: int) -> None:
    for function in (plan, count):
        with pytest.raises(ConfigError):
            function(height, width, side)


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_padding_reaches_the_next_multiple(size: int, multiple: int) -> None:
    result = padded(size, multiple)
    assert result % multiple == 0
    assert size <= result < size + multiple
