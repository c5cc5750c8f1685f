"""Layers that mix features of places, and how latents enter them."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.models.layers import Knots

SIDE = 5
"""Of the filters, in places of a grid."""


SCALES = (-7.0, 12.0)
"""log2 of the least and of the largest scale, in steps."""


class Send(Protocol):
    """Codes a group: given are a slice of channels, places, and a forecast (n, c, places).

    `mean` and `scale` (log2) are in steps; no mean is zero. Returned are latents as readers see
    them, in steps, and symbols, both like `scale`.
    """

    def __call__(
        self, channels: slice, places: Tensor, mean: Tensor | None, scale: Tensor
    ) -> tuple[Tensor, Tensor]: ...


class Shown(NamedTuple):
    """Channels that are known before anything is coded."""

    end: int
    """How many there are: whole groups."""

    known: Tensor
    """Latents as readers see them, in steps, (n, c, places)."""

    symbols: Tensor
    """Like them."""


def group_of(shown: Shown | None, channels: slice, places: Tensor) -> tuple[Tensor, Tensor] | None:
    """Latents and symbols of a group, as `Send` returns them; None if it is not shown."""
    if shown is None or channels.stop > shown.end:
        return None
    return shown.known[:, channels, places], shown.symbols[:, channels, places]


def slices(sizes: Sequence[int], first: int = 0) -> list[slice]:
    """The channels of groups that follow each other."""
    return [slice(*ends) for ends in pairwise(accumulate(sizes, initial=first))]


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


def filmed(film: Knots, features: Tensor, position: Tensor) -> Tensor:
    """Features (n, places, d), scaled and shifted by what a quantisation step says."""
    scale, shift = film(position).unsqueeze(1).chunk(2, 2)
    return features * (1 + scale) + shift
