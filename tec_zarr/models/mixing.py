"""Layers that mix features of places, and how latents enter them."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tec_zarr.models import loops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.models.layers import Knots
    from tec_zarr.models.places import Places

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


class Wide(nn.Conv2d):
    """A filter for each feature: (n, d, y, x)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, SIDE, padding=SIDE // 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return filtered(x, self.weight, self.bias)


def filtered(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Filters `weight` (c, 1, SIDE, SIDE) of each channel of x (n, c, y, x), zero beyond.

    torch takes one channel of one map after another in float64, 7 to 30 times as long as a loop.
    """
    plain = x.device.type == "cpu" and x.dtype == torch.float64 and not torch.is_grad_enabled()
    if not (loops.filters and plain):
        return functional.conv2d(x, weight, bias, padding=SIDE // 2, groups=len(weight))
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    found = torch.empty(x.shape, dtype=x.dtype)
    parts = x.contiguous(), weight[:, 0].contiguous(), bias, found
    loops.filters(*(part.numpy() for part in parts))
    return found


class Mixed(nn.Module):
    """Features (n, d, y, x), mixed with those around them, then with each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = Wide(width)
        self.first, self.last = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor, at: Places | None = None) -> Tensor:
        """Where only some places are wanted, they are (n, d, 1, places)."""
        x = x + functional.gelu(self.wide(x))
        x = x if at is None else at.taken(x).unsqueeze(2)
        return x + self.last(functional.gelu(self.first(x)))


def filmed(film: Knots, features: Tensor, position: Tensor) -> Tensor:
    """Features (n, places, d), scaled and shifted by what a quantisation step says."""
    scale, shift = film(position).unsqueeze(1).chunk(2, 2)
    return features * (1 + scale) + shift
