"""The bundled kind of TEC-TT: TEC-ELIC in patch layout, whose prior looks at earlier dates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from tec_zarr.models.recalled import Dates
from tec_zarr.models.tt_patch import DATES, OLDEST, PatchTemporal
from tec_zarr.train.elic import BundledElic, ElicGraph, Talk
from tec_zarr.train.export import QUALITIES
from tec_zarr.train.graph import HIGH_RATE, Result
from tec_zarr.train.measured import ROWS, SUPPORT, Histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tec_zarr.models.elic_patch import PatchElic
    from tec_zarr.models.transforms import FlatTransform
    from tec_zarr.train.data import Batches

EARLIER = 3
"""Dates that come with a training frame; the most alike ones of them are context."""

FEWER = (0.08, 0.22, 0.7)
"""Shares of frames that have no, one, or both dates as context."""

LEAN = 0.36
"""Dates are rounded as with means of zero, a little towards it: alike what readers see of them."""


class TemporalGraph(ElicGraph):
    """A TEC-TT in patch layout. Of earlier dates only what is decoded matters, not how."""

    def forward(self, frames: Tensor, step: Tensor, past: Tensor | None = None) -> Result:
        position = self.transform.position(step)
        default = torch.zeros(len(frames), dtype=torch.bool, device=frames.device)
        latents, rotations = self.transform.analysis_at(frames, step, default)
        ends = self.ends(position)
        dates = None if past is None else self._dates(latents, rotations, past, step, ends)
        talk = Talk(latents, self.prior.shrink(position), ends)
        self.prior(talk, len(frames), latents.shape[2:], position, dates)
        decoded = self.transform.synthesis_at(talk.decoded(), step, rotations)
        return Result(decoded, talk.bits, HIGH_RATE / step.square())

    def ends(self, position: Tensor) -> Tensor | None:
        """How many channels of each frame are sent, (n,); None for all."""
        del position
        return None

    @torch.no_grad()
    def _dates(
        self, latents: Tensor, rotations: Tensor, past: Tensor, step: Tensor, ends: Tensor | None
    ) -> Dates:
        """The dates (n, earlier, band, y, x) that are most alike, as a writer chooses them."""
        count = past.shape[1]
        steps, there = step.repeat_interleave(count), past.flatten(2).any(2)
        default = torch.zeros(len(steps), dtype=torch.bool, device=past.device)
        own, turned = self.transform.analysis_at(past.flatten(0, 1), steps, default)
        own = (own.abs() + LEAN).floor_().copysign_(own)
        with torch.autocast(past.device.type, enabled=False):
            turn = rotations.repeat_interleave(count, 0) @ turned.mT
            own = self.transform.turned_by(own, turn).unflatten(0, (-1, count))
        if ends is not None:
            sent = torch.arange(own.shape[2], device=own.device) < ends[:, None]
            own = own * sent[:, None, :, None, None]
        strong = slice(self.prior.strong)
        apart = (own[:, :, strong] - latents[:, None, strong]).square().sum((2, 3, 4))
        order = apart.masked_fill(~there, torch.inf).argsort(1)[:, :DATES]
        lines = torch.arange(len(past), device=past.device)[:, None]
        there = there[lines, order]
        if self.training:
            kept = torch.multinomial(torch.tensor(FEWER), len(past), replacement=True)
            there = there & (torch.arange(DATES) < kept[:, None]).to(there.device)
        return Dates(own[lines, order] * there[..., None, None, None], there)


@dataclass(frozen=True, kw_only=True)
class BundledTemporal(BundledElic):
    """Sizes of a model, by default those of the one that ships; a `kinds.Kind`.

    Only the prior is trained. It begins as that of the bundled TEC-ELIC, or of another one.
    """

    kind: ClassVar[type[PatchElic]] = PatchTemporal
    title: ClassVar[str] = (
        f"TEC-TT for Sentinel-2 L2A, all rates from {QUALITIES[0]:g} to {QUALITIES[-1]:g} dB"
    )
    earlier: ClassVar[int] = EARLIER
    beginning: ClassVar[str] = "tec-elic-s2l2a"
    first: ClassVar[tuple[float, ...]] = (1 / (OLDEST + 1),) * (OLDEST + 1)

    family: str = field(default="tt", init=False)

    def _graph(self, transform: FlatTransform) -> TemporalGraph:
        return TemporalGraph(transform, self._prior())

    def _counts(self, model: PatchElic, batches: Batches, frames: int) -> NDArray[np.int64]:
        """As `measured.counted`, of series that end with the frame."""
        histogram = Histogram(np.zeros((ROWS + 1, 2 * SUPPORT + 1), np.int64))
        random = np.random.default_rng(0)
        for _ in range(-(-frames // (1 + EARLIER))):
            sample = batches.draw(1)
            series = torch.cat([*sample.dates, sample.frames[:, None]], 1)
            code = int(random.integers(len(model.qualities)))
            size = (sample.frames.shape[-2], sample.frames.shape[-1])
            grid = model.grid(1, series.shape[1], size)
            model.code(histogram, model.analyse(series, code), grid, code)
        return histogram.counts
