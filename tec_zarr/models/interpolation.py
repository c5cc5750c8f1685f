"""Leading channels of the coarse map, coded on lattices that become finer and finer.

What is coded is the difference of each symbol from what its neighbours make likely: first the
corner, then the centres of squares from their corners, then the middles of edges from the places
around them, and so on with squares of half the side (hierarchical interpolation, Roos et al. 1988).
All numbers are integers, so that it is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tec_zarr.models.activity import LOG_ENTRIES, Activity, logarithms

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Send = Callable[[int, Tensor, Tensor | None], Tensor]

GAIN_BITS = 12
"""Binary digits of gains below one."""

MOST_MEAN = 1 << 29
"""Means are cut to this magnitude: differences from symbols of up to 2**30 fit 32 bits."""

MOST_SYMBOL = 1 << 30

CORNER, CENTRES, EDGES = range(3)
"""Kinds of levels."""


class Level(NamedTuple):
    """Places of a map, numbered row by row, that are coded together."""

    kind: int

    step: int
    """Spacing of the grid that holds these places and all that are known before."""

    places: Tensor
    """(places,)."""

    near: Tensor
    """(4, places): known places around each; one that there is stands for those there are not."""

    present: Tensor
    """(4, places), bool: whether there is one."""

    def around(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and range of the known neighbours, both (n, c, places), in maps (n, c, y * x)."""
        values = known[:, :, self.near]
        total = (values * self.present.to(known.device)).sum(2)
        return total, values.amax(2) - values.amin(2)

    def gains(self, table: Tensor) -> Tensor:
        """What the sum of each place's neighbours is multiplied by, (c, places).

        `table` is (2, 4, c): for centres and for edges, by the number of neighbours.
        """
        if self.kind == CORNER:
            return table.new_zeros((table.shape[2], 1))
        return table[self.kind - 1, self.present.sum(0).to(table.device) - 1].T


@lru_cache(maxsize=64)
def levels(height: int, width: int) -> tuple[Level, ...]:
    """The levels of a map in the order of coding; every place is in one."""
    size, side = (height, width), 1 << (max(height, width) - 1).bit_length()
    y, x = np.indices(size)
    found = [_level(CORNER, size, (y == 0) & (x == 0), side)]
    while side > 1:
        half = side // 2
        down, right = (y % side == half) & (x % side == 0), (y % side == 0) & (x % side == half)
        found.append(_level(CENTRES, size, (y % side == half) & (x % side == half), half))
        found.append(_level(EDGES, size, down | right, half))
        side = half
    return tuple(level for level in found if len(level.places))


def _level(kind: int, size: tuple[int, int], chosen: NDArray[np.bool_], step: int) -> Level:
    """The level of the `chosen` places, whose neighbours are `step` away."""
    towards = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
    if kind != EDGES:
        towards = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    there = np.argwhere(chosen) + step * towards[:, None]
    present = ((there >= 0) & (there < size)).all(2)
    near = np.where(present, there[..., 0] * size[1] + there[..., 1], 0)
    near = np.where(present, near, np.take_along_axis(near, present.argmax(0)[None], 0))
    with torch.inference_mode(mode=False):  # the same levels may serve training later
        return Level(
            kind, step, *map(torch.from_numpy, (chosen.ravel().nonzero()[0], near, present))
        )


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The forecast of a group of channels that is coded level by level."""

    gain: Tensor
    """(2, 4, channels), int64: see `Level.gains`; in units of 2**-GAIN_BITS."""

    activities: tuple[Activity, ...]
    """The rows of each kind of level, by log ranges of the symbols around a place and the largest
    log differences there, (n, 2 * channels, 1, places)."""

    def code(
        self, send: Send, symbols: Tensor | None, size: tuple[int, int, int], table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Code maps of `size` (n, y, x), or read them if `symbols` (n, c, y, x) are None.

        `send` gets the kind of a level, the context of its rows and the differences to be coded,
        and returns the differences as readers see them, both (n, c, 1, places) int32. Returned are
        symbols as readers see them, int32, and the log magnitudes of differences, (n, c, y, x).
        """
        count, *sides = size
        shape = (count, self.gain.shape[2], sides[0] * sides[1])
        known = torch.zeros(shape, dtype=torch.int64, device=table.device)
        logs = torch.zeros(shape, dtype=table.dtype, device=table.device)
        given = None if symbols is None else symbols.reshape(shape).long()
        for level in levels(*sides):
            places, near = level.places, level.near
            total, spread = level.around(known)
            mean = (total * level.gains(self.gain) + (1 << (GAIN_BITS - 1))) >> GAIN_BITS
            mean = mean.clamp_(-MOST_MEAN, MOST_MEAN)
            spread = spread.clamp_(max=LOG_ENTRIES - 1).int()
            context = torch.cat([logarithms(spread, table), logs[:, :, near].amax(2)], 1)
            wanted = None if given is None else (given[:, :, places] - mean).int().unsqueeze(2)
            seen = send(level.kind, context.unsqueeze(2), wanted).squeeze(2)
            known[:, :, places] = (seen + mean).clamp_(-MOST_SYMBOL, MOST_SYMBOL)
            logs[:, :, places] = logarithms(seen, table)
        whole = (count, -1, *sides)
        return known.int().view(whole), logs.view(whole)

    def largest(self) -> float:
        """Bound on the magnitude of every sum of a row."""
        return max(activity.largest() for activity in self.activities)
