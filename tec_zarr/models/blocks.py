"""The published transforms and their blocks. Tensors are (n, channel, y, x)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from tec_zarr.models.layers import down, up

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Sizes = tuple[int, int, int, int, int]


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


class Rectified(nn.Module):
    """x + two 3x3 convolutions, both rectified."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convs(x)


class ChannelsLast(nn.Sequential):
    """Layers that have all channels of a place beside each other on their way: they are faster."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        found: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return found.contiguous()


def analysis(sizes: Sizes, block: Callable[[int], nn.Module]) -> nn.Sequential:
    """Frames (n, band, y, x) to latents at 1/16 (g_a of the papers).

    `sizes` are channels: bands, then what each convolution makes, latents last.
    """
    bands, *inside, latents = sizes
    return nn.Sequential(
        down(bands, inside[0]), *_three(block, inside[0]),
        down(inside[0], inside[1]), *_three(block, inside[1]), Attention(inside[1]),
        down(inside[1], inside[2]), *_three(block, inside[2]),
        down(inside[2], latents), Attention(latents),
    )  # fmt: skip


def synthesis(sizes: Sizes, block: Callable[[int], nn.Module]) -> nn.Sequential:
    """Mirror of `analysis` (g_s), of the same sizes."""
    bands, *inside, latents = sizes
    return ChannelsLast(
        Attention(latents), up(latents, inside[2]), *_three(block, inside[2]),
        up(inside[2], inside[1]), Attention(inside[1]), *_three(block, inside[1]),
        up(inside[1], inside[0]), *_three(block, inside[0]),
        up(inside[0], bands),
    )  # fmt: skip


def _three(block: Callable[[int], nn.Module], channels: int) -> list[nn.Module]:
    return [block(channels) for _ in range(3)]


def _narrow(channels: int) -> nn.Sequential:
    inside = channels // 2
    return nn.Sequential(
        nn.Conv2d(channels, inside, 1), nn.ReLU(),
        nn.Conv2d(inside, inside, 3, padding=1), nn.ReLU(),
        nn.Conv2d(inside, channels, 1),
    )  # fmt: skip
