"""Networks that forecast latents place by place, between places and after channels that are known.

    decoded places of a grid -> mixed -> features of the places to come
    features -> mean and scale of a group of channels -> `Send` -> the group as readers see it
    the group as readers see it -> features -> the next group ...

Places go from coarse to fine (`interpolation.levels`), channels in uneven groups (He et al., ELIC,
CVPR 2022, with lattices for its checkerboard). The same functions train, write and read: only what
`Send` does is different. Places are numbered row by row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tec_zarr.models.interpolation import CORNER, levels
from tec_zarr.models.layers import Knots
from tec_zarr.models.mixing import SIDE, group_of
from tec_zarr.models.others import Others
from tec_zarr.models.passes import Pass
from tec_zarr.models.places import Places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.models.interpolation import Level
    from tec_zarr.models.mixing import Send, Shown
    from tec_zarr.models.recalled import Dates


class NeighbourPrior(nn.Module):
    """Codes maps of latents through `Send`: strong channels level by level, then the others.

    Levels of spacing one, most of all places, have networks of their own; the others share theirs.
    """

    def __init__(
        self,
        groups: Sequence[int],
        others: Sequence[int],
        width: int,
        near: int,
        *,
        dated: bool = False,
    ) -> None:
        super().__init__()
        self.strong = sum(groups)
        self.corner = Pass(groups, width, near, alone=True, dated=dated)
        self.wide, self.fine = (
            nn.ModuleList(Pass(groups, width, near, alone=False, dated=dated) for _ in range(2))
            for _ in range(2)
        )
        self.others = Others(others, self.strong, width, dated=dated)
        self.shrink = Knots(self.strong + sum(others), value=1.0)
        """What readers multiply symbols with, by channel."""

    def forward(
        self,
        send: Send,
        count: int,
        size: tuple[int, int],
        position: Tensor,
        dates: Dates | None = None,
        shown: Shown | None = None,
    ) -> Tensor:
        """Code `count` maps of `size` (y, x); returns latents (n, c, y, x) in steps.

        `position` (n,) or (1,) is where quantisation steps lie in the model's span; `dates` are
        earlier ones of the maps, for priors that are `dated`. Channels that are `shown` are not
        sent.
        """
        found = group_of(shown, slice(self.strong), torch.arange(size[0] * size[1]))
        if found is None:
            known = position.new_zeros((count, self.strong, *size))
            known = self._levels(send, known, position, dates, shown)
        else:
            known = found[0].unflatten(2, size)
        return torch.cat([known, self.others(send, known, position, dates, shown)], 1)

    def _levels(
        self,
        send: Send,
        known: Tensor,
        position: Tensor,
        dates: Dates | None,
        shown: Shown | None,
    ) -> Tensor:
        """Code the strong channels, given zeros (n, c, y, x)."""
        shape = known.shape
        for level in levels(*shape[2:]):
            at = Places.of(level, (shape[2], shape[3]), known.device)
            grid = known[:, :, :: level.step, :: level.step]
            seen = None if dates is None else dates.part(level.step, slice(self.strong))
            decoded = self._pass(level)(send, grid, at, position, seen, shown)
            known = known.flatten(2).index_copy(2, at.whole, decoded).view(shape)
        return known

    def settle(self, flat: Tensor) -> None:
        """Say which strong channels are averages of a patch; they begin as those of neighbours."""
        away = torch.arange(SIDE) - SIDE // 2
        distances = (away[:, None] ** 2 + away**2).flatten()
        for part in (self.corner, *self.wide, *self.fine):
            part.flat.copy_(flat)
            if not part.alone:
                near = flat & (torch.arange(len(flat)) < part.weighed)
                part.weights.data[near] = -1.5 * distances.to(part.weights)

    def _pass(self, level: Level) -> nn.Module:
        if level.kind == CORNER:
            return self.corner
        return (self.fine if level.step == 1 else self.wide)[level.kind - 1]
