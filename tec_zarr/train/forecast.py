"""The training side of `models.activity` and `models.priors`: the same forecast, with gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from tec_zarr.models.layers import Knots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tec_zarr.models.transforms import Maps

HIDDEN = 32
UPWARD = 8
"""Context maps that the coarse map gives to the fine one."""


def laplace_bits(values: Tensor, log_scale: Tensor) -> Tensor:
    """-log2 of the mass of a Laplacian in the unit interval around each value; scales as log2."""
    scale, distance = torch.exp2(log_scale), values.abs()
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
        self.bias = Knots(channels)
        self.inside = inside
        if inside:
            self.conv = nn.Conv2d(inside, HIDDEN, 3, padding=1, padding_mode="replicate")
            self.hb = Knots(HIDDEN)
            self.out = nn.Conv2d(HIDDEN, channels, 1, bias=False)
            nn.init.normal_(self.out.weight, std=0.01)

    def forward(self, context: Tensor, position: Tensor) -> Tensor:
        bias = self.bias(position)[..., None, None]
        if not self.inside:
            return bias
        hidden = functional.relu(self.conv(context) + self.hb(position)[..., None, None])
        return bias + self.out(hidden)


class Forecast(nn.Module):
    """log2 scales of a coarse and a fine map, group by group, each seeing the groups before it."""

    def __init__(self, coarse: Sequence[int], fine: Sequence[int], side: int) -> None:
        super().__init__()
        self.groups, self.side = (tuple(coarse), tuple(fine)), side
        self.zc = nn.ModuleList(_groups(coarse, 0))
        self.zup = nn.Conv2d(sum(coarse), UPWARD * side**2, 1)
        self.yc = nn.ModuleList(_groups(fine, UPWARD))

    def parts(self) -> tuple[list[GroupForecast], list[GroupForecast]]:
        """The forecasts of the groups of the coarse and of the fine map."""
        coarse, fine = (
            [g for g in part if isinstance(g, GroupForecast)] for part in (self.zc, self.yc)
        )
        return coarse, fine

    def forward(self, symbols: Maps, position: Tensor) -> Maps:
        """Scales for rounded symbols; only their magnitudes are looked at."""
        coarse, fine = (log_magnitudes(m) for m in symbols)
        upward = functional.relu(functional.pixel_shuffle(self.zup(coarse), self.side))
        return (
            _scales(self.parts()[0], self.groups[0], [], coarse, position),
            _scales(self.parts()[1], self.groups[1], [upward], fine, position),
        )


def _groups(channels: Sequence[int], context: int) -> Iterator[GroupForecast]:
    for index, count in enumerate(channels):
        yield GroupForecast(context + sum(channels[:index]), count)


def _scales(
    forecasts: Sequence[GroupForecast],
    channels: Sequence[int],
    context: list[Tensor],
    logs: Tensor,
    position: Tensor,
) -> Tensor:
    parts, start = [], 0
    for forecast, count in zip(forecasts, channels, strict=True):
        known = torch.cat([*context, logs[:, :start]], 1)
        scale = forecast(known, position)
        parts.append(scale.expand(len(logs), count, *logs.shape[2:]))
        start += count
    return torch.cat(parts, 1)
