"""TEC-TT and FlexTEC: a transform of single frames, and a transformer that codes their latents.

frame -> g_a -> rounded -> latents, integers -> `sequence.SequencePrior` -> stream, features
latents + lift(features) -> g_s -> frame

FlexTEC repacks the tokens of a window, so that a token is a part of the channels of all its places,
and sends the first ones only: its quality is their number.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from tec_zarr.errors import ModelMismatchError
from tec_zarr.models.blocks import Rectified, ResidualUnit, analysis, synthesis
from tec_zarr.models.contexts import rounded
from tec_zarr.models.integers import LONGEST, WIDEST, prepare
from tec_zarr.models.model import Sideless, configured, packed, restored
from tec_zarr.models.priors import Coded, Grid
from tec_zarr.models.sequence import AROUND, FINE, TOKENS, SequencePrior
from tec_zarr.models.tile_here import GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.models.coding import GuardedCoder, Ints

PLACE = 16
"""Pixels of a place of the latents along y and x."""

STRIDE = 4 * PLACE
"""Pixels of a window."""


@dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """What the tensors of a temporal artifact do not say by themselves."""

    bands: tuple[str, ...]
    """Bands of a frame, in the order of the network's input."""

    qualities: tuple[float, ...]
    """The quality that each quality code stands for."""

    sent: tuple[int, ...]
    """How many tokens of a window are sent, for each quality code."""

    budgets: tuple[int, ...] = (TOKENS,)
    """How many tokens are known after each layer of a chunk; one layer has them all."""

    channels: tuple[int, int, int] = (128, 160, 192)
    """Channels inside the transform, from the frame on."""

    latents: int = 192
    """Channels of the latents."""

    width: int = 768
    """Features of a token (d_model)."""

    heads: int = 16
    layers: tuple[int, int, int] = (6, 4, 5)
    """Of the transformers for a past frame, for both together, and for the tokens of this one."""

    expansion: int = 4
    """Features inside a perceptron, over `width`."""

    scales: tuple[float, float] = (0.01, 256.01)
    """Deviations of the first and the last scale, in quantisation steps, at equal ratios."""

    bins: tuple[int, ...]
    """Table rows of each scale: into so many parts a step is divided for the mean."""

    repacked: bool = False
    """Whether a token is a part of the channels of all places of a window (Latent Repacking)."""

    def place_of(self, raw: Tensor) -> Tensor:
        """Where scales, as the network gives them, lie among the scales: 0 for the first one.

        As trained: deviation = first + (1 + raw, or 1 / (1 - raw) where raw is negative).
        """
        first, last = self.scales
        density = (len(self.bins) - 1) / math.log(last / first)
        scale = torch.where(raw > 0, raw + 1, 1 / (1 - raw.clamp(max=0)))
        return ((scale + first) / first).log() * density


class Temporal(Sideless):
    """A TEC-TT or FlexTEC model, on one device, in evaluation mode."""

    framewise = True

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__(config)
        self.config = config
        sizes = (len(config.bands), *config.channels, config.latents)
        self.g_a, self.g_s = analysis(sizes, ResidualUnit), synthesis(sizes, ResidualUnit)
        self.lift = nn.Sequential(
            nn.Conv2d(config.width, config.latents, 1), nn.LeakyReLU(), Rectified(config.latents)
        )
        self.prior = SequencePrior(config)

    @property
    def stride(self) -> int:
        """Tile sides are padded to a multiple of it, in pixels."""
        return STRIDE

    def layers(self, quality: int) -> tuple[float, ...]:
        """The quality that each layer of a chunk brings, given its quality code."""
        sent = self.config.sent
        lower = [tokens for tokens in self.config.budgets if tokens < sent[quality]]
        return (*(self.qualities[sent.index(k)] for k in lower), self.qualities[quality])

    def grid(self, tiles: int, frames: int, size: tuple[int, int]) -> Grid:
        """Size of the latents of tiles of `size` (y, x) pixels, multiples of `stride`."""
        place = (size[0] // PLACE, size[1] // PLACE)
        return Grid(tiles, frames, (place,), self.mean.device)

    def analyse(self, frames: Tensor, quality: int, whole: Ints | None = None) -> Coded:
        """Latents (int32) of frames (tiles, frames, band, y, x) in normalised units."""
        del quality, whole  # one rate of latents, nothing is left out
        latents = rounded(self.g_a(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])
        return Coded((latents,), np.ones(len(frames), np.int32))

    def code(self, coder: GuardedCoder, coded: Coded | None, grid: Grid, quality: int) -> Coded:
        """Write what `analyse` made, or read it if None; returns what readers see.

        Maps: latents (int32), and features for the synthesis (float32).
        """
        codes = [self.code_of(quality, frame) for frame in range(grid.frames)]
        tokens = torch.tensor([self.config.sent[code] for code in codes], device=grid.device)
        sent = torch.arange(TOKENS, device=grid.device) < tokens.view(-1, 1, 1)
        return self.prior.code(coder, None if coded is None else coded.maps[0], grid, sent)

    def synthesise(self, coded: Coded, quality: int) -> Tensor:
        """Frames (tiles, frames, band, y, x) in normalised units, from what readers see."""
        del quality
        latents, features = (m.flatten(0, 1).float() for m in coded.maps)
        return self.g_s(latents + self.lift(features)).unflatten(0, coded.maps[0].shape[:2])

    @classmethod
    def from_artifact(cls, artifact: Artifact, device: torch.device | None = None) -> Self:
        """Build the model; ModelMismatchError if tensors are missing, left over or misshapen."""
        config = configured(TemporalConfig, artifact.fields["config"])
        _check(config)
        model = restored(lambda: cls(config), artifact)
        rows = sum(config.bins)
        certain = model.tables.certain
        if len(certain) != rows + 1 or certain[:rows].any() or not certain[rows]:
            raise ModelMismatchError(f"{len(certain)} table rows do not fit the model")
        if model.tables.offsets[rows]:
            raise ModelMismatchError("the certain row of the tables is not that of zero")
        model = model.to(device or torch.device("cpu"))
        prepare(model.prior)
        return model

    def to_artifact(self, card: Mapping[str, Any]) -> Artifact:
        """Pack the model; weights become float32."""
        family = "flextec" if self.config.repacked else "tt"
        return packed(self, family, asdict(self.config), card)


def _check(config: TemporalConfig) -> None:
    """Raise ModelMismatchError for sizes that do not go together."""
    sizes = *config.channels, config.latents, config.width, config.heads, config.expansion
    if any(type(size) is not int or size < 1 for size in sizes):
        raise ModelMismatchError(f"{sizes} are no numbers of channels, features and heads")
    if any(FINE % count for count in config.bins):
        raise ModelMismatchError(f"rows of a scale that do not divide {FINE}: {config.bins}")
    if len(config.sent) != len(config.qualities) or max(config.sent) > TOKENS:
        raise ModelMismatchError(f"{config.sent} are no tokens for each of the model's qualities")
    if not _are_layers(config.budgets, config.sent):
        raise ModelMismatchError(
            f"layers of {config.budgets} tokens, where {config.sent} can be sent"
        )
    if config.repacked and config.latents % AROUND:
        raise ModelMismatchError(f"{config.latents} channels to be repacked into {AROUND} tokens")
    if max(config.latents, config.expansion * config.width) > LONGEST:
        raise ModelMismatchError(f"layers of more than {LONGEST} inputs: {sizes}")
    if config.width % math.lcm(GROUP, 2 * config.heads) or config.width > WIDEST * config.heads:
        raise ModelMismatchError(
            f"{config.heads} heads do not share {config.width} features, an even number each and a "
            f"multiple of {GROUP} in all"
        )


def _are_layers(budgets: object, sent: tuple[int, ...]) -> bool:
    """Whether budgets rise to all tokens, and each of those before has a quality."""
    if not isinstance(budgets, tuple) or any(type(tokens) is not int for tokens in budgets):
        return False
    return sorted({0, *budgets, TOKENS}) == [0, *budgets] and {*budgets[:-1]} <= {*sent}
