"""The training side of `models.activity` and `models.priors`: the same forecast, with gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tec_zarr.models.interpolation import levels
from tec_zarr.models.layers import Knots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tec_zarr.models.transforms import Maps

HIDDEN = 32
UPWARD = 8
"""Context maps that the coarse map gives to the fine one."""


SMALLEST = -8.0
"""log2 of the least scale: below the rows of any table, and gradients stay finite."""


def laplace_bits(values: Tensor, log_scale: Tensor) -> Tensor:
    """-log2 of the mass of a Laplacian in the unit interval around each value; scales as log2."""
    scale, distance = torch.exp2(log_scale.clamp(min=SMALLEST)), values.abs()
    centre = 1 - torch.exp(-0.5 / scale) * torch.cosh((distance / scale).clamp(max=30))
    tail = torch.log2((1 - torch.exp(-1 / scale)).clamp(min=1e-9)) - 1
    tail = tail - (distance - 0.5) / scale / math.log(2)
    return -torch.where(distance < 0.5, torch.log2(centre.clamp(min=1e-9)), tail)


def log_magnitudes(symbols: Tensor) -> Tensor:
    """log2(1 + magnitude), the octaves of `models.activity.logarithms`."""
    return torch.log2(1 + symbols.abs())


class GroupForecast(nn.Module):
    """log2 scale of a group of channels: bias(step) + out(relu(conv3x3(context) + bias(step)))."""

    def __init__(self, inside: int, channels: int) -> None:
        super().__init__()
        self.bias, self.hb = Knots(channels), Knots(HIDDEN)
        self.conv = nn.Conv2d(inside, HIDDEN, 3, padding=1, padding_mode="replicate")
        self.out = nn.Conv2d(HIDDEN, channels, 1, bias=False)
        nn.init.normal_(self.out.weight, std=0.01)

    def forward(self, context: Tensor, position: Tensor) -> Tensor:
        hidden = functional.relu(self.conv(context) + self.hb(position)[..., None, None])
        return self.bias(position)[..., None, None] + self.out(hidden)


class InterpolatedForecast(nn.Module):
    """Means and log2 scales of the first group: `models.interpolation` with gradients."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        counts = torch.arange(1, 5).view(4, 1)
        self.gain = nn.Parameter((0.95 / counts).repeat(2, 1, channels))
        self.bias, self.hb = Knots(3 * channels), Knots(3 * HIDDEN)
        self.conv = nn.Conv1d(2 * channels, HIDDEN, 1)
        self.out = nn.Conv1d(HIDDEN, channels, 1, bias=False)
        nn.init.normal_(self.out.weight, std=0.01)

    def forward(self, symbols: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales of rounded symbols, all (n, c, y, x)."""
        known = symbols.flatten(2)
        means, scales, logs = (torch.zeros_like(known) for _ in range(3))
        bias, shift = (k(position).unflatten(1, (3, -1)).unsqueeze(3) for k in (self.bias, self.hb))
        for level in levels(*symbols.shape[2:]):
            total, spread = level.around(known)
            mean = total * level.gains(self.gain)
            mean = mean if self.training else torch.floor(mean + 0.5)
            context = torch.cat([log_magnitudes(spread), logs[:, :, level.near].amax(2)], 1)
            hidden = functional.relu(self.conv(context) + shift[:, level.kind])
            scale = self.out(hidden) + bias[:, level.kind]
            means, scales = (
                target.index_copy(2, level.places, found.float())
                for target, found in ((means, mean), (scales, scale))
            )
            difference = log_magnitudes(known[:, :, level.places] - mean.detach())
            logs = logs.index_copy(2, level.places, difference)
        return means.view_as(symbols), scales.view_as(symbols)


class Forecasts(NamedTuple):
    """What is expected of the symbols of a frame."""

    mean: Tensor
    """(n, c, y, x): of the first channels of the coarse map; the others have the mean zero."""

    scales: Maps
    """log2 of the scales around the means."""


class Forecast(nn.Module):
    """Forecasts of a coarse and a fine map, group by group, each seeing the groups before it."""

    def __init__(self, coarse: Sequence[int], fine: Sequence[int], side: int) -> None:
        super().__init__()
        self.groups, self.side = (tuple(coarse), tuple(fine)), side
        self.first = InterpolatedForecast(coarse[0])
        self.zc = nn.ModuleList(_groups(coarse[1:], coarse[0]))
        self.zup = nn.Conv2d(sum(coarse), UPWARD * side**2, 1)
        self.yc = nn.ModuleList(_groups(fine, UPWARD))

    def parts(self) -> tuple[list[GroupForecast], list[GroupForecast]]:
        """The forecasts of the groups of the coarse map but the first, and of the fine one."""
        coarse, fine = (
            [g for g in part if isinstance(g, GroupForecast)] for part in (self.zc, self.yc)
        )
        return coarse, fine

    def forward(self, symbols: Maps, position: Tensor) -> Forecasts:
        """Forecasts for rounded symbols, whose signs matter for the first channels only."""
        count = self.groups[0][0]
        mean, first = self.first(symbols[0][:, :count], position)
        coarse, fine = (log_magnitudes(m) for m in symbols)
        differences = log_magnitudes(symbols[0][:, :count] - mean.detach())
        coarse = torch.cat([differences, coarse[:, count:]], 1)
        upward = functional.relu(functional.pixel_shuffle(self.zup(coarse), self.side))
        others = _scales(self.parts()[0], [coarse[:, :count]], coarse[:, count:], position)
        scales = _scales(self.parts()[1], [upward], fine, position)
        return Forecasts(mean, (torch.cat([first, others], 1), scales))


def _groups(channels: Sequence[int], context: int) -> Iterator[GroupForecast]:
    for index, count in enumerate(channels):
        yield GroupForecast(context + sum(channels[:index]), count)


def _scales(
    forecasts: Sequence[GroupForecast], context: list[Tensor], logs: Tensor, position: Tensor
) -> Tensor:
    parts, start = [], 0
    for forecast in forecasts:
        parts.append(forecast(torch.cat([*context, logs[:, :start]], 1), position))
        start += parts[-1].shape[1]
    return torch.cat(parts, 1)
