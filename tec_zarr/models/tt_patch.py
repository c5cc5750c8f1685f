"""TEC-TT in patch layout: TEC-ELIC in patch layout, whose forecasts look at earlier dates.

Frames of a series go in order. The writer names for each frame of a tile which earlier dates are
context, the most alike ones: after clouds that is the last clear date. Their latents, as readers
see them, are turned into the rotation of the frame; `models.recalled` says what becomes of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from tec_zarr.models import spectral
from tec_zarr.models.elic_patch import ROWS, Part, PatchElic, Talk
from tec_zarr.models.mixing import Shown
from tec_zarr.models.priors import Coded
from tec_zarr.models.recalled import Dates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from tec_zarr.models.coding import GuardedCoder
    from tec_zarr.models.priors import Grid
    from tec_zarr.models.spectral import Turns

DATES = 2
"""Earlier dates that are context of a frame."""

OLDEST = 15
"""How many steps back such a date may lie; 0 names none."""

NAMES = ROWS
"""The table row of these numbers."""


class PatchTemporal(PatchElic):
    """A TEC-TT model in patch layout, on one device, in evaluation mode."""

    family: ClassVar[str] = "tt-patch"
    dated: ClassVar[bool] = True

    def code(self, coder: GuardedCoder, coded: Coded | None, grid: Grid, quality: int) -> Coded:
        """Write what `analyse` made, or read it if None; returns what readers see.

        Maps: symbols (int32), and latents in steps (float32).
        """
        turns = self.transform.unpack(grid.sides, grid.frames) if coded is None else coded.turns
        layers = tuple(zip([coder, *coder.above], self.ends(quality), strict=False))
        walk = _Walk(self, layers, grid, turns, quality)
        given = None if coded is None else walk.by_step(coded.maps[0].flatten(0, 1))
        seen = [
            walk.code(step, None if given is None else given[:, step]) for step in range(walk.steps)
        ]
        shape = (grid.tiles, grid.frames, -1, *grid.sizes[0])
        maps = tuple(torch.stack(own, 1).view(shape) for own in zip(*seen, strict=True))
        return Coded(maps, np.ones(grid.tiles, np.int32), turns)

    def ends(self, quality: int) -> tuple[int, ...]:
        """How many channels are known after each layer of a chunk, given its quality code."""
        del quality  # all of them in one layer
        return (len(self.transform.order),)


class _Walk:
    """The frames of some tiles in order, all series together; each layer has dates of its own."""

    def __init__(
        self,
        model: PatchTemporal,
        layers: Sequence[tuple[GuardedCoder, int]],
        grid: Grid,
        turns: Turns,
        quality: int,
    ) -> None:
        """`layers` are coders, and the channels that are known after each."""
        self.model, self.layers = model, layers
        self.steps = grid.frames // grid.series
        self.codes = [model.code_of(quality, step) for step in range(self.steps)]
        self.grid = grid._replace(frames=grid.series)
        self.count = grid.tiles * grid.series
        default = model.transform.turned.double().cpu().numpy()
        rotations = torch.from_numpy(spectral.rotations(turns, default)).to(grid.device)
        self.rotations = self.by_step(rotations)
        """(tiles * series, steps, group, component, band), float64."""
        absent = np.zeros((grid.tiles, grid.frames), np.bool_)
        absent = absent if grid.absent is None else grid.absent
        self.absent = self.by_step(torch.from_numpy(absent.ravel()).to(grid.device))
        self.known: list[list[Tensor]] = [[] for _ in layers]
        """Latents of each step so far, (tiles * series, c, y, x), as each layer shows them."""

    def by_step(self, frames: Tensor) -> Tensor:
        """Frames (tiles * frames, ...) as (tiles * series, steps, ...)."""
        return frames.unflatten(0, (-1, self.steps))

    def code(self, step: int, given: Tensor | None) -> tuple[Tensor, ...]:
        """One frame of each series; returns its maps (tiles * series, c, places)."""
        names = self._sent(step, None if given is None else self._chosen(step, given))
        there, shown = names > 0, None
        maps: tuple[Tensor, ...] = ()
        own = None if given is None else given.unflatten(0, (self.grid.tiles, -1))
        size, absent = self.grid.sizes[0], self.absent[:, step]
        code = self.codes[step]
        position, most = self.model.position(code), self.model.ends(code)[-1]
        for (coder, end), past in zip(self.layers, self.known, strict=True):
            dates = Dates(self._recalled(past, step, names).to(position.dtype), there)
            part = Part(min(end, most), absent, maps)
            talk = Talk(self.model, coder, self.grid, position, own, part)
            known = self.model.prior(talk, self.count, size, position, dates, shown)
            maps = talk.maps
            shown = Shown(end, known.flatten(2), maps[0].to(known.dtype))
            past.append(known.float())
        return maps

    def _chosen(self, step: int, given: Tensor) -> Tensor:
        """The most alike earlier dates, (tiles * series, DATES): how many steps back they are."""
        strong, back = self.model.prior.strong, range(1, min(step, OLDEST) + 1)
        names = torch.zeros((self.count, DATES), dtype=torch.int64, device=given.device)
        if not back:
            return names
        past = self.known[0]
        apart = torch.stack(
            [
                (self._turned(past, step, step - b)[:, :strong] - given[:, :strong])
                .square()
                .sum((1, 2, 3))
                .masked_fill(self.absent[:, step - b], torch.inf)
                for b in back
            ],
            1,
        )
        found, order = apart.sort(dim=1, stable=True)
        order, found = order[:, :DATES] + 1, found[:, :DATES]
        names[:, : order.shape[1]] = torch.where(found.isfinite(), order, 0)
        return names.masked_fill(self.absent[:, step, None], 0)

    def _sent(self, step: int, names: Tensor | None) -> Tensor:
        coder, _ = self.layers[0]
        rows = np.full((self.grid.tiles, self.grid.series * DATES), NAMES, np.int32)
        given = None
        if names is not None:
            given = names.to("cpu", torch.int32).reshape(rows.shape).numpy()
        seen = torch.from_numpy(coder(given, rows)).to(self.grid.device)
        # Whatever a stream says, a date is one of those before, or none.
        return seen.reshape(self.count, DATES).long().clamp(0, min(step, OLDEST))

    def _recalled(self, past: list[Tensor], step: int, names: Tensor) -> Tensor:
        """The named dates in the rotation of this one, (tiles * series, DATES, c, y, x)."""
        size = (self.count, DATES, len(self.model.transform.order), *self.grid.sizes[0])
        dates = torch.zeros(size, dtype=torch.float64, device=names.device)
        for back in names.unique().tolist():
            if back:
                chosen = (names == back).nonzero(as_tuple=True)
                dates[chosen] = self._turned(past, step, step - back)[chosen[0]]
        return dates

    def _turned(self, past: list[Tensor], step: int, earlier: int) -> Tensor:
        """Latents of an earlier step in the rotation and in the quantisation steps of this one."""
        turn = self.rotations[:, step] @ self.rotations[:, earlier].mT
        turned = self.model.transform.turned_by(past[earlier].double(), turn)
        sizes = self.model.transform.steps.double()
        return turned * (sizes[self.codes[earlier]] / sizes[self.codes[step]])
