"""What earlier dates tell the forecasts of `models.neighbours`.

A date is the latents of an earlier frame as readers see them, turned into the rotation of the frame
to be coded. Where it is alike, what is new in it at a place, beyond what its own neighbours there
make likely, is likely to be new in this frame too:

    mean of a latent = from neighbours + sum over dates of gate * (date - from its neighbours)

Gates are a softmax over the dates and none of them, for each place and eight channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tec_zarr.models.layers import Knots
from tec_zarr.models.mixing import Mixed, logarithm

if TYPE_CHECKING:
    from tec_zarr.models.places import Places

HEAD = 8
"""Channels that share a gate."""


class Dates(NamedTuple):
    """Earlier dates of frames, of the places of a grid."""

    maps: Tensor
    """(n, dates, c, y, x)."""

    there: Tensor
    """(n, dates), bool: whether there is such a date."""

    def part(self, step: int, channels: slice) -> Dates:
        """Some channels of every `step`th place along y and x."""
        return self._replace(maps=self.maps[:, :, channels, ::step, ::step])

    @property
    def flat(self) -> Tensor:
        """(n * dates, c, y, x)."""
        return self.maps.flatten(0, 1)


class Gates(nn.Module):
    """How much each date counts for a group of channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.out = nn.Linear(width, -(-channels // HEAD))
        self.slope = Knots(channels)
        """What the logarithm of the change of a mean adds to that of the scale."""
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, -1.5)

    def forward(
        self, told: Tensor, there: Tensor, news: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Change of mean and scale (n, c, places).

        `told` (n, dates, places, d) are features, `news` (n, dates, c, places) what dates have.
        """
        logits = self.out(told).to(news.dtype).mT
        logits = logits.masked_fill(~there[:, :, None, None], -30.0)
        none = torch.zeros_like(logits[:, :1])
        gates = torch.cat([none, logits], 1).softmax(1)[:, 1:] * there[:, :, None, None]
        gates = gates.repeat_interleave(HEAD, 2)[:, :, : self.channels]
        change = (gates * news).sum(1)
        large = torch.log2(1 + (gates * news.abs()).sum(1))
        return change, self.slope(position)[..., None] * large


class Recall(nn.Module):
    """Features of dates at the places of a level, and what they add to those of the frame."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.embedded = nn.Conv2d(3 * channels + 1, width, 1)
        self.mixed = Mixed(width)
        self.score = nn.Linear(width, 1)
        self.added = nn.Linear(width, width)
        nn.init.zeros_(self.added.weight)
        nn.init.zeros_(self.added.bias)

    def forward(self, grid: Tensor, dates: Dates, at: Places) -> tuple[Tensor, Tensor]:
        """(n, dates, places, d) and (n, places, d); `grid` is what is known of the frame."""
        count = dates.maps.shape[1]
        own, known = grid.repeat_interleave(count, 0), at.known.to(grid)
        apart = logarithm(own - dates.flat) * known
        known = known.expand(len(own), 1, -1, -1)
        x = torch.cat([logarithm(own), logarithm(dates.flat), apart, known], 1)
        told = self.mixed(functional.gelu(self.embedded(x)), at).squeeze(2).mT
        told = told.unflatten(0, (-1, count))
        score = self.score(told).masked_fill(~dates.there[:, :, None, None], -30.0)
        share = torch.cat([torch.zeros_like(score[:, :1]), score], 1).softmax(1)[:, 1:]
        share = share * dates.there[:, :, None, None]
        return told, self.added((share * told).sum(1))
