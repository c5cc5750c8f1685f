"""The networks of a level of `models.neighbours`: features of its places, group by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tec_zarr.models.layers import Knots
from tec_zarr.models.mixing import (
    SCALES,
    SIDE,
    Mixed,
    Wide,
    filmed,
    filtered,
    group_of,
    logarithm,
    slices,
)
from tec_zarr.models.recalled import Gates, Recall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.models.mixing import Send, Shown
    from tec_zarr.models.places import Places
    from tec_zarr.models.recalled import Dates

FAR = -30.0
"""Logarithm of the weight of a place that is not known."""

MEDIUM = 8.0
"""Steps that a neighbour's value is compared with."""


class Stage(nn.Module):
    """The forecast of a group of channels, from features (n, places, d)."""

    def __init__(self, width: int, channels: int, *, weighing: bool) -> None:
        super().__init__()
        self.film, self.bias = Knots(2 * width), Knots(channels, value=1.0)
        self.first, self.last = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 2 * channels)
        self.weights = nn.Linear(width, channels * SIDE**2) if weighing else None
        """What is added to the logarithms of the weights of neighbours."""

    def forward(self, features: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Change of the mean, in scales, and log2 of the scale (n, c, places); and features."""
        features = filmed(self.film, features, position)
        features = features + self.last(functional.gelu(self.first(features)))
        change, scale = self.out(features).to(position.dtype).mT.chunk(2, 1)
        return change, (scale + self.bias(position)[..., None]).clamp(*SCALES), features


class Around(NamedTuple):
    """Decoded values around the places of a level, of frames or of their dates."""

    near: Tensor
    """(..., c, SIDE**2, places): of the channels whose neighbours are weighed place by place."""

    known: Tensor
    """(1, 1, SIDE**2, places), bool."""

    far: Tensor
    """(..., c', places): what fixed weights make of the others."""


class Past(NamedTuple):
    """What a level needs to know of earlier dates."""

    told: Tensor
    """Features (n, dates, places, d)."""

    there: Tensor
    """(n, dates), bool."""

    here: Tensor
    """Their latents (n, dates, c, places)."""

    around: Around | None
    """As far as their neighbours are known of the frame."""


class Pass(nn.Module):
    """All groups of the places of a level; those of a corner have no neighbours."""

    def __init__(
        self, groups: Sequence[int], width: int, weighed: int, *, alone: bool, dated: bool = False
    ) -> None:
        super().__init__()
        self.slices, self.weighed, self.alone = slices(groups), weighed, alone
        count = sum(groups)
        self.stages = nn.ModuleList(
            Stage(width, size, weighing=not alone and part.stop <= weighed)
            for size, part in zip(groups, self.slices, strict=True)
        )
        self.told = nn.ModuleList(nn.Linear(2 * size, width) for size in groups[:-1])
        self.register_buffer("flat", torch.zeros(count, dtype=torch.bool))
        self.flat: Tensor
        """(channels,): those of frequency 0, whose mean is an average of neighbours."""
        if dated:
            self.recall = Recall(count, width)
            self.gates = nn.ModuleList(Gates(width, size) for size in groups)
        if alone:
            self.start = nn.Parameter(torch.zeros(width))
            return
        self.embedded = nn.Conv2d(2 * count + 1, width, 1)
        self.mixed = nn.Sequential(Mixed(width), Mixed(width))
        self.spread = nn.ModuleList(Wide(width) for _ in groups[:-1])
        self.weights = nn.Parameter(torch.zeros(count, SIDE**2))

    def forward(
        self,
        send: Send,
        grid: Tensor,
        at: Places,
        position: Tensor,
        dates: Dates | None = None,
        shown: Shown | None = None,
    ) -> Tensor:
        """Code the places of a level; returns them (n, c, places).

        `grid` (n, c, y, x) holds what is decoded of the level's grid, zero elsewhere.
        """
        features, around = self._begun(grid, at)
        past = None
        if dates is not None:
            told, added = self.recall(grid, dates, at)
            features, past = features + added, self._past(told, dates, at)
        done: list[Tensor] = []
        for index, part in enumerate(self.slices):
            found = group_of(shown, part, at.whole)
            if found is None:
                forecast = self._forecast(index, features, around, past, position)
                found = send(part, at.whole, *forecast)
            done.append(found[0])
            if index < len(self.told):
                features = features + self._told(index, *found, at)
        return torch.cat(done, 1)

    def _forecast(
        self,
        index: int,
        features: Tensor,
        around: Around | None,
        past: Past | None,
        position: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of a group, as `Send` gets them."""
        part, stage = self.slices[index], cast("Stage", self.stages[index])
        change, scale, seen = stage(features, position)
        mean = change * torch.exp2(scale)
        weights = self._weights(around, part, stage, seen)
        if around is not None:
            mean = mean + self._weighed(around, part, weights)
        if past is None:
            return mean, scale
        news, more = self._news(index, past, seen, weights, position)
        return mean + news, (scale + more).clamp(*SCALES)

    def _begun(self, grid: Tensor, at: Places) -> tuple[Tensor, Around | None]:
        """Features (n, places, d) before the first group, and what is known around."""
        if self.alone:
            return self.start.expand(len(grid), len(at.places), -1), None
        known = at.known.to(grid).expand(len(grid), 1, -1, -1)
        x = torch.cat([logarithm(grid), torch.tanh(grid / MEDIUM), known], 1)
        first, last = self.mixed
        return last(first(self.embedded(x)), at).squeeze(2).mT, self._around(grid, at)

    def _around(self, grid: Tensor, at: Places) -> Around:
        near = _unfolded(grid[:, : self.weighed])[..., at.places]
        filters = self.weights[self.weighed :].view(-1, 1, SIDE, SIDE)
        with torch.autocast(grid.device.type, enabled=False):
            others = grid[:, self.weighed :]
            far = filtered(others, filters)
        known = _unfolded(at.known.to(grid))[..., at.places] > 0
        return Around(near, known, at.taken(far))

    def _past(self, told: Tensor, dates: Dates, at: Places) -> Past:
        count = dates.maps.shape[1]
        here = at.taken(dates.flat).unflatten(0, (-1, count))
        if self.alone:
            return Past(told, dates.there, here, None)
        around = self._around(dates.flat * at.known.to(dates.maps), at)
        near, far = (part.unflatten(0, (-1, count)) for part in (around.near, around.far))
        return Past(told, dates.there, here, around._replace(near=near, far=far))

    def _news(
        self, index: int, past: Past, seen: Tensor, weights: Tensor | None, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What dates add to mean and scale of a group: what their neighbours do not say."""
        part = self.slices[index]
        news = past.here[:, :, part]
        if past.around is not None:
            own = None if weights is None else weights.unsqueeze(1)
            news = news - self._weighed(past.around, part, own)
        return self.gates[index](past.told + seen.unsqueeze(1), past.there, news, position)

    def _weights(
        self, around: Around | None, part: slice, stage: Stage, features: Tensor
    ) -> Tensor | None:
        """Weights (n, c, SIDE**2, places) of neighbours, where they differ from place to place."""
        if around is None or stage.weights is None:
            return None
        own = stage.weights(features).to(around.near.dtype).mT.unflatten(1, (-1, SIDE**2))
        weights = own + self.weights[part].unsqueeze(2)
        average = weights.masked_fill(~around.known, FAR).softmax(2)
        average = average * around.known.any(2, keepdim=True)
        return torch.where(self.flat[part].view(-1, 1, 1), average, weights * around.known)

    def _weighed(self, around: Around, part: slice, weights: Tensor | None) -> Tensor:
        """What neighbours make likely, (..., c, places)."""
        if weights is None:
            return around.far[..., part.start - self.weighed : part.stop - self.weighed, :]
        return (weights * around.near[..., part, :, :]).sum(-2)

    def _told(self, index: int, decoded: Tensor, symbols: Tensor, at: Places) -> Tensor:
        """What a group tells the next ones, here and at the places around."""
        told = self.told[index](torch.cat([logarithm(decoded), logarithm(symbols)], 1).mT)
        if self.alone:
            return told
        return told + at.taken(self.spread[index](at.placed(told.mT))).mT


def _unfolded(maps: Tensor) -> Tensor:
    """What lies around each place: (n, c, SIDE**2, y * x) of (n, c, y, x)."""
    found = functional.unfold(maps, SIDE, padding=SIDE // 2)
    return found.unflatten(1, (maps.shape[1], -1))
