"""Layers that several models share. Tensors are (n, channel, y, x) unless it says otherwise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Knots(nn.Module):
    """A vector as a piecewise linear function of the quantisation step's logarithm.

    `position` runs from 0 (finest step) to 1 (coarsest); the result is (n, channels).
    """

    def __init__(self, channels: int, knots: int = 9, value: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((knots, channels), value))

    def forward(self, position: Tensor) -> Tensor:
        place = position.clamp(0, 1) * (self.table.shape[0] - 1)
        left = place.floor().clamp(max=self.table.shape[0] - 2).long()
        part = (place - left).unsqueeze(-1)
        return torch.lerp(self.table[left], self.table[left + 1], part)


class Film(nn.Module):
    """Scale and shift of each channel, given the quantisation step (Perez et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = Knots(channels, value=1.0), Knots(channels)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        return x * self.scale(position)[..., None, None] + self.shift(position)[..., None, None]


class Branch(nn.Module):
    """The nonlinear part of a transform at the latent's resolution; zero at the start of training.

    x -> 1x1 -> film, gelu -> [3x3 -> film, gelu] * depth -> 1x1
    """

    def __init__(self, inside: int, width: int, outside: int, depth: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, width, 1)
        self.middle = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate") for _ in range(depth)
        )
        self.films = nn.ModuleList(Film(width) for _ in range(depth + 1))
        self.last = nn.Conv2d(width, outside, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """`x` may be cut to its first channels; the missing ones count as zero."""
        first = functional.conv2d(x, self.first.weight[:, : x.shape[1]], self.first.bias)
        x = functional.gelu(self.films[0](first, position))
        for conv, film in zip(self.middle, self.films[1:], strict=True):
            x = x + functional.gelu(film(conv(x), position))
        return self.last(x)


class Gdn(nn.Module):
    """Generalised divisive normalisation: x / sqrt(beta + gamma x^2), or times it for the inverse.

    Balle, Laparra, Simoncelli 2016. `beta` and `gamma` are the effective values; converters undo
    the reparametrisation used in training.
    """

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(0.1 * torch.eye(channels))

    def forward(self, x: Tensor) -> Tensor:
        norm = functional.conv2d(x * x, self.gamma[:, :, None, None], self.beta)
        return x * torch.sqrt(norm) if self.inverse else x * torch.rsqrt(norm)


def down(inside: int, outside: int) -> nn.Conv2d:
    """5x5 convolution with stride 2."""
    return nn.Conv2d(inside, outside, 5, stride=2, padding=2)


def up(inside: int, outside: int) -> nn.ConvTranspose2d:
    """5x5 transposed convolution with stride 2, the mirror of `down`."""
    return nn.ConvTranspose2d(inside, outside, 5, stride=2, padding=2, output_padding=1)
