from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tec_zarr.bands import S2L2A
from tec_zarr.errors import TecError
from tec_zarr.evaluate import plots, report, sweep
from tec_zarr.evaluate.tally import Series
from tests.cubes import pixels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[Any]


def halving(frame: Pixels, quality: float) -> tuple[int, Pixels]:
    """A codec whose errors are known: it drops low bits."""
    step = 1 << int(12 - quality)
    return int(frame.size * quality / 8), (frame // step * step + step // 2).astype(frame.dtype)


def sources() -> dict[str, list[Series]]:
    shapes = {"a": [(2, 12, 20, 20), (1, 12, 30, 10)], "b": [(1, 12, 40, 50)]}
    return {
        source: [Series.of(pixels(shape), S2L2A) for shape in own] for source, own in shapes.items()
    }


def test_a_sweep_pools_over_the_frames_of_a_source() -> None:
    seen: list[tuple[str, float]] = []
    measure = sweep.meter(sweep.by_frame(halving))
    found = sweep.sweep(measure, [4, 6, 8], sources(), lambda *step: seen.append(step))
    assert seen == [(source, quality) for quality in (4, 6, 8) for source in "ab"]
    assert found["a"].bits == pytest.approx([4, 6, 8], rel=1e-3)
    assert found["a"].frames == 3
    for curve in found.values():
        psnr = [value for value in curve.psnr if value is not None]
        assert psnr == sorted(psnr)
        assert len(psnr) == 3
        assert set(curve.band_psnr) == set(curve.band_ssim) == set(S2L2A)
        assert sum(curve.kind_share.values()) == pytest.approx(1)
    assert sweep.curves_of(sweep.record("halving", "", found)) == found


def test_what_was_measured_once_is_not_measured_again(tmp_path: Path) -> None:
    seen: list[float] = []

    def counting(frame: Pixels, quality: float) -> tuple[int, Pixels]:
        seen.append(quality)
        return halving(frame, quality)

    measure = sweep.meter(sweep.by_frame(counting))
    one, other = (sweep.remembered(measure, name, tmp_path) for name in ("one", "other"))
    series = Series.of(pixels((1, 12, 16, 16)), S2L2A)
    first = one(series, 4)
    assert one(series, 4).to_dict() == first.to_dict()
    assert seen == [4]
    one(series, 4.5)
    other(series, 4)
    one(series.only(S2L2A[:3]), 4)
    assert seen == [4, 4.5, 4, 4]
    assert not list(tmp_path.rglob("*.part"))


def test_the_model_is_swept_as_any_codec() -> None:
    series = Series.of(pixels((1, 12, 64, 64)), S2L2A).only(S2L2A[1:4])
    codec = sweep.by_frame(sweep.tec("tec-fp-s2l2a", bands=series.bands))
    curve = sweep.sweep(sweep.meter(codec), [30, 44], {"a": [series]})["a"]
    assert curve.bytes[0] < curve.bytes[1]
    assert (curve.psnr[0] or 0) < (curve.psnr[1] or 0)
    assert curve.nodata_mismatches == [0, 0]


@pytest.fixture(scope="module")
def result() -> report.Result:
    """Two codecs of which one takes half the bytes, and one that no point has in common."""
    qualities = [2, 4, 5, 6, 7, 8, 10]

    def cheaper(frame: Pixels, quality: float) -> tuple[int, Pixels]:
        size, decoded = halving(frame, quality)
        return size // 2, decoded

    def of(codec: sweep.FrameCodec, own: dict[str, list[Series]], some: slice) -> sweep.Record:
        measure = sweep.meter(sweep.by_frame(codec))
        return sweep.record(codec.__name__, "", sweep.sweep(measure, qualities[some], own))

    part = {source: [one.only(S2L2A[:4]) for one in own] for source, own in sources().items()}
    full = slice(None)
    others = [of(halving, sources(), full), of(halving, sources(), slice(0, 1)) | {"name": "KLT"}]
    subsets = {"4 bands": [of(cheaper, part, full), of(halving, part, full)]}
    return report.result([of(cheaper, sources(), full), *others], subsets)


def test_a_result_compares_the_model_with_each_baseline(
    result: report.Result, tmp_path: Path
) -> None:
    report.save(tmp_path / "new" / "rate.json", result)
    assert report.load(tmp_path / "new" / "rate.json") == json.loads(json.dumps(result))
    half = result["comparisons"]["halving"]
    assert half["times_smaller"]["median"]["40"] == pytest.approx(2, rel=1e-3)
    assert half["bd_rate"]["median"] == pytest.approx(-0.5, abs=1e-3)
    assert result["comparisons"]["KLT"]["times_smaller"]["a"]["40"] is None
    assert result["comparisons"]["KLT"]["bd_rate"]["median"] is None
    with pytest.raises(TecError, match=r"rate\.py"):
        report.load(tmp_path / "other.json")


def test_tables_are_for_terminals_and_pages(result: report.Result, tmp_path: Path) -> None:
    made = report.tables(result)
    assert {"rate, halving", "bd_rate", "calibration", "kinds", "subsets"} < set(made)
    for table in made.values():
        assert len({len(row) for row in [table.head, *table.rows]}) == 1
        assert len({len(line) for line in table.text().splitlines()[2:]}) == 1
    page = tmp_path / "page.md"
    marks = [f"<!-- {what}tables of cheaper -->" for what in ("", "end of ")]
    page.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    report.write_page(page, result)
    first = page.read_text()
    report.write_page(page, result)
    assert page.read_text() == first
    assert first.startswith(f"before\n{marks[0]}\n\n")
    assert "| median | " in first
    assert "old" not in first
    page.write_text("none")
    with pytest.raises(TecError, match="tables of cheaper"):
        report.write_page(page, result)


def test_curves_are_drawn(result: report.Result, tmp_path: Path) -> None:
    plots.rate_plot(result, tmp_path / "new" / "curves.png")
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_frame_of_few_bytes_is_marked(result: report.Result) -> None:
    rows = {row[0]: row[1:] for row in report.tables(result)["rate, halving"].rows}
    assert not any(cell.endswith("*") for cell in rows["a"])
    assert np.isclose(float(rows["a"][3]), 2)
