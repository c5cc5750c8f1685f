from __future__ import annotations

import sys

import numpy as np
import pytest

from tec_zarr.errors import TecError
from tec_zarr.evaluate import hevc
from tec_zarr.evaluate.klt import fit_klt
from tec_zarr.evaluate.metrics import Distortion
from tests.cubes import pixels


@pytest.mark.parametrize("shape", [(1, 64, 80), (1, 13, 70), (3, 96, 100)])
def test_samples_of_12_bits_come_back_nearly(shape: tuple[int, ...]) -> None:
    planes = np.minimum(pixels((shape[0], 1, *shape[1:]))[:, 0], hevc.TOP)
    coarse, fine = (hevc.decode(hevc.encode(planes, qp), shape).astype(int) for qp in (30, 0))
    assert fine.shape == shape
    assert 0 < np.square(fine - planes).mean() < np.square(coarse - planes).mean()
    assert np.abs(fine - planes).max() < 64


@pytest.mark.parametrize("top", [3000, 16380, 16390, 65520])
def test_units_are_as_fine_as_the_range_allows(top: int) -> None:
    plane = np.linspace(-500, top - 500, 999).reshape(1, 27, 37)
    samples, unit, offset = hevc.to_samples(plane)
    assert unit == {3000: 4, 16380: 4, 16390: 8, 65520: 16}[top]
    assert np.abs(samples * float(unit) + offset - plane).max() <= unit / 2


def test_bytes_fall_and_errors_rise_with_the_quantiser() -> None:
    series = pixels((2, 3, 96, 96))
    axes = fit_klt(series)
    codecs = (hevc.x265, lambda images, quality: hevc.klt_x265(axes, images, quality))
    for codec in codecs:
        sizes, seen = zip(*(codec(series, quality) for quality in (36, 20, 4)), strict=True)
        assert list(sizes) == sorted(sizes)
        psnr = [Distortion.between(series, decoded, 0).psnr for decoded in seen]
        assert psnr == sorted(psnr)
        assert psnr[-1] > 50


def test_videos_that_x265_fails_on_are_refused() -> None:
    with pytest.raises(TecError, match="below 96"):
        hevc.encode(np.zeros((2, 64, 100), np.uint16), 20)


def test_parameter_sets_count_once() -> None:
    stream = hevc.encode(np.full((1, 64, 64), 700, np.uint16), 20)
    kinds = [unit[0] >> 1 & 63 for unit in hevc.nal_units(stream)]
    assert {32, 33, 34} < set(kinds)  # video, sequence and picture parameter sets
    one, two = hevc.size_of([stream]), hevc.size_of([stream, stream])
    assert one <= len(stream)
    assert one < two < 2 * one


def test_without_pyav_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(TecError, match=r"tec-zarr\[hevc\]"):
        hevc.name()
