"""Every latent is coded once, and no forecast knows what comes after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tec_zarr.models.neighbours import NeighbourPrior
from tec_zarr.models.recalled import Dates
from tests.draws import draw

GROUPS, OTHERS = (4, 8), (6, 10)
COUNT = sum(GROUPS) + sum(OTHERS)
SIZES = [(1, 1), (1, 7), (5, 3), (16, 16), (9, 24)]


def prior(*, dated: bool = False) -> NeighbourPrior:
    made = NeighbourPrior(GROUPS, OTHERS, 8, 4, dated=dated)
    made.settle(torch.arange(sum(GROUPS)) % 3 == 0)
    for name, value in made.named_parameters():
        value.data.add_(torch.from_numpy(draw(name, tuple(value.shape), 0.2)))
    return made.double().requires_grad_(requires_grad=False)


class Talk:
    """Keeps forecasts; codes latents, rounded around the means."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents.flatten(2)
        self.calls: list[tuple[slice, Tensor, Tensor | None, Tensor]] = []

    def __call__(
        self, channels: slice, places: Tensor, mean: Tensor | None, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        self.calls.append((channels, places, mean, scale))
        known = torch.zeros_like(scale) if mean is None else (mean * 16).round() / 16
        symbols = (self.latents[:, channels].index_select(2, places) - known).round()
        return known + symbols, symbols


def latents(size: tuple[int, int], name: str = "latents") -> Tensor:
    return torch.from_numpy(draw(name, (2, COUNT, *size), 4.0)).double()


def position() -> Tensor:
    return torch.tensor([0.4], dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_every_latent_is_coded_once_and_comes_back(size: tuple[int, int]) -> None:
    given = latents(size)
    talk = Talk(given)
    back = prior()(talk, 2, size, position())
    visits = torch.zeros(COUNT, size[0] * size[1])
    for channels, places, _, scale in talk.calls:
        visits[channels, places] += 1
        assert scale.shape == (2, channels.stop - channels.start, len(places))
    assert (visits == 1).all()
    assert (back - given).abs().max() <= 0.5 + 1 / 32


@pytest.mark.parametrize("dated", [False, True])
def test_no_forecast_knows_what_comes_after_it(*, dated: bool) -> None:
    size = (9, 12)
    given, model = latents(size), prior(dated=dated)
    past = Dates(latents(size, "past")[:, None], torch.ones(2, 1, dtype=torch.bool))
    dates = past if dated else None
    first = Talk(given)
    model(first, 2, size, position(), dates)
    for index in range(0, len(first.calls), 5):
        channels, places, *_ = first.calls[index]
        other = given.flatten(2).clone()
        other[:, channels.start, places[-1]] += 5
        second = Talk(other.view(given.shape))
        model(second, 2, size, position(), dates)
        pairs = list(zip(first.calls, second.calls, strict=True))
        for (_, _, one, deviation), (_, _, two, changed) in pairs[: index + 1]:
            assert torch.equal(deviation, changed)
            assert (one is None) == (two is None)
            assert one is None or two is None or torch.equal(one, two)
        later = pairs[index + 1 :]
        assert not later or any(not torch.equal(a[3], b[3]) for a, b in later)


def test_averages_of_patches_begin_as_averages_of_neighbours() -> None:
    model = NeighbourPrior((4, 4), (2,), 8, 4)
    model.settle(torch.arange(8) < 2)
    for stage in (part.stages[0] for part in (*model.wide, *model.fine)):
        for layer in (stage.weights, stage.out):
            layer.weight.data.zero_()
            layer.bias.data.zero_()
    flat = torch.full((1, 10, 8, 8), 48.0)
    talk = Talk(flat)
    model(talk, 1, (8, 8), torch.tensor([0.5]))
    for channels, places, mean, _ in talk.calls:
        if channels.start == 0 and mean is not None and 0 not in places:
            assert (mean[:, :2] - 48).abs().max() <= 0.5001  # as well as steps and float32 allow
            assert not mean[:, 2:].any()


def test_dates_that_are_not_there_change_nothing() -> None:
    size = (5, 6)
    model, talks = prior(dated=True), [Talk(latents(size)) for _ in range(2)]
    none = torch.zeros(2, 1, dtype=torch.bool)
    for talk, name in zip(talks, ("past", "other"), strict=True):
        model(talk, 2, size, position(), Dates(latents(size, name)[:, None], none))
    for one, two in zip(talks[0].calls, talks[1].calls, strict=True):
        assert torch.allclose(one[3], two[3], atol=1e-9)
