"""Layers that several models share. Tensors are (n, channel, y, x) unless it says otherwise."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def gathered(maps: Tensor, side: int) -> Tensor:
    """Squares of side x side values as planes: (n, c, y, x) -> (n, side**2, c, y', x')."""
    n, c, height, width = maps.shape
    parts = (n, c, height // side, side, width // side, side)
    return _permuted(maps, parts, (0, 3, 5, 1, 2, 4)).flatten(1, 2)


def scattered(planes: Tensor, side: int) -> Tensor:
    """Invert `gathered`."""
    parts = planes.unflatten(1, (side, side))
    return _permuted(parts, tuple(parts.shape), (0, 3, 4, 1, 5, 2)).flatten(4, 5).flatten(2, 3)


def product(matrix: Tensor, planes: Tensor) -> Tensor:
    """Multiply (n, planes, ...) by (planes', planes), in float32 whatever autocast says."""
    with torch.autocast(planes.device.type, enabled=False):
        return (matrix @ planes.flatten(2).float()).unflatten(2, planes.shape[2:])


def _permuted(values: Tensor, shape: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
    if torch.is_grad_enabled() or values.device.type != "cpu":
        return values.reshape(shape).permute(axes).contiguous()
    # NumPy's copy is twice as fast as torch's.
    return torch.from_numpy(np.ascontiguousarray(values.numpy().reshape(shape).transpose(axes)))


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

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor, position: Tensor) -> Tensor:
        """Scale and shift what the filters `weight` and `bias` make of x."""
        scale, shift = self.scale(position), self.shift(position)
        if len(position) > 1:
            x = pointwise(x, weight, bias)
            return torch.addcmul(_each(shift).to(x.dtype), x, _each(scale).to(x.dtype))
        # One step for all frames: the filters can do it.
        return pointwise(x, weight * scale.view(-1, 1, 1, 1), bias * scale[0] + shift[0])


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution; `x` may have any order of memory, the result is channels-last."""
    flat = x.flatten(2)
    if torch.is_autocast_enabled(x.device.type):  # it would reorder first, which takes longer
        flat = flat.to(torch.get_autocast_dtype(x.device.type))
    mixed = functional.linear(flat.mT, weight.flatten(1), bias)
    return mixed.mT.unflatten(2, x.shape[2:])


def _each(channels: Tensor) -> Tensor:
    """Values (n, c) for all places of maps (n, c, y, x)."""
    return channels[..., None, None]


class Branch(nn.Module):
    """A nonlinear correction of the leading channels of a latent; zero at the start of training.

        x / spread -> 1x1 -> film, gelu -> [+ depthwise 5x5 -> 1x1 -> film, gelu] * depth
                   -> 1x1 -> * spread

    Depthwise filters see far for little work; `spread` makes all channels equally large inside.
    """

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(channels))
        self.spread: Tensor
        """Standard deviation of each channel, in normalised units."""
        self.first = nn.Conv2d(channels, width, 1)
        self.wide = nn.ModuleList(
            nn.Conv2d(width, width, 5, padding=2, padding_mode="replicate", groups=width)
            for _ in range(depth)
        )
        self.mixing = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.films = nn.ModuleList(Film(width) for _ in range(depth + 1))
        self.last = nn.Conv2d(width, channels, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """`x` may be cut to its first channels: the missing ones count as zero."""
        seen = x.shape[1]
        first = self.first.weight[:, :seen] / self.spread[:seen].view(-1, 1, 1)
        x = functional.gelu(self.films[0](x, first, self.first.bias, position))
        for wide, mixing, film in zip(self.wide, self.mixing, self.films[1:], strict=True):
            far = self._far(wide, x)
            x = x + functional.gelu(film(far, mixing.weight, mixing.bias, position))
        weight, bias = self.last.weight, cast("Tensor", self.last.bias)
        return pointwise(x, weight * self.spread.view(-1, 1, 1, 1), bias * self.spread)

    def _far(self, wide: nn.Module, x: Tensor) -> Tensor:
        """Gradients of depthwise filters are faster in float32 than in bfloat16."""
        if not torch.is_grad_enabled():
            return wide(x)
        with torch.autocast(x.device.type, enabled=False):
            return wide(x.float())


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
