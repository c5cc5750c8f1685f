from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr import tiling
from tec_zarr.header import Replication
from tec_zarr.replication import ALONE, FACTORS, find, within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]

DTYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64")
LARGEST = Replication(6, 0, 0)
"""What a band without any change counts as."""


@st.composite
def blocks(draw: st.DrawFn) -> Replication:
    factor = draw(st.sampled_from(FACTORS))
    phases = st.integers(0, factor - 1)
    return Replication(factor, draw(phases), draw(phases))


def squares(block: Replication, height: int, width: int) -> NDArray[np.int64]:
    """The number of the square that each pixel lies in."""
    factor, y, x = block
    rows, columns = ((np.arange(n) - p) // factor + 1 for n, p in ((height, y), (width, x)))
    return rows[:, None] * 1000 + columns


def replicated(
    block: Replication, size: tuple[int, int, int], random: np.random.Generator, most: int = 200
) -> NDArray[np.uint8]:
    """Frames (frame, y, x) of random values, one for each square."""
    frames, height, width = size
    _, places = np.unique(squares(block, height, width), return_inverse=True)
    values = random.integers(0, most, (frames, height * width)).astype(np.uint8)
    return values[:, places.ravel()].reshape(size)


def fits(band: NDArray[Any], nodata: Bools | None, block: Replication) -> bool:
    """By the definition: the valid pixels of a square have one value, frame by frame."""
    masks = np.zeros(band.shape, bool) if nodata is None else nodata
    numbers = squares(block, *band.shape[1:])
    for frame, missing in zip(band, masks, strict=True):
        valid = ~missing
        pairs = set(zip(numbers[valid].tolist(), frame[valid].tolist(), strict=True))
        if len(pairs) > len({number for number, _ in pairs}):
            return False
    return True


def best_factor(band: NDArray[Any]) -> int:
    """The first factor that fits with any phases, 1 if none does."""
    return next(
        (
            factor
            for factor in FACTORS
            if any(
                fits(band, None, Replication(factor, y, x))
                for y, x in product(range(factor), repeat=2)
            )
        ),
        1,
    )


@given(st.data())
def test_replicated_bands_are_found_whatever_their_size_and_phase(data: st.DataObject) -> None:
    block = data.draw(blocks())
    size = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 26), st.integers(1, 26)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    band = replicated(block, size, random).astype(data.draw(st.sampled_from(DTYPES)))
    found = find(band[:, None], None)
    assert found is not None
    assert fits(band, None, found[0])
    assert found[0].factor == best_factor(band) >= block.factor


@given(blocks(), st.integers(0, 2**32))
def test_large_bands_show_their_factor_and_phases(block: Replication, seed: int) -> None:
    band = replicated(block, (2, 40, 50), np.random.default_rng(seed))
    assert find(band[:, None], None) == (block,)


@given(st.data())
def test_any_band_is_found_exactly_if_it_fits(data: st.DataObject) -> None:
    """Few different values: neighbouring squares may be alike by chance."""
    block = data.draw(blocks())
    size = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 14), st.integers(1, 14)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    band = replicated(block, size, random, most=2)
    if data.draw(st.booleans()):
        band.flat[data.draw(st.integers(0, band.size - 1))] ^= 1
    found = find(band[:, None], None) or (ALONE,)
    assert found[0].factor == best_factor(band)
    assert fits(band, None, found[0])


@given(st.data())
def test_one_wrong_pixel_is_enough(data: st.DataObject) -> None:
    block = data.draw(blocks())
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    band = replicated(block, (2, 30, 31), random)
    numbers = squares(block, 30, 31)
    y, x = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 30))
    if (numbers == numbers[y, x]).sum() == 1:
        return  # a square of a single pixel has no other one to differ from
    band[data.draw(st.integers(0, 1)), y, x] += 1
    found = find(band[:, None], None)
    assert found is None or found[0].factor < block.factor
    assert found is None or fits(band, None, found[0])


@given(st.data())
def test_holes_do_not_hide_replication_whatever_lies_in_them(data: st.DataObject) -> None:
    block = data.draw(blocks())
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    band = replicated(block, (2, 36, 40), random).astype(dtype)
    nodata = random.random(band.shape) < data.draw(st.sampled_from([0.001, 0.1, 0.5]))
    nodata[1, : data.draw(st.integers(0, 36))] = True
    worst: list[float] = [np.nan, np.inf, -np.inf, 0]
    if dtype.kind != "f":
        limits = np.iinfo(dtype.str)
        worst = [limits.min, limits.max, 0]
    band[nodata] = random.choice(np.array(worst, dtype), int(nodata.sum()))
    assert find(band[:, None], nodata[:, None]) == (block,)


@given(st.data())
def test_what_is_found_among_holes_fits(data: st.DataObject) -> None:
    """Also where changes of value lie behind gaps only."""
    block = data.draw(blocks())
    size = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 16), st.integers(1, 16)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    band = replicated(block, size, random, most=data.draw(st.sampled_from([2, 200])))
    for _ in range(data.draw(st.integers(0, 2))):
        band.flat[data.draw(st.integers(0, band.size - 1))] ^= 1
    nodata = random.random(size) < data.draw(st.floats(0, 1))
    found = find(band[:, None], nodata[:, None])
    assert found is None or fits(band, nodata, found[0])


@pytest.mark.parametrize("turned", [False, True])
def test_values_that_differ_across_a_gap_in_a_square_are_no_replication(turned: bool) -> None:
    band = replicated(LARGEST, (1, 24, 24), np.random.default_rng(0))
    nodata = np.zeros(band.shape, bool)
    nodata[:, :, 8:10] = True
    band[:, 6:12, 10:12] += 1  # the right side of a square whose middle is missing
    if turned:
        band, nodata = band.swapaxes(1, 2), nodata.swapaxes(1, 2)
    assert find(band[:, None], nodata[:, None]) == (Replication(3, 0, 0),)


def test_bands_are_found_one_by_one() -> None:
    random = np.random.default_rng(0)
    expected = (Replication(6, 5, 1), ALONE, Replication(2, 0, 1), Replication(3, 1, 2), LARGEST)
    bands = [replicated(block, (3, 40, 40), random) for block in expected[:4]]
    frames = np.stack([*bands, np.full((3, 40, 40), 7, np.uint8)], 1)
    assert find(frames, None) == find(frames, np.zeros(frames.shape, bool)) == expected
    assert find(frames[:, 1:2], None) is None


def test_bands_that_are_replicated_in_some_frames_only_are_not() -> None:
    random = np.random.default_rng(0)
    frames = replicated(LARGEST, (3, 24, 24), random)
    frames[2] = random.integers(0, 200, (24, 24))
    assert find(frames[:, None], None) is None
    assert find(frames[:2, None], None) == (LARGEST,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bands_without_a_change_are_squares_too(dtype: str) -> None:
    constant = np.full((2, 1, 30, 30), 9, dtype)
    assert find(constant, None) == find(constant, np.ones(constant.shape, bool)) == (LARGEST,)
    assert find(constant[:, :, :1, :1], None) == (LARGEST,)


def test_noise_in_a_single_row_is_noticed() -> None:
    """Only some rows are looked at first."""
    band = replicated(LARGEST, (1, 48, 48), np.random.default_rng(0))
    for row in range(48):
        other = band.copy()
        other[0, row, 20] ^= 255
        assert find(other[:, None], None) is None, row


@given(blocks(), st.integers(1, 300), st.integers(1, 300), st.sampled_from([64, 128]))
def test_tiles_count_phases_from_their_corner(
    block: Replication, height: int, width: int, side: int
) -> None:
    numbers = squares(block, height, width)
    for tile in tiling.plan(height, width, side):
        ((factor, y, x),) = within([block], tile)
        assert factor == block.factor
        assert max(y, x) < factor
        whole = numbers[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
        own = squares(Replication(factor, y, x), tile.height, tile.width)
        # The same borders between squares: numbers grow in the same places.
        for axis in (0, 1):
            assert (np.diff(whole, axis=axis) == np.diff(own, axis=axis)).all()
