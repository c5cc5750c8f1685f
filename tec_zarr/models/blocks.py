"""Blocks of the published transforms. Tensors are (n, channel, y, x); sizes do not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


class ResidualBottleneck(nn.Module):
    """x + narrow convolutions of x: 1x1, 3x3, 1x1 (He et al. 2016; ELIC, He et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = _narrow(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convs(x)


class ResidualUnit(nn.Module):
    """The same with a rectifier behind the sum (Cheng et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = _narrow(channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.convs(x))


class Attention(nn.Module):
    """x + features of x, each weighed by a gate between 0 and 1 (Cheng et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*(ResidualUnit(channels) for _ in range(3)))
        units = (ResidualUnit(channels) for _ in range(3))
        self.gate = nn.Sequential(*units, nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.features(x) * torch.sigmoid(self.gate(x))


def _narrow(channels: int) -> nn.Sequential:
    inside = channels // 2
    return nn.Sequential(
        nn.Conv2d(channels, inside, 1), nn.ReLU(),
        nn.Conv2d(inside, inside, 3, padding=1), nn.ReLU(),
        nn.Conv2d(inside, channels, 1),
    )  # fmt: skip
