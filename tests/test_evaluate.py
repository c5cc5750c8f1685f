from __future__ import annotations

import json
import math
import platform
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tec_zarr.bands import S2L2A
from tec_zarr.errors import TecError
from tec_zarr.evaluate import baselines, klt, machine, plots
from tec_zarr.evaluate.frames import Wanted, data_folder, fewer, load_frames, load_series
from tec_zarr.evaluate.metrics import Distortion, spectral_angle
from tests.cubes import pixels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pairs = arrays.arrays(np.uint16, (2, 3, 4, 5), elements=st.integers(0, 12))


@given(pairs, st.integers(0, 12))
def test_errors_of_parts_add_up(pair: NDArray[np.uint16], nodata: int) -> None:
    first, second = pair
    whole = Distortion.between(first, second, nodata)
    parts = [Distortion.between(first[i], second[i], nodata) for i in range(3)]
    assert sum(parts, Distortion()) == whole
    assert whole.count <= pair[0].size
    assert whole.rmse <= whole.max_error
    assert Distortion.between(pair[0], pair[0], nodata).psnr == math.inf


def test_errors_are_those_of_a_hand_calculation() -> None:
    original = np.array([0, 100, 200, 300], np.uint16)
    decoded = np.array([0, 97, 204, 0], np.uint16)
    found = Distortion.between(original, decoded, 0, scale=10)
    assert (found.count, found.max_error, found.nodata_mismatches) == (2, 40, 1)
    assert found.squares == 30**2 + 40**2
    assert found.psnr == pytest.approx(10 * math.log10(1e8 / 1250))


def test_nodata_may_be_nan() -> None:
    original, decoded = np.array([np.nan, 1, 2]), np.array([np.nan, np.nan, 3])
    found = Distortion.between(original, decoded, math.nan)
    assert (found.count, found.max_error, found.nodata_mismatches) == (1, 1, 1)


def test_spectral_angles_do_not_see_brightness() -> None:
    cube = pixels((12, 20, 20))
    assert spectral_angle(cube, cube * 2) == pytest.approx(0, abs=1e-4)
    flat, turned = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    flat[0], turned[1] = 5, 7
    assert spectral_angle(flat, turned) == pytest.approx(90)
    assert math.isnan(spectral_angle(flat, turned, nodata=0))


def test_jpeg_2000_gets_better_with_its_level_and_meets_a_psnr() -> None:
    frame = pixels((12, 64, 64))
    sizes, errors = zip(*(baselines.jpeg2000(frame, level) for level in (50, 60, 70)), strict=True)
    assert list(sizes) == sorted(sizes)
    assert [seen.shape for seen in errors] == [frame.shape] * 3
    level = baselines.jpeg2000_level(frame, 44)
    psnr = Distortion.between(frame, baselines.jpeg2000(frame, level)[1]).psnr
    assert 44 <= psnr < 44.5


def test_a_fixed_rotation_spares_bytes_on_correlated_bands() -> None:
    frame = pixels((12, 120, 120))
    axes = klt.fit_klt([frame[:, :60], frame[:, 60:]])
    assert np.allclose(axes.rotation @ axes.rotation.T, np.eye(12), atol=1e-5)
    assert np.array_equal(axes.backward(axes.forward(frame)), frame)
    assert axes.name == klt.fit_klt([frame]).name
    plain, rotated = baselines.jpeg2000(frame, 60), axes.jpeg2000(frame, 44)
    assert rotated[0] < plain[0]
    assert 43.9 < Distortion.between(frame, rotated[1]).psnr < 44.6


def test_a_psnr_is_met_by_frames_that_are_nearly_empty() -> None:
    frame = pixels((12, 64, 64))
    axes = klt.fit_klt([frame])
    flat = frame // 20 + 300
    assert Distortion.between(flat, axes.jpeg2000(flat, 40)[1]).psnr > 39.9


def test_a_baseline_may_look_away_from_nodata() -> None:
    frame = pixels((12, 64, 64))
    axes = klt.fit_klt([frame])
    whole = axes.jpeg2000(frame, 44)[0]
    frame[:, 20:40, 20:40] = 0
    assert klt.filled(frame).min() > 0
    assert axes.jpeg2000(frame, 44)[0] < whole


def index_of(folder: Path) -> None:
    """Samples of which one is wanted."""
    cubes = {"good": (2, 12, 120, 130), "small": (1, 12, 64, 64), "few": (1, 10, 150, 150)}
    samples = []
    for name, shape in cubes.items():
        np.savez(folder / f"{name}.npz", data=np.full(shape, 7, np.uint16))
        split = {"split": "validation", "level": "L2A", "source": name, "bands": S2L2A}
        samples.append({"file": f"{name}.npz", "shape": list(shape), **split})
    samples.append({**samples[0], "split": "train", "source": "trained"})
    (folder / "index.json").write_text(json.dumps({"samples": samples}))


def test_frames_are_chosen_by_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index_of(tmp_path)
    monkeypatch.setenv("TEC_ZARR_SHARED_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    frames = load_frames()
    assert {source: [frame.shape for frame in own] for source, own in frames.items()} == {
        "good": [(12, 120, 130)] * 2
    }
    series = load_series()
    assert [one.data.shape for one in series["good"]] == [(2, 12, 120, 130)]
    assert [one.kinds.shape for one in fewer(series, 1)["good"]] == [(1, 120, 130)]
    assert set(load_frames(tmp_path, Wanted(split="train"))) == {"trained"}
    with pytest.raises(TecError, match="L1C"):
        load_frames(tmp_path, Wanted(level="L1C"))
    with pytest.raises(TecError, match="TEC_ZARR_SHARED_DATA"):
        data_folder(tmp_path / "nowhere")


@pytest.mark.shared_data
def test_the_shared_validation_data_has_seven_sources(shared_data: Path) -> None:
    frames = load_frames(shared_data)
    assert len(frames) == 7
    assert all(frame.shape[0] == 12 and frame.dtype == np.uint16 for frame in frames["hydro"])


def test_numbers_say_what_they_were_measured_on_but_not_where() -> None:
    assert machine.versions()["numpy"] == np.__version__
    told = machine.machine()
    assert told["processor"]
    assert platform.node() not in str(told).split()
    assert 1e6 < machine.memory() <= machine.peak_memory()


def test_a_picture_has_a_row_for_each_frame(tmp_path: Path) -> None:
    frames = pixels((2, 12, 40, 40))
    plots.comparison_picture(frames, frames + 3, tmp_path / "a" / "picture.png", "title")
    assert (tmp_path / "a" / "picture.png").stat().st_size > 5000
