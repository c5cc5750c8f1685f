from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tec_zarr.bands import S2L2A
from tec_zarr.evaluate.landcover import KINDS, kinds_of, ndvi_errors
from tec_zarr.evaluate.metrics import Distortion, nodata_of, spectral_angle
from tec_zarr.evaluate.ssim import ssim_map
from tec_zarr.evaluate.tally import EDGE, INNER, INTERIOR, Series, Tally, places, tally
from tests.cubes import pixels


def noisy(series: Series) -> np.ndarray:
    noise = np.random.default_rng(1).integers(-40, 41, series.data.shape)
    return np.clip(series.data + noise, 1, 65535).astype(np.uint16)


def test_similarity_is_that_of_a_hand_calculation() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(500, 3000, (2, 11, 11)).astype(float)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    means = [(window * image).sum() for image in (first, second)]
    both = [image - mean for image, mean in zip((first, second), means, strict=True)]
    one, two = ((window * part**2).sum() for part in both)
    shared = (window * both[0] * both[1]).sum()
    expected = (2 * means[0] * means[1] + 100**2) * (2 * shared + 300**2)
    expected /= (means[0] ** 2 + means[1] ** 2 + 100**2) * (one + two + 300**2)
    found = ssim_map(first, second)
    assert found.shape == (1, 1)
    assert float(found[0, 0]) == pytest.approx(expected, rel=1e-5)


def test_similarity_is_1_for_the_same_image_and_empty_for_small_ones() -> None:
    band = pixels((1, 40, 50))[0]
    assert ssim_map(band, band).shape == (30, 40)
    assert np.allclose(ssim_map(band, band), 1)
    assert ssim_map(band, band + 300).max() < 1
    assert ssim_map(band[:10], band[:10]).size == 0


SPECTRA = {  # reflectance of B03, B04, B08, B11 in percent
    "snow": (80, 78, 70, 8),
    "cloud": (45, 44, 46, 35),
    "water": (5, 3, 2, 1),
    "vegetation": (6, 4, 40, 18),
    "built-up or bare": (12, 15, 20, 26),
    "other": (9, 10, 15, 14),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_told_by_textbook_spectra(kind: str) -> None:
    frame = np.full((12, 2, 3), 1000, np.uint16)
    for band, percent in zip(("B03", "B04", "B08", "B11"), SPECTRA[kind], strict=True):
        frame[S2L2A.index(band)] = 100 * percent
    assert {KINDS[place] for place in kinds_of(frame, S2L2A).ravel()} == {kind}
    assert not kinds_of(frame[:3], S2L2A[:3]).any()


def test_errors_of_the_vegetation_index_are_those_of_a_hand_calculation() -> None:
    original = np.array([[[1000, 500, 0]], [[3000, 500, 900]]], np.uint16)  # B04, B08
    decoded = np.array([[[1000, 600, 7]], [[2000, 400, 900]]], np.uint16)
    found = ndvi_errors(original, decoded, ("B04", "B08"), 0)
    assert found == pytest.approx([1 / 3 - 1 / 2, -0.2 - 0])
    assert not ndvi_errors(original, decoded, ("B03", "B08"), 0).size


def test_places_are_told_by_tiles() -> None:
    at = places(600, 130)
    assert [at[row, 64] for row in (0, 7, 8, 247, 248, 263, 264, 504, 519, 592)] == [
        *(EDGE, EDGE, INTERIOR, INTERIOR, INNER, INNER, INTERIOR, INNER, INNER, EDGE)
    ]
    assert (at[248:264] == INNER).all()
    assert at[400, 5] == EDGE
    assert not (places(120, 120) == INNER).any()


def test_a_tally_says_what_the_simple_measures_say() -> None:
    series = Series.of(pixels((2, 12, 60, 70)), S2L2A)
    decoded = noisy(series)
    found = tally(series, decoded, 77)
    plain = Distortion.between(series.data, decoded, 0)
    assert found.bytes == 77
    assert found.counts.sum() == plain.count
    assert found.max_error == plain.max_error
    for sums in (found.squares, found.kind_squares, found.place_squares):
        assert sums.sum() == pytest.approx(plain.squares)
    assert found.angles[0] / found.angles[1] == pytest.approx(
        spectral_angle(series.data, decoded, 0)
    )
    assert found.windows.sum() == 2 * 12 * 50 * 60


def test_dark_pixels_that_decode_to_nodata_are_errors() -> None:
    series = Series.of(np.full((1, 12, 20, 20), 100, np.uint16), S2L2A)
    series.data[:, :, :5] = 0
    found = tally(series, np.zeros_like(series.data), 1)
    assert found.mismatches == found.counts.sum() == 12 * 15 * 20
    assert math.isclose(found.squares.sum() / found.counts.sum(), 99**2)  # 0 is shown as 1
    assert found.windows.sum() == 12 * 5 * 10  # only those without nodata


def test_zeros_in_single_bands_are_values() -> None:
    series = Series.of(np.full((1, 12, 20, 20), 100, np.uint16), S2L2A)
    series.data[:, 3:, :5] = 0
    assert nodata_of(series.data[0]) is None
    found = tally(series, np.full_like(series.data, 100), 1)
    assert found.counts.sum() == series.data.size
    assert found.squares.sum() == 100**2 * 9 * 5 * 20
    assert found.mismatches == 0
    series.data[:, :, 0, 0] = 0
    assert nodata_of(series.data[0]) == 0


def test_tallies_add_up_and_come_back_from_json() -> None:
    series = Series.of(pixels((2, 12, 40, 40)), S2L2A)
    decoded = noisy(series)
    parts = [
        tally(series._replace(data=series.data[i : i + 1], kinds=series.kinds[i : i + 1]), seen, 5)
        for i, seen in enumerate((decoded[:1], decoded[1:]))
    ]
    whole, added = tally(series, decoded, 10).to_dict(), (parts[0] + parts[1]).to_dict()
    assert whole.keys() == added.keys()
    assert all(np.allclose(whole[name], added[name]) for name in whole)
    assert Tally.from_dict(json.loads(json.dumps(whole))).to_dict() == whole


def test_a_series_of_some_bands_keeps_the_kinds_of_all() -> None:
    series = Series.of(pixels((1, 12, 30, 30)), S2L2A)
    part = series.only(("B08", "B02"))
    assert np.array_equal(part.data[:, 0], series.data[:, 7])
    assert np.array_equal(part.kinds, series.kinds)
    assert part.kinds.any()
