"""The entropy model of TEC-ELIC: what is known so far tells the mean and scale of what comes next.

    z -> hyper synthesis ----------------+
    groups of channels known so far -----+-> aggregation -> mean, scale of half a group -> symbols
    the other half of this group --------+

He et al., ELIC (CVPR 2022), with the channel context of Chandelier's version of it: the first group
and the one before. A half is that of a checkerboard; the first one has no spatial context.
All networks here are between the bitstream and integers: they run in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from tec_zarr.models.layers import up
from tec_zarr.models.priors import Coded, code_map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from tec_zarr.models.coding import GuardedCoder
    from tec_zarr.models.elic import ElicConfig
    from tec_zarr.models.priors import Grid

LARGEST = 2.0**30
"""Symbols are cut to this magnitude."""


class Group(nn.Module):
    """The context of one group of channels."""

    def __init__(self, config: ElicConfig, index: int) -> None:
        super().__init__()
        groups, (wide, narrow) = config.groups, config.context
        size, side = groups[index], 2 * config.latents
        self.channel: nn.Sequential | None = None
        if index:
            inside = groups[0] + (groups[index - 1] if index > 1 else 0)
            self.channel = nn.Sequential(
                _same(inside, wide), nn.ReLU(),
                _same(wide, narrow), nn.ReLU(),
                _same(narrow, 2 * size),
            )  # fmt: skip
        self.spatial = _same(size, 2 * size)
        self.aggregation = nn.Sequential(
            nn.Conv2d((4 if index else 2) * size + side, side, 1), nn.ReLU(),
            nn.Conv2d(side, config.hidden, 1), nn.ReLU(),
            nn.Conv2d(config.hidden, 2 * size, 1),
        )  # fmt: skip

    def given(self, side: Tensor, known: list[Tensor]) -> Tensor:
        """Context of a whole group: side information, and groups that are already coded."""
        if self.channel is None:
            return side
        seen = known[:1] + known[-1:] if len(known) > 1 else known
        return torch.cat([self.channel(torch.cat(seen, 1)), side], 1)

    def forecast(self, spatial: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales (n, c, y, x), place by place."""
        mean, scale = self.aggregation(torch.cat([spatial, given], 1)).chunk(2, 1)
        return mean, scale


class SpaceChannelPrior(nn.Module):
    """Codes z with one table row a channel, and then the latents, each with a mean and a scale."""

    def __init__(self, config: ElicConfig) -> None:
        super().__init__()
        self.config = config
        width, latents = config.width, config.latents
        self.h_s = nn.Sequential(
            up(width, width), nn.ReLU(),
            up(width, width * 3 // 2), nn.ReLU(),
            nn.Conv2d(width * 3 // 2, 2 * latents, 3, padding=1),
        )  # fmt: skip
        self.groups = nn.ModuleList(Group(config, index) for index in range(len(config.groups)))
        self.register_buffer("median", torch.zeros(width))
        self.median: Tensor
        self.double()

    def code(self, coder: GuardedCoder, coded: Coded | None, grid: Grid) -> Coded:
        """Write or read; the maps given are z (int32) and latents, those returned follow.

        z and symbols (int32), and latents as readers see them, in the type of the networks; all are
        (tiles, frames, channels, y, x).
        """
        z, latents = (None, None) if coded is None else coded.maps
        rows = self.config.rows + torch.arange(self.config.width, device=grid.device)
        rows = rows.view(1, -1, 1, 1).expand(grid.tiles * grid.frames, -1, *grid.sizes[0])
        z = code_map(coder, z, rows, grid)
        side = self.h_s(z.flatten(0, 1).to(self.median.dtype) + self.median.view(1, -1, 1, 1))
        symbols: list[Tensor] = []
        known: list[Tensor] = []
        groups = cast("list[Group]", self.groups)
        for group, given in zip(groups, self._split(latents), strict=True):
            one, other = self._code_group(group, coder, given, group.given(side, known), grid)
            symbols.append(one)
            known.append(other)
        maps = (torch.cat(part, 1).unflatten(0, z.shape[:2]) for part in (symbols, known))
        return Coded((z, *maps), np.ones(grid.tiles, np.int32))

    def _split(self, latents: Tensor | None) -> Iterator[Tensor | None]:
        """The groups of some latents, (n, c, y, x) in the type of the networks."""
        if latents is None:
            yield from [None] * len(self.config.groups)
        else:
            flat = latents.flatten(0, 1).to(self.median.dtype)
            yield from flat.split(self.config.groups, 1)

    def _code_group(
        self, group: Group, coder: GuardedCoder, latents: Tensor | None, given: Tensor, grid: Grid
    ) -> tuple[Tensor, Tensor]:
        """Symbols and latents of a group: first where y + x is even, then where it is odd."""
        known = given.new_zeros((len(given), group.spatial.in_channels, *given.shape[2:]))
        symbols = torch.zeros_like(known, dtype=torch.int32)
        spatial = torch.zeros_like(known).repeat(1, 2, 1, 1)
        for parity in (0, 1):
            mean, scale = group.forecast(half(spatial, parity), half(given, parity))
            target = None if latents is None else half(latents, parity) - mean
            found = self._code_half(coder, target, scale, grid)
            put_half(symbols, found, parity)
            put_half(known, found + mean, parity)
            if not parity:
                spatial = group.spatial(known)
        return symbols, known

    def _code_half(
        self, coder: GuardedCoder, target: Tensor | None, scale: Tensor, grid: Grid
    ) -> Tensor:
        """Symbols (n, c, y, x / 2), given the latents less their means, and their scales."""
        batch = (grid.tiles, grid.frames)
        places = self.config.place_of(scale).double().unflatten(0, batch)
        rows = coder.guard(places).flatten(0, 1).clamp_(0, self.config.rows - 1)
        symbols = None if target is None else rounded(target).unflatten(0, batch)
        return code_map(coder, symbols, rows, grid).flatten(0, 1)


def rounded(values: Tensor) -> Tensor:
    """The nearest integers, int32. Only a writer may round what has not passed a guard."""
    return values.round().clamp_(-LARGEST, LARGEST).to(torch.int32)


def half(x: Tensor, parity: int) -> Tensor:
    """Places of (n, c, y, x) where y + x is even (`parity` 0) or odd (1): (n, c, y, x / 2)."""
    quads = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    rows = (quads[:, :, :, 0, :, parity], quads[:, :, :, 1, :, 1 - parity])
    return torch.stack(rows, 3).flatten(2, 3)


def put_half(x: Tensor, part: Tensor, parity: int) -> None:
    """Invert `half`, in place."""
    x[:, :, 0::2, parity::2] = part[:, :, 0::2]
    x[:, :, 1::2, 1 - parity :: 2] = part[:, :, 1::2]


def _same(inside: int, outside: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 5, padding=2)
