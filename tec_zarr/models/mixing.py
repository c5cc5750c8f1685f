"""Layers that mix features of places, and how latents enter them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 5
"""Of the filters, in places of a grid."""


def logarithm(values: Tensor) -> Tensor:
    """log2(1 + magnitude), with the sign of the values."""
    return torch.log2(1 + values.abs()).copysign(values)


def wide(width: int) -> nn.Conv2d:
    """A filter for each feature."""
    return nn.Conv2d(width, width, SIDE, padding=SIDE // 2, groups=width)


class Mixed(nn.Module):
    """Features mixed with those around them, and with each other: (n, d, y, x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = wide(width)
        self.first, self.last = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + functional.gelu(self.wide(x))
        return x + self.last(functional.gelu(self.first(x)))
