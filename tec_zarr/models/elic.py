"""TEC-ELIC: a transform of single frames, and a prior that predicts each symbol's mean and scale.

frame -> g_a -> latents -> h_a -> z
z, latents -> `contexts.SpaceChannelPrior` -> symbols, latents as readers see them
latents as readers see them -> g_s -> frame
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from tec_zarr.errors import ModelMismatchError
from tec_zarr.models.blocks import ResidualBottleneck, analysis, synthesis
from tec_zarr.models.contexts import SpaceChannelPrior, rounded
from tec_zarr.models.layers import down
from tec_zarr.models.model import Sideless, configured, packed, restored
from tec_zarr.models.priors import Coded, Grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.models.coding import GuardedCoder, Ints

STRIDES = (64, 16)
"""Pixels of a place of z and of the latents."""


@dataclass(frozen=True, kw_only=True)
class ElicConfig:
    """What the tensors of a TEC-ELIC artifact do not say by themselves."""

    bands: tuple[str, ...]
    """Bands of a frame, in the order of the network's input."""

    width: int
    """Channels inside the transform, and of z (N of the papers)."""

    latents: int
    """Channels of the latents (M)."""

    groups: tuple[int, ...]
    """Channels of each group of latents, in the order of coding."""

    qualities: tuple[float, ...]
    """The quality that each quality code stands for."""

    context: tuple[int, int] = (224, 128)
    """Channels inside the networks of the channel context."""

    hidden: int = 512
    """Channels of the last layer but one of the parameter aggregation."""

    scales: tuple[float, float] = (0.11, 256.0)
    """Standard deviations of the first and the last Gaussian row, in quantisation steps."""

    rows: int = 64
    """Gaussian rows, at equal ratios; the rows of z follow them, one a channel."""

    def place_of(self, scale: Tensor) -> Tensor:
        """Where scales lie among the Gaussian rows: 0 for the first one, `rows` - 1 for the last.

        The published models take the next larger row; the nearest one is a little closer.
        """
        first, last = self.scales
        density = (self.rows - 1) / math.log(last / first)
        return (scale.clamp(first, last) / first).log() * density


class Elic(Sideless):
    """A TEC-ELIC model, on one device, in evaluation mode.

    The networks of `prior` run in float64: they choose table rows.
    """

    def __init__(self, config: ElicConfig) -> None:
        super().__init__(config)
        self.config = config
        width = config.width
        sizes = (len(config.bands), width, width, width, config.latents)
        self.g_a = analysis(sizes, ResidualBottleneck)
        self.g_s = synthesis(sizes, ResidualBottleneck)
        self.h_a = nn.Sequential(
            nn.Conv2d(config.latents, config.width, 3, padding=1), nn.ReLU(),
            down(config.width, config.width), nn.ReLU(),
            down(config.width, config.width),
        )  # fmt: skip
        self.prior = SpaceChannelPrior(config)

    @property
    def stride(self) -> int:
        """Tile sides are padded to a multiple of it, in pixels."""
        return max(STRIDES)

    def grid(self, tiles: int, frames: int, size: tuple[int, int]) -> Grid:
        """Sizes of z and of the latents of tiles of `size` (y, x) pixels, multiples of `stride`."""
        sizes = tuple((size[0] // s, size[1] // s) for s in STRIDES)
        return Grid(tiles, frames, sizes, self.mean.device)

    def analyse(self, frames: Tensor, quality: int, whole: Ints | None = None) -> Coded:
        """Of frames (tiles, frames, band, y, x) in normalised units, z (int32) and the latents."""
        del quality, whole  # one rate a model, nothing is left out
        latents = self.g_a(frames.flatten(0, 1))
        z = rounded(self.h_a(latents) - self.prior.median.view(1, -1, 1, 1))
        maps = (m.unflatten(0, frames.shape[:2]) for m in (z, latents))
        return Coded(tuple(maps), np.ones(len(frames), np.int32))

    def code(self, coder: GuardedCoder, coded: Coded | None, grid: Grid, quality: int) -> Coded:
        """Write what `analyse` made, or read it if None; returns what readers see.

        Maps: z and symbols (int32), latents as readers see them (float64).
        """
        del quality
        return self.prior.code(coder, coded, grid)

    def synthesise(self, coded: Coded, quality: int) -> Tensor:
        """Frames (tiles, frames, band, y, x) in normalised units, from what readers see."""
        del quality
        latents = coded.maps[-1]
        return self.g_s(latents.flatten(0, 1).float()).unflatten(0, latents.shape[:2])

    @classmethod
    def from_artifact(cls, artifact: Artifact, device: torch.device | None = None) -> Self:
        """Build the model; ModelMismatchError if tensors are missing, left over or misshapen."""
        config = configured(ElicConfig, artifact.fields["config"])
        model = restored(lambda: cls(config), artifact)
        if len(model.tables.sizes) != config.rows + config.width:
            raise ModelMismatchError(f"{len(model.tables.sizes)} table rows do not fit the model")
        model.prior.double()
        return model.to(device or torch.device("cpu"))

    def to_artifact(self, card: Mapping[str, Any]) -> Artifact:
        """Pack the model; weights become float32."""
        return packed(self, "elic", asdict(self.config), card)
