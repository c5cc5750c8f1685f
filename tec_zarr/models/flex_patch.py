"""FlexTEC in patch layout: TEC-TT in patch layout, of which any number of tokens may be sent.

A token is a part of the channels at all places (Latent Repacking), strongest first; its quality is
their number, and a quantisation step that goes with it. Channels that are not sent are forecast.

Steps of a series may have qualities of their own. Each frame is then coded at the quantisation step
of its quality, and the dates that it looks at are scaled to it.

With budgets a chunk has layers. Each takes what the one below it has shown as given, forecasts the
other channels again, and remembers its own dates: what a reader of the layers up to it sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain
from operator import index
from typing import TYPE_CHECKING, ClassVar, Self, cast

import torch

from tec_zarr.errors import ModelMismatchError
from tec_zarr.models.elic_patch import PatchElicConfig
from tec_zarr.models.priors import Coded
from tec_zarr.models.tt_patch import PatchTemporal

if TYPE_CHECKING:
    from torch import Tensor

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.models.coding import Ints


@dataclass(frozen=True, kw_only=True)
class PatchFlexConfig(PatchElicConfig):
    """What the tensors of the artifact do not say; quality code k sends k + 1 tokens."""

    tokens: tuple[int, ...]
    """Channels of each token."""

    budgets: tuple[int, ...]
    """How many tokens are known after each layer of a chunk; one layer has them all."""


class PatchFlex(PatchTemporal):
    """A FlexTEC model in patch layout, on one device, in evaluation mode."""

    family: ClassVar[str] = "flextec-patch"
    options: ClassVar[type[PatchElicConfig]] = PatchFlexConfig
    framewise = True

    def __init__(self, config: PatchFlexConfig) -> None:
        super().__init__(config)
        self.budgets = config.budgets
        self.channels = (0, *accumulate(map(index, config.tokens)))
        """How many channels so many tokens are."""

    def layers(self, quality: int) -> tuple[float, ...]:
        """The quality that each layer of a chunk brings, given its quality code."""
        return tuple(self.qualities[tokens - 1] for tokens in self._known(quality))

    def ends(self, quality: int) -> tuple[int, ...]:
        """How many channels are known after each layer of a chunk, given its quality code."""
        return tuple(self.channels[tokens] for tokens in self._known(quality))

    def _known(self, quality: int) -> list[int]:
        """How many tokens are known after each layer."""
        return [*(tokens for tokens in self.budgets if tokens <= quality), quality + 1]

    def analyse(self, frames: Tensor, quality: int, whole: Ints | None = None) -> Coded:
        """Latents of frames (tiles, frames, band, y, x) in normalised units, all of them."""
        if not self.lower:
            return super().analyse(frames, quality, whole)
        parts = [
            PatchTemporal.analyse(self, frames[:, f : f + 1], self.code_of(quality, f), whole)
            for f in range(frames.shape[1])
        ]
        latents = torch.cat([part.maps[0] for part in parts], 1)
        turns = chain.from_iterable(zip(*(part.turns for part in parts), strict=True))
        return Coded((latents,), parts[0].whole, tuple(turns))

    def synthesise(self, coded: Coded, quality: int) -> Tensor:
        """Frames (tiles, frames, band, y, x) in normalised units, from what readers see."""
        if not self.lower:
            return super().synthesise(coded, quality)
        count = coded.maps[-1].shape[1]
        parts = [
            Coded((coded.maps[-1][:, f : f + 1],), coded.whole, coded.turns[f::count])
            for f in range(count)
        ]
        seen = [
            PatchTemporal.synthesise(self, part, self.code_of(quality, f))
            for f, part in enumerate(parts)
        ]
        return torch.cat(seen, 1)

    @classmethod
    def from_artifact(cls, artifact: Artifact, device: torch.device | None = None) -> Self:
        """Build the model; ModelMismatchError if tensors are missing, left over or misshapen."""
        model = super().from_artifact(artifact, device)
        _check(cast("PatchFlexConfig", model.config))
        return model


def _check(config: PatchFlexConfig) -> None:
    """Raise ModelMismatchError for tokens, qualities and layers that do not go together."""
    channels, count = [*accumulate(config.tokens)], len(config.tokens)
    inside = sum(config.groups) + sum(config.others)
    if channels[-1] != inside or count != len(config.qualities):
        raise ModelMismatchError(
            f"{count} tokens of {channels[-1]} channels, for {len(config.qualities)} qualities of"
            f" a model of {inside} channels"
        )
    if sorted({0, *config.budgets, count}) != [0, *config.budgets]:
        raise ModelMismatchError(f"layers of {config.budgets} tokens, of which there are {count}")
    groups = {*accumulate((*config.groups, *config.others))}
    if any(channels[tokens - 1] not in groups for tokens in config.budgets):
        raise ModelMismatchError(f"layers of {config.budgets} tokens, which are no whole groups")
