"""The forecast of latents that are mostly zero: what strong channels say of the others' scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tec_zarr.models.layers import Knots
from tec_zarr.models.mixing import SCALES, Mixed, filmed, group_of, logarithm, slices
from tec_zarr.models.recalled import Gates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.models.mixing import Send, Shown
    from tec_zarr.models.recalled import Dates


class Others(nn.Module):
    """The forecast of all remaining channels, group by group everywhere at once; without means."""

    def __init__(
        self, groups: Sequence[int], inside: int, width: int, *, dated: bool = False
    ) -> None:
        super().__init__()
        self.slices = slices(groups, inside)
        if dated:
            self.alike = nn.Conv2d(2 * inside, width, 1)
            self.gates = nn.ModuleList(Gates(width, size) for size in groups)
        self.embedded = nn.Conv2d(2 * inside, width, 1)
        self.films = nn.ModuleList(Knots(2 * width) for _ in groups)
        self.mixed = nn.ModuleList(Mixed(width) for _ in groups)
        self.out = nn.ModuleList(nn.Conv2d(width, size, 1) for size in groups)
        self.told = nn.ModuleList(nn.Conv2d(size, width, 1) for size in groups[:-1])
        self.bias = Knots(sum(groups))

    def forward(
        self,
        send: Send,
        known: Tensor,
        position: Tensor,
        dates: Dates | None = None,
        shown: Shown | None = None,
    ) -> Tensor:
        """Code the channels that follow `known` (n, c, y, x); returns them."""
        alike = None if dates is None else self._alike(known, dates)
        places = torch.arange(known[0, 0].numel(), device=known.device)
        logs = logarithm(known)
        state = self.embedded(torch.cat([logs.abs(), logs], 1))
        bias = self.bias(position)[..., None]
        done: list[Tensor] = []
        for index, part in enumerate(self.slices):
            found = group_of(shown, part, places)
            if found is None:
                mean, scale = self._forecast(index, state, position, bias, dates, alike)
                found = send(part, places, mean, scale)
            decoded, symbols = found
            done.append(decoded.unflatten(2, known.shape[2:]))
            if index < len(self.told):
                state = state + self.told[index](logarithm(symbols).abs().view_as(done[-1]))
        return torch.cat(done, 1)

    def _forecast(
        self,
        index: int,
        state: Tensor,
        position: Tensor,
        bias: Tensor,
        dates: Dates | None,
        alike: Tensor | None,
    ) -> tuple[Tensor | None, Tensor]:
        """Mean and scale of a group, as `Send` gets them."""
        part, first = self.slices[index], self.slices[0].start
        seen = filmed(cast("Knots", self.films[index]), state.flatten(2).mT, position).mT
        seen = self.mixed[index](seen.unflatten(2, state.shape[2:]))
        own = bias[:, part.start - first : part.stop - first]
        scale = (self.out[index](seen).flatten(2).to(bias.dtype) + own).clamp(*SCALES)
        if dates is None or alike is None:
            return None, scale
        told = alike + seen.flatten(2).mT.unsqueeze(1)
        news = dates.maps[:, :, part].flatten(3)
        mean, more = self.gates[index](told, dates.there, news, position)
        return mean, (scale + more).clamp(*SCALES)

    def _alike(self, known: Tensor, dates: Dates) -> Tensor:
        """Features (n, dates, places, d) of how strong channels differ from those of dates."""
        count = dates.maps.shape[1]
        strong = dates.maps[:, :, : known.shape[1]].flatten(0, 1)
        apart = logarithm(known.repeat_interleave(count, 0) - strong).abs()
        told = self.alike(torch.cat([apart, logarithm(strong).abs()], 1))
        return functional.gelu(told).flatten(2).mT.unflatten(0, (-1, count))
