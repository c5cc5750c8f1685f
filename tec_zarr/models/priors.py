"""Which table row codes which symbol of TEC-FP: rows come from integers, the same everywhere.

A prior codes the integer maps of a transform through a `Coder`; the same function writes and reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tec_zarr.models.activity import LOG_LIMIT, WEIGHT_BITS, Activity, logarithms, shifted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tec_zarr.models.coding import Coder, Ints
    from tec_zarr.models.interpolation import Interpolation
    from tec_zarr.models.sparse import Sparse
    from tec_zarr.models.spectral import Turns


class Coded(NamedTuple):
    """The latents of some tiles of equal size."""

    maps: tuple[Tensor, ...]
    """(tiles, frames, channels, y, x): int32 symbols, one tensor for each resolution; models that
    predict means also have latents as floats, behind them."""

    whole: Ints
    """(tiles,): 1 where symbols that the tables call certain are coded nevertheless."""

    turns: Turns = ()
    """Rotations of the bands, frame by frame, for transforms that have them."""


class Grid(NamedTuple):
    """The sizes of a batch of latents."""

    tiles: int
    frames: int
    sizes: tuple[tuple[int, int], ...]
    """(y, x) of each map."""

    device: torch.device

    series: int = 1
    """Independent series that the frames are, one after the other, each in order of time."""

    absent: NDArray[np.bool_] | None = None
    """(tiles, frames): frames without a valid pixel; None if there are none."""

    sides: tuple[bytes, ...] = ()
    """When reading, what each tile stores beside its symbols."""


class Prior(Protocol):
    """Codes maps; `coded` is None when reading."""

    def largest(self) -> float: ...

    def cuts(self, quality: int) -> tuple[int, ...] | None: ...

    def code(self, coder: Coder, coded: Coded | None, grid: Grid, quality: int) -> Coded: ...


def code_map(coder: Coder, symbols: Tensor | None, rows: Tensor, grid: Grid) -> Tensor:
    """Code channels: `rows` (tiles * frames, c, y, x), symbols (tiles, frames, c, y, x)."""
    flat = rows.to("cpu", torch.int32).reshape(grid.tiles, -1).numpy()
    given = None if symbols is None else symbols.reshape(grid.tiles, -1).cpu().numpy()
    known = torch.from_numpy(coder(given, flat)).to(grid.device)
    return known.view(grid.tiles, grid.frames, *rows.shape[1:])


@dataclass(frozen=True, eq=False)
class StaticPrior:
    """One table row for each channel (Balle et al. 2018, factorised prior): nothing to forecast."""

    channels: int

    def largest(self) -> float:
        """Bound on the magnitude of every sum: there are none."""
        return 0.0

    def cuts(self, quality: int) -> None:
        """All channels are coded."""

    def code(self, coder: Coder, coded: Coded | None, grid: Grid, quality: int) -> Coded:
        del quality  # one rate a model
        height, width = grid.sizes[0]
        rows = torch.arange(self.channels, device=grid.device).view(1, -1, 1, 1)
        rows = rows.expand(grid.tiles * grid.frames, -1, height, width)
        known = code_map(coder, None if coded is None else coded.maps[0], rows, grid)
        return Coded((known,), np.ones(grid.tiles, np.int32))


@dataclass(frozen=True, eq=False)
class ActivityPrior:
    """Rows by the magnitudes of earlier channels, coarse map first, groups of channels in order.

    Rows below `certain` hold a single symbol, zero. A tile whose symbols would suffer is coded
    `whole`: its rows start at `certain`, its channels are not cut. A tile's first symbol says so.
    """

    groups: tuple[tuple[int, ...], ...]
    """Channels of each group, for the coarse and for the fine map."""

    first: Interpolation
    """The forecast of the first group of the coarse map."""

    activities: tuple[tuple[Activity, ...], ...]
    """The forecasts of the others of the coarse map, and of all of the fine one."""

    logs: Tensor
    """Table of log magnitudes."""

    upward: Tensor
    """(maps * side**2, coarse channels): what the coarse map adds to the fine one's context."""

    upward_bias: Tensor
    """(maps * side**2,)."""

    extents: Tensor
    """(quality codes, 2): channels that are coded of each map unless a tile is whole."""

    certain: int
    """The first row that is not certain."""

    sparse: Sparse
    """How symbols in rare rows are coded."""

    last: int
    """The last row of the forecast; the row after it codes the first symbol of a tile."""

    def largest(self) -> float:
        """Bound on the magnitude of every sum."""
        upward = float(self.upward.abs().sum(1).max()) * LOG_LIMIT
        sums = [activity.largest() for level in self.activities for activity in level]
        return max(upward + float(self.upward_bias.abs().max()), self.first.largest(), *sums)

    def cuts(self, quality: int) -> tuple[int, ...]:
        """Channels that are coded of each map unless a tile is whole."""
        return tuple(self.extents[quality].tolist())

    def code(self, coder: Coder, coded: Coded | None, grid: Grid, quality: int) -> Coded:
        flags = np.full((grid.tiles, 1), self.last + 1, np.int32)
        whole = coder(None if coded is None else coded.whole[:, None], flags)[:, 0]
        state = _Pass(self, coder, grid, quality, torch.from_numpy(whole).to(grid.device))
        given = (None, None) if coded is None else coded.maps
        first, logs = state.code_first(given[0])
        others, context = state.code_groups(0, given[0], [logs])
        fine, _ = state.code_groups(1, given[1], [state.upwards(context)])
        return Coded((torch.cat([first, *others], 2), torch.cat(fine, 2)), whole)


class _Pass:
    """One batch on its way through an `ActivityPrior`."""

    def __init__(
        self, prior: ActivityPrior, coder: Coder, grid: Grid, quality: int, whole: Tensor
    ) -> None:
        self.prior, self.grid, self.quality = prior, grid, quality
        self.plain, self.coder = coder, partial(prior.sparse, coder)
        self.cuts = prior.cuts(quality)
        self.extents = tuple(map(sum, prior.groups)) if whole.any() else self.cuts
        self.whole = whole.bool().repeat_interleave(grid.frames).view(-1, 1, 1, 1)

    def code_first(self, symbols: Tensor | None) -> tuple[Tensor, Tensor]:
        """Code the first group of the coarse map; returns it and its log differences.

        Its symbols are few: runs of zeros would not pay.
        """
        first, channels = self.prior.first, self.prior.groups[0][0]

        def send(kind: int, context: Tensor, differences: Tensor | None) -> Tensor:
            activity = first.activities[kind]
            rows = activity.rows([context], self.quality, channels, self.prior.last)
            rows = self._spared(rows, channels)
            return code_map(self.plain, differences, rows, self.grid).flatten(0, 1)

        given = None if symbols is None else symbols[:, :, :channels]
        size = (self.grid.tiles * self.grid.frames, *self.grid.sizes[0])
        maps, logs = first.code(send, given, size, self.prior.logs)
        return maps.unflatten(0, (self.grid.tiles, self.grid.frames)), logs

    def code_groups(
        self, level: int, symbols: Tensor | None, context: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Code the other groups of a map, each seeing the log magnitudes of those before it.

        `context` are those that come before; returned are the groups, and `context` with theirs.
        """
        groups, activities = self.prior.groups[level], self.prior.activities[level]
        others = groups[len(groups) - len(activities) :]
        done: list[Tensor] = []
        start = sum(groups) - sum(others)
        for channels, activity in zip(others, activities, strict=True):
            count = min(channels, self.extents[level] - start)
            if count <= 0:
                break
            rows = activity.rows(context, self.quality, count, self.prior.last)
            rows = self._spared(rows, self.cuts[level] - start)
            given = None if symbols is None else symbols[:, :, start : start + count]
            done.append(code_map(self.coder, given, rows, self.grid))
            start += count
            if level == 0 or start < self.extents[level]:  # somebody looks at it
                context = [*context, logarithms(done[-1].flatten(0, 1), self.prior.logs)]
        return done, context

    def upwards(self, logs: Sequence[Tensor]) -> Tensor:
        """Context that the logs of the coarse map give to the fine one, at its resolution."""
        coarse = torch.cat(list(logs), 1)
        total = self.prior.upward[:, : coarse.shape[1]] @ coarse.flatten(2)
        total = shifted(total + self.prior.upward_bias[:, None], WEIGHT_BITS).clamp_(0, LOG_LIMIT)
        side = self.grid.sizes[1][0] // self.grid.sizes[0][0]
        return functional.pixel_shuffle(total.view(len(coarse), -1, *coarse.shape[2:]), side)

    def _spared(self, rows: Tensor, cut: int) -> Tensor:
        """Let whole tiles have no certain row, the others nothing else from channel `cut` on."""
        if not self.whole.any():
            return rows
        beyond = torch.arange(rows.shape[1], device=rows.device).view(1, -1, 1, 1) >= cut
        return torch.where(self.whole, rows.clamp(min=self.prior.certain), rows * ~beyond)
