from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr.models.activity import Activity, log_table
from tec_zarr.models.interpolation import (
    CENTRES,
    CORNER,
    EDGES,
    GAIN_BITS,
    MOST_SYMBOL,
    Interpolation,
    levels,
)
from tec_zarr.train.forecast import InterpolatedForecast

SIDES = st.integers(1, 20)
CHANNELS = 3


def forecast(gain: int = 1 << GAIN_BITS) -> Interpolation:
    """Means of neighbours times a gain, and rows that depend on all of the context."""
    counts = torch.arange(1, 5).view(1, 4, 1)
    weight = torch.full((2, 2 * CHANNELS, 1, 1), 40.0)
    out = torch.full((CHANNELS, 2), 60.0)
    biases = [torch.full((1, CHANNELS), 900.0 * kind) for kind in range(3)]
    networks = tuple(Activity(bias, weight, torch.zeros((1, 2)), out) for bias in biases)
    return Interpolation((gain // counts).expand(2, 4, CHANNELS).long(), networks)


class Line:
    """A coder that keeps what it is sent, or gives it back."""

    def __init__(self, sent: list[torch.Tensor] | None = None) -> None:
        self.reading = sent is not None
        self.sent = sent or []
        self.contexts: list[torch.Tensor] = []

    def __call__(
        self, kind: int, context: torch.Tensor, given: torch.Tensor | None
    ) -> torch.Tensor:
        self.contexts.append(torch.cat([context.flatten(), torch.tensor([float(kind)])]))
        if self.reading:
            assert given is None
            return self.sent[len(self.contexts) - 1]
        assert given is not None
        self.sent.append(given)
        return given


@given(SIDES, SIDES)
def test_every_place_is_coded_once_and_after_its_neighbours(height: int, width: int) -> None:
    known: set[int] = set()
    for level in levels(height, width):
        near = np.where(level.present, level.near, -1)
        assert set(near.ravel().tolist()) - {-1} <= known
        assert level.kind == CORNER or bool(level.present.any(0).all())
        assert not known & set(level.places.tolist())
        known |= set(level.places.tolist())
    assert known == set(range(height * width))


def test_levels_of_a_small_map_are_those_of_the_page() -> None:
    """docs/format.md, by hand: 3 rows of 4 places."""
    found = [(level.kind, level.places.tolist()) for level in levels(3, 4)]
    assert found == [
        (CORNER, [0]),
        (CENTRES, [10]),
        (EDGES, [2, 8]),
        (CENTRES, [5, 7]),
        (EDGES, [1, 3, 4, 6, 9, 11]),
    ]
    edges = levels(3, 4)[-1]
    assert [set(near) for near in edges.near.T.tolist()] == [
        {5, 0, 2}, {7, 2}, {0, 8, 5}, {2, 10, 5, 7}, {5, 8, 10}, {7, 10},
    ]  # fmt: skip
    assert edges.present.sum(0).tolist() == [3, 2, 3, 4, 3, 2]


@given(st.data(), SIDES, SIDES, st.integers(0, 30))
def test_reading_gives_what_was_written(
    data: st.DataObject, height: int, width: int, bits: int
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = (2, CHANNELS, height, width)
    symbols = torch.from_numpy(random.integers(-(2**bits), 2**bits + 1, shape).astype(np.int32))
    own, table = forecast(data.draw(st.sampled_from([0, 4096, 32767, -32768]))), log_table()
    sent = Line()
    seen, logs = own.code(sent, symbols, (2, height, width), table)
    assert (seen == symbols).all()
    back = Line(sent.sent)
    read, again = own.code(back, None, (2, height, width), table)
    assert (read == symbols).all()
    assert (again == logs).all()
    for one, other in zip(sent.contexts, back.contexts, strict=True):
        assert (one == other).all()


def test_a_ramp_leaves_only_what_borders_miss() -> None:
    y, x = np.indices((9, 9))
    ramp = torch.from_numpy((4 * y + 8 * x).astype(np.int32)).expand(1, CHANNELS, 9, 9)
    line = Line()
    forecast().code(line, ramp, (1, 9, 9), log_table())
    for level, sent in zip(levels(9, 9), line.sent, strict=True):
        inside = level.present.all(0)
        assert not sent[..., 0, inside].any()


@pytest.mark.parametrize("value", [2**31 - 1, -(2**31)])
def test_hostile_differences_stay_within_limits(value: int) -> None:
    size = (1, 5, 6)
    sent = [torch.full((1, CHANNELS, 1, len(n.places)), value, dtype=torch.int32)
            for n in levels(5, 6)]  # fmt: skip
    seen, logs = forecast(32767).code(Line(sent), None, size, log_table())
    assert seen.abs().max() <= MOST_SYMBOL
    assert logs.max() <= 255


def test_training_sees_what_the_codec_sees() -> None:
    """Means of whole gains are the same numbers; scales have the same context."""
    torch.manual_seed(0)
    own = InterpolatedForecast(CHANNELS).eval()
    with torch.no_grad():
        own.gain.copy_(torch.round(own.gain * 2**GAIN_BITS) / 2**GAIN_BITS)
        symbols = torch.randint(-50, 50, (2, CHANNELS, 6, 7))
        means, _ = own(symbols.float(), torch.tensor([0.2, 0.7]))
    gain = (own.gain * 2**GAIN_BITS).long()
    line = Line()
    Interpolation(gain, forecast().activities).code(line, symbols.int(), (2, 6, 7), log_table())
    found = torch.zeros(2, CHANNELS, 42)
    for level, sent in zip(levels(6, 7), line.sent, strict=True):
        found[:, :, level.places] = sent.squeeze(2).float()
    assert (found.view_as(means) == symbols - means).all()


def test_levels_that_the_codec_has_made_serve_training() -> None:
    with torch.inference_mode():
        levels(31, 5)
    own = InterpolatedForecast(CHANNELS)
    means, scales = own(torch.ones((1, CHANNELS, 31, 5)), torch.tensor([0.5]))
    (means.sum() + scales.sum()).backward()
    assert own.gain.grad is not None
