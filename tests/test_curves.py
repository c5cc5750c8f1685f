from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr.evaluate import curves
from tec_zarr.evaluate.curves import Curve

PCHIP = [1.262105855855856, 2.2466216216216215, 3.8125, 4.875, 4.0]


def line(*points: tuple[float | None, int]) -> Curve:
    psnr, size = zip(*points, strict=True)
    return Curve(1, bytes=list(size), psnr=list(psnr))


def test_points_count_only_where_both_reach_them() -> None:
    half, whole = line((30, 100), (40, 400)), line((44, 1600), (34, 400), (36, 800))
    found = curves.times_smaller(half, whole, [32, 34, 35, 40, 42])
    assert [found[psnr] for psnr in (32, 42)] == [None, None]
    assert found[34] == pytest.approx(400 / (100 * 4**0.4))
    assert found[35] == pytest.approx(400 * 2**0.5 / 200)
    assert curves.medians([found, {34: 100.0, 32: None}, {34: 0.0}]) == {**found, 34: found[34]}


def test_what_costs_more_for_less_is_left_out() -> None:
    psnr, sizes = curves.rising(line((30, 100), (29, 200), (None, 1), (40, 300), (40, 400)))
    assert psnr.tolist() == [30, 40]
    assert np.exp(sizes) == pytest.approx([100, 300])
    assert curves.bytes_at(line((None, 5)), 40) is None


rates = st.lists(st.floats(1.05, 3), min_size=2, max_size=8)


@given(rates, st.floats(0.2, 5))
def test_a_constant_factor_is_its_bd_rate(factors: list[float], factor: float) -> None:
    sizes = 1e4 * np.cumprod(factors)
    psnr = 30 + np.cumsum(factors)
    one, other = (line(*zip(psnr, scale * sizes, strict=True)) for scale in (1, factor))
    assert curves.bd_rate(other, one) == pytest.approx(factor - 1, abs=1e-6)
    assert curves.bd_rate(one, one) == pytest.approx(0, abs=1e-9)


def test_bd_rates_look_at_the_common_range_only() -> None:
    one, other = line((30, 100), (40, 1000)), line((35, 200), (45, 2000))
    shift = 200 / (100 * 10**0.5) - 1
    assert curves.bd_rate(other, one) == pytest.approx(shift)
    assert curves.bd_rate(other, one, 36, 38) == pytest.approx(shift)
    assert curves.bd_rate(other, one, 41, 50) is None
    assert curves.bd_rate(one, line((50, 1), (60, 2))) is None
    assert curves.bd_rate(one, line((35, 1))) is None


def test_the_cubic_is_that_of_others() -> None:
    """Numbers of scipy.interpolate.PchipInterpolator (SciPy 1.17)."""
    x, y = np.array([0.0, 1, 3, 4, 7]), np.array([0.0, 2, 2.5, 5, 4])
    at = np.array([0.5, 2, 3.5, 5.5, 7])
    assert curves.pchip(x, y, at) == pytest.approx(PCHIP, abs=1e-12)


@given(rates)
def test_the_cubic_is_monotone_between_points(factors: list[float]) -> None:
    x = np.cumsum(factors)
    y = np.cumsum(np.square(factors))
    seen = curves.pchip(x, y, np.linspace(x[0], x[-1], 99))
    assert (np.diff(seen) > -1e-9).all()
    assert curves.pchip(x, y, x) == pytest.approx(y)
