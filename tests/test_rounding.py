"""Rounding that weighs bits against error."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr.models.rounding import CAUTION, WORTH, rounded
from tec_zarr.train.forecast import laplace_bits

values = st.floats(-300, 300, allow_nan=False, width=32)
scales = st.floats(-5, 9, allow_nan=False, width=32)
shrinks = st.floats(0.7, 1.1, allow_nan=False)


def alone(value: float, log_scale: float, shrink: float) -> float:
    return float(
        rounded(*(torch.tensor([x], dtype=torch.float64) for x in (value, log_scale, shrink)))
    )


@given(values, scales, shrinks)
def test_it_is_the_cheaper_of_the_nearest_and_the_next_towards_zero(
    value: float, log_scale: float, shrink: float
) -> None:
    nearest = math.floor(abs(value) + 0.5)
    found = alone(value, log_scale, shrink)
    if not nearest:
        assert found == 0
        return
    sizes = torch.tensor([nearest - 1.0, nearest], dtype=torch.float64)
    bits = laplace_bits(sizes, torch.tensor(log_scale, dtype=torch.float64))
    cost = CAUTION * bits + WORTH * (abs(value) - shrink * sizes).square()
    if abs(float(cost[1] - cost[0])) > 1e-2 and bits.max() < 25:  # counted bits have a floor
        assert abs(found) == sizes[cost.argmin()]
    assert abs(found) in (nearest - 1, nearest)
    assert found * value >= 0


@given(scales, shrinks)
def test_larger_values_never_give_smaller_steps(log_scale: float, shrink: float) -> None:
    line = torch.linspace(-9, 9, 721, dtype=torch.float64)
    found = rounded(line, torch.full_like(line, log_scale), torch.full_like(line, shrink))
    assert (found.diff() >= 0).all()
    assert torch.equal(found, -found.flip(0))
