"""Patches of 8x8 pixels: DCT, rotations over bands, and branches that correct the strong channels.

What the transforms of the bundled models have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from tec_zarr.models import spectral
from tec_zarr.models.layers import Branch, gathered, product, scattered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.models.spectral import Turns


class Patches(nn.Module):
    """x -> DCT 8x8 -> rotation -> channels in order -> + branch, and back.

    `spectral` finds the rotations. All this is orthonormal; the branches, which see and correct the
    leading `reach` channels, start as zero.
    """

    patch = 8

    def __init__(self, bands: int, width: int, reach: int, depth: int, qualities: int) -> None:
        super().__init__()
        inside = bands * self.patch**2
        self.bands, self.reach = bands, min(reach, inside)
        self.br_a = Branch(self.reach, width, depth)
        self.br_s = Branch(self.reach, width, depth)
        self.register_buffer("turned", torch.eye(bands).repeat(len(spectral.EDGES), 1, 1))
        self.register_buffer("order", torch.arange(inside))
        self.register_buffer("steps", torch.ones(qualities))
        self.register_buffer("span", torch.tensor([-6.0, 3.0]))
        self.register_buffer("waves", spectral.dct(self.patch).float(), persistent=False)
        self.register_buffer("member", spectral.groups(), persistent=False)
        self.turned: Tensor
        """(group, component, band): rotations of the bands where a frame has none of its own."""
        self.order: Tensor
        """Channels, as frequency * bands + component, strongest first."""
        self.steps: Tensor
        """Quantisation step of each quality code, in normalised units."""
        self.span: Tensor
        """log2 of the finest and of the coarsest step that the model was trained for."""
        self.waves: Tensor
        self.member: Tensor

    def position(self, step: Tensor) -> Tensor:
        """Where steps (n,) lie in the span, 0 to 1."""
        span = self.span.to(step.dtype)
        return (torch.log2(step) - span[0]) / span.diff()

    def spectrum(self, frames: Tensor) -> Tensor:
        """DCT coefficients (n, 64, band, places) of frames (n, band, y, x)."""
        return product(self.waves, gathered(frames, self.patch).flatten(3))

    def pack(self, turns: Turns, tiles: int) -> list[bytes]:
        """The rotations of each tile as bytes."""
        frames = len(turns) // tiles
        return [spectral.pack(turns[frames * t : frames * (t + 1)]) for t in range(tiles)]

    def unpack(self, sides: Sequence[bytes], frames: int) -> Turns:
        """Invert `pack`; FormatError for other bytes."""
        tiles = (spectral.unpack(side, frames, self.bands) for side in sides)
        return tuple(turn for tile in tiles for turn in tile)

    def _latent(self, frames: Tensor, step: Tensor, default: Tensor) -> tuple[Tensor, Tensor]:
        """Channels of frames before the branch, strongest first, and the frames' rotations."""
        spectrum = self.spectrum(frames)
        with torch.no_grad():
            table = spectral.weighted(spectral.covariances(spectrum), spectral.noise(step).double())
            own = spectral.eigenvectors(table, self.turned).float()
            rotations = torch.where(default.view(-1, 1, 1, 1), self.turned, own)
        with torch.autocast(frames.device.type, enabled=False):
            spectrum = rotations[:, self.member] @ spectrum
        latent = self._ordered(spectrum, len(self.order), frames.shape)
        return latent, rotations

    def _turns(self, spectrum: Tensor, step: float) -> Turns:
        """The rotations to be stored for each frame."""
        tables = spectral.covariances(spectrum).cpu().numpy()
        return spectral.turns(tables, step**2 / 12, spectrum.shape[3], self._default())

    def _rotations(self, turns: Turns) -> Tensor:
        """(n, group, component, band) of stored rotations."""
        return torch.from_numpy(spectral.rotations(turns, self._default())).to(self.turned)

    def _default(self) -> spectral.Doubles:
        return self.turned.double().cpu().numpy()

    def _ordered(self, spectrum: Tensor, count: int, size: Sequence[int]) -> Tensor:
        """The first `count` channels of a rotated spectrum of frames of `size`, as maps."""
        chosen = spectrum.flatten(1, 2).index_select(1, self.order[:count])
        return chosen.unflatten(2, (size[2] // self.patch, size[3] // self.patch))

    def _corrected(self, latent: Tensor, count: int, branch: Branch, step: Tensor) -> Tensor:
        """Add what a branch makes of the leading channels, of which `latent` has `count`.

        Comes back with all that the branch corrects.
        """
        seen = min(count, self.reach)
        change = branch(latent[:, :seen], self.position(step)).float()
        if seen < self.reach or torch.is_grad_enabled():
            near = functional.pad(latent[:, :seen], (0, 0, 0, 0, 0, self.reach - seen))
            return torch.cat([near + change, latent[:, seen:]], 1)
        latent[:, :seen] += change
        return latent

    def _pixels(self, latent: Tensor, rotations: Tensor) -> Tensor:
        """Frames of a latent; channels that it lacks are like its last one."""
        place = self.order.argsort().clamp(max=latent.shape[1] - 1)
        spectrum = latent.flatten(2).index_select(1, place).unflatten(1, (-1, self.bands))
        planes = product(self.waves.T, rotations[:, self.member].mT @ spectrum)
        return scattered(planes.unflatten(3, tuple(latent.shape[2:])), self.patch)
