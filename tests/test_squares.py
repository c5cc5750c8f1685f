from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tec_zarr.header import Replication
from tec_zarr.models.squares import average, averaged, smooth, smoothed
from tec_zarr.replication import ALONE
from tests.test_replication import blocks, squares

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 30))


def places(block: Replication, size: tuple[int, int, int]) -> Tensor:
    """The number of the square of each pixel, counted without gaps."""
    numbers = np.unique(squares(block, *size[1:]), return_inverse=True)[1]
    return torch.from_numpy(numbers.reshape(size[1:]))


def means(values: Tensor, numbers: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of the valid pixels of each square, (frame, square); NaN without any."""
    weights = torch.ones_like(values) if valid is None else valid.to(values)
    shown = values.masked_fill(weights == 0, 0)
    empty = torch.zeros(len(values), int(numbers.max()) + 1, dtype=values.dtype)
    total, weight = (empty.index_add(1, numbers.ravel(), v.flatten(1)) for v in (shown, weights))
    return total / weight


def random_frames(data: st.DataObject, size: tuple[int, int, int]) -> Tensor:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    return torch.from_numpy(random.normal(0, data.draw(st.sampled_from([0.1, 3.0, 50.0])), size))


@given(blocks(), SIZES, st.data())
def test_smoothing_keeps_the_mean_of_each_square(
    block: Replication, size: tuple[int, int, int], data: st.DataObject
) -> None:
    """Also of those that a border cuts."""
    numbers, frames = places(block, size), random_frames(data, size)
    stepped = means(frames, numbers)[:, numbers]
    smooth_frames = smoothed(stepped, block)
    assert smooth_frames.shape == frames.shape
    assert torch.allclose(means(smooth_frames, numbers), means(frames, numbers), atol=1e-9)
    # What is no replicated band at all is averaged first.
    assert torch.allclose(smoothed(frames, block), smooth_frames, atol=1e-9)


@given(blocks(), st.integers(1, 40), st.integers(1, 40), st.floats(-9, 9), st.floats(-9, 9))
def test_a_plane_comes_back_from_its_squares(
    block: Replication, height: int, width: int, down: float, right: float
) -> None:
    if min(height, width) <= 2 * block.factor:
        height, width = height + 2 * block.factor, width + 2 * block.factor
    y, x = torch.arange(height).double(), torch.arange(width).double()
    plane = (down * y[:, None] + right * x)[None]
    numbers = places(block, (1, height, width))
    stepped = means(plane, numbers)[:, numbers]
    assert torch.allclose(smoothed(stepped, block), plane, atol=1e-9)


def test_smoothing_takes_the_steps_out_of_a_smooth_band() -> None:
    y = torch.arange(96).double() / 15
    block, band = Replication(6, 0, 0), (y[:, None].sin() * y.cos())[None]
    stepped = averaged(band, block, None)
    found = smoothed(stepped, block)
    assert (found - band).square().mean() < 0.05 * (stepped - band).square().mean()
    assert found.diff(dim=1).abs().max() < 0.4 * stepped.diff(dim=1).abs().max()


def test_only_replicated_bands_of_the_tiles_that_have_them_change() -> None:
    blocks_of_tiles = [(Replication(2, 0, 1), ALONE), (ALONE, ALONE), (Replication(2, 0, 1), ALONE)]
    given_frames = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (3, 2, 2, 8, 8)))
    smooth_frames, average_frames = given_frames.clone(), given_frames.clone()
    smooth(smooth_frames, blocks_of_tiles)
    average(average_frames, blocks_of_tiles, None)
    for frames in (smooth_frames, average_frames):
        assert torch.equal(frames[1], given_frames[1])
        assert torch.equal(frames[:, :, 1], given_frames[:, :, 1])
    for tile in (0, 2):
        band, block = given_frames[tile, :, 0], blocks_of_tiles[tile][0]
        assert torch.equal(smooth_frames[tile, :, 0], smoothed(band, block))
        assert torch.equal(average_frames[tile, :, 0], averaged(band, block, None))


@given(blocks(), SIZES, st.data())
def test_averaging_makes_squares_of_one_value(
    block: Replication, size: tuple[int, int, int], data: st.DataObject
) -> None:
    numbers, frames = places(block, size), random_frames(data, size)
    found = averaged(frames, block, None)
    assert torch.allclose(found, means(frames, numbers)[:, numbers], atol=1e-9)
    order = numbers.flatten().argsort()
    jumps = found.flatten(1)[:, order].diff(dim=1) != 0
    assert not (jumps & (numbers.flatten()[order].diff() == 0)).any()
    assert torch.allclose(averaged(found, block, None), found, atol=1e-9)


@given(blocks(), SIZES, st.data())
def test_averaging_never_raises_the_error_of_a_replicated_band(
    block: Replication, size: tuple[int, int, int], data: st.DataObject
) -> None:
    numbers, frames = places(block, size), random_frames(data, size)
    truth = random_frames(data, size)
    truth = means(truth, numbers)[:, numbers]
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    valid = torch.from_numpy(random.random(size) < data.draw(st.floats(0, 1)))
    for mask in (None, valid):
        seen = torch.ones(size, dtype=torch.bool) if mask is None else mask
        before, after = (
            ((found - truth)[seen]).square().sum()
            for found in (frames, averaged(frames, block, mask))
        )
        assert after <= before * (1 + 1e-12) + 1e-9


@given(blocks(), SIZES, st.data())
def test_pixels_under_a_mask_do_not_count(
    block: Replication, size: tuple[int, int, int], data: st.DataObject
) -> None:
    numbers, frames = places(block, size), random_frames(data, size)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    valid = torch.from_numpy(random.random(size) < data.draw(st.floats(0, 1)))
    found = averaged(frames, block, valid)
    expected = means(frames, numbers, valid)[:, numbers]
    assert torch.allclose(found[valid], expected[valid], atol=1e-9)
    assert found.isfinite().all()
    hidden = torch.where(valid, frames, frames + 1e6)
    assert torch.allclose(averaged(hidden, block, valid)[valid], found[valid], atol=1e-9)


@pytest.mark.parametrize("mask", [False, True])
def test_averaging_works_in_the_precision_of_a_decoder(mask: bool) -> None:
    block = Replication(6, 2, 5)
    frames = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2, 2, 1, 20, 20))).float()
    nodata = np.zeros(frames.shape, bool)
    nodata[:, :, :, 5:9, :3] = mask
    expected = averaged(frames[:, :, 0], block, torch.from_numpy(~nodata[:, :, 0]))
    average(frames, [(block,), (block,)], nodata if mask else None)
    assert frames.dtype == torch.float32
    assert torch.equal(frames[:, :, 0], expected)
