"""The bundled kind of FlexTEC: TEC-TT in patch layout, trained with channels that are not sent."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from tec_zarr.models.flex_patch import PatchFlex, PatchFlexConfig
from tec_zarr.train.export import QUALITIES
from tec_zarr.train.tt import BundledTemporal, TemporalGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from tec_zarr.models.elic_patch import PatchElic
    from tec_zarr.models.neighbours import NeighbourPrior
    from tec_zarr.models.transforms import FlatTransform
    from tec_zarr.train.data import Batches

FITTING = 0.5
"""Share of frames that are sent as many tokens as fit their step; the others have any number."""

FULL = (0.2, 0.98)
"""Where in the span steps lie that go with all tokens, and with about three sixteenths of them."""


class FlexGraph(TemporalGraph):
    """A FlexTEC in patch layout: in training a random number of tokens is sent."""

    def __init__(
        self, transform: FlatTransform, prior: NeighbourPrior, tokens: tuple[int, ...]
    ) -> None:
        super().__init__(transform, prior)
        self.register_buffer("channels", torch.tensor([*accumulate(tokens)]), persistent=False)
        self.channels: Tensor

    def ends(self, position: Tensor) -> Tensor | None:
        """How many channels of each frame are sent, (n,); None for all, outside of training."""
        if not self.training:
            return None
        count = len(self.channels)
        share = 1 - 13 / 16 * (position - FULL[0]) / (FULL[1] - FULL[0])
        any_share, chance = torch.rand((2, *position.shape), device=position.device)
        share = torch.where(chance < FITTING, share, any_share)
        return self.channels[(share * count).long().clamp(0, count - 1)]


@dataclass(frozen=True, kw_only=True)
class BundledFlex(BundledTemporal):
    """Sizes of a model, by default those of the one that ships; a `kinds.Kind`.

    Only the prior is trained. It begins as that of the bundled TEC-TT, or of another one.
    """

    kind: ClassVar[type[PatchElic]] = PatchFlex
    title: ClassVar[str] = "FlexTEC for Sentinel-2 L2A, a quality for each number of tokens"
    beginning: ClassVar[str] = "tec-tt-s2l2a"

    family: str = field(default="flextec", init=False)

    tokens: tuple[int, ...] = (32, 8, 8, 16, 24, 24, 48, 64, 64, 96, 64, 64, 64, 48, 32, 112)
    """Channels of each token: those behind a quality's tokens would save less than 1 % there."""

    budgets: tuple[int, ...] = (4, 8, 16)
    """Tokens that are known after each layer."""

    @property
    def levels(self) -> tuple[float, ...]:
        """PSNR in dB, peak 10000, of each quality code."""
        return tuple(np.linspace(QUALITIES[0], QUALITIES[-1], len(self.tokens)).tolist())

    def _config(self, reach: int) -> PatchFlexConfig:
        sizes = self._sizes(reach) | {"tokens": self.tokens, "budgets": self.budgets}
        return PatchFlexConfig(**sizes, qualities=tuple(1.0 + k for k in range(len(self.tokens))))

    def _graph(self, transform: FlatTransform) -> FlexGraph:
        return FlexGraph(transform, self._prior(), self.tokens)

    def _counts(self, model: PatchElic, batches: Batches, frames: int) -> NDArray[np.int64]:
        """As of TEC-TT, in one layer: there all tokens are counted."""
        whole = copy(cast("PatchFlex", model))
        whole.budgets = (len(self.tokens),)
        return super()._counts(whole, batches, frames)
