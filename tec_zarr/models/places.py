"""The places of a level of `interpolation.levels`, seen in the grid of that level."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tec_zarr.models.interpolation import CORNER, EDGES

if TYPE_CHECKING:
    from tec_zarr.models.interpolation import Level


class Places(NamedTuple):
    """Places of a level, in its grid."""

    places: Tensor
    """(places,): in the grid."""

    whole: Tensor
    """(places,): in the map."""

    known: Tensor
    """(1, 1, y, x), bool: what of the grid is known before."""

    @classmethod
    def of(cls, level: Level, size: tuple[int, int], device: torch.device) -> Places:
        """The places of a level of a map of `size`."""
        y, x = level.places.div(size[1], rounding_mode="floor"), level.places % size[1]
        rows, columns = (-(-side // level.step) for side in size)
        odd_y = torch.arange(rows).view(-1, 1) % 2 == 1
        odd_x = torch.arange(columns) % 2 == 1
        known = odd_y == odd_x if level.kind == EDGES else ~odd_y & ~odd_x
        known = known & (level.kind != CORNER)
        own = y.div(level.step, rounding_mode="floor") * columns
        own = own + x.div(level.step, rounding_mode="floor")
        return cls(own.to(device), level.places.to(device), known[None, None].to(device))

    def taken(self, maps: Tensor) -> Tensor:
        """The values (n, c, places) of maps of the grid."""
        return maps.flatten(2).index_select(2, self.places)

    def placed(self, values: Tensor) -> Tensor:
        """Invert `taken`, with zeros elsewhere."""
        size = self.known.shape[2:]
        maps = values.new_zeros((*values.shape[:2], size.numel()))
        return maps.index_copy(2, self.places, values).unflatten(2, tuple(size))
