from __future__ import annotations

import json
import math
import platform
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tec_zarr.errors import TecError
from tec_zarr.evaluate import baselines, machine, plots, sweep
from tec_zarr.evaluate.frames import Wanted, data_folder, load_frames
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
    klt = baselines.fit_klt([frame])
    assert np.allclose(klt.rotation @ klt.rotation.T, np.eye(12))
    plain, rotated = baselines.jpeg2000(frame, 54), klt(frame, 54)
    assert rotated[0] < plain[0]
    assert Distortion.between(frame, rotated[1]).psnr > Distortion.between(frame, plain[1]).psnr - 1


def halving(frame: NDArray[np.uint16], quality: float) -> tuple[int, NDArray[Any]]:
    """A codec whose errors are known: it drops low bits."""
    step = 1 << int(12 - quality)
    return int(frame.size * quality / 8), (frame // step * step).astype(frame.dtype)


def test_a_sweep_pools_over_the_frames_of_a_source(tmp_path: Path) -> None:
    frames = {"a": [pixels((12, 20, 20)), pixels((12, 30, 10))], "b": [pixels((12, 8, 8))]}
    seen: list[tuple[str, float]] = []
    curves = sweep.sweep(halving, [4, 6, 8], frames, lambda *step: seen.append(step))
    assert seen == [(source, quality) for quality in (4, 6, 8) for source in "ab"]
    assert curves["a"].bits == pytest.approx([4, 6, 8], rel=1e-3)
    assert curves["a"].psnr == sorted(curves["a"].psnr)
    records = [sweep.record(name, "", curves) for name in ("one", "two")]
    sweep.save(tmp_path / "new" / "curves.json", records)
    again = json.loads((tmp_path / "new" / "curves.json").read_text())
    assert sweep.curves_of(again[0]) == curves
    plots.rate_plot(again, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_is_swept_as_any_codec() -> None:
    curve = sweep.sweep(sweep.tec("tec-fp-s2l2a"), [30, 44], {"a": [pixels((12, 64, 64))]})["a"]
    assert curve.bytes[0] < curve.bytes[1]
    assert curve.psnr[0] < curve.psnr[1]
    assert curve.nodata_mismatches == [0, 0]


def line(*points: tuple[float, int]) -> sweep.Curve:
    psnr, size = zip(*points, strict=True)
    return sweep.Curve(1, bytes=list(size), psnr=list(psnr))


def test_points_count_only_where_both_reach_them() -> None:
    half, whole = line((30, 100), (40, 400)), line((44, 1600), (34, 400), (36, 800))
    found = sweep.times_smaller(half, whole, [32, 34, 35, 40, 42])
    assert [found[psnr] for psnr in (32, 42)] == [None, None]
    assert found[34] == pytest.approx(400 / (100 * 4**0.4))
    assert found[35] == pytest.approx(400 * 2**0.5 / 200)
    assert sweep.medians([found, {34: 100.0, 32: None}, {34: 0.0}]) == {**found, 34: found[34]}


def index_of(folder: Path) -> None:
    """Samples of which one is wanted."""
    cubes = {"good": (2, 12, 120, 130), "small": (1, 12, 64, 64), "few": (1, 10, 150, 150)}
    samples = []
    for name, shape in cubes.items():
        np.savez(folder / f"{name}.npz", data=np.full(shape, 7, np.uint16))
        split = {"split": "validation", "level": "L2A", "source": name}
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
