"""Analysis and synthesis of single frames: normalised units <-> latents in quantisation steps.

A transform turns (n, band, y, x) into a tuple of maps, finest resolution last, and back. Nothing is
rounded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tec_zarr.errors import FormatError
from tec_zarr.models import loops, spectral
from tec_zarr.models.layers import Gdn, Knots, down, gathered, product, scattered, up
from tec_zarr.models.patches import Patches
from tec_zarr.runtime import has_bfloat16

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.models.spectral import Turns

Maps = tuple[Tensor, ...]

LARGEST = 2.0**30  # symbols are cut to this magnitude
MOST_SLACK = 0.14
"""How far, in steps, rounding of the bundled model leans towards zero at most."""

MOST_MISSED = (0.3, 0.1)
"""Channels are left out of a tile only if their squares, over those of their quantisation steps,
have at most this mean: at each place, and in the whole tile. Rounding to zero loses up to 0.4."""


class Analysis(NamedTuple):
    """Maps in quantisation steps, and what a cut to their first channels costs."""

    maps: Maps
    missed: Tensor | None
    """(n, places): mean square, in steps, of the channels left out; None: none."""

    turns: Turns


class Transform(Protocol):
    """What models need of a transform."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def analysis(self, frames: Tensor, quality: int, cuts: Sequence[int] | None) -> Analysis: ...

    def symbols(self, maps: Maps, quality: int) -> Maps: ...

    def synthesis(self, maps: Maps, quality: int, turns: Turns) -> Tensor: ...

    def pack(self, turns: Turns, tiles: int) -> list[bytes]: ...

    def unpack(self, sides: Sequence[bytes], frames: int) -> Turns: ...


class StridedTransform(nn.Module):
    """Four strided convolutions with GDN, latents at 1/16 (Balle et al. 2017).

    The official TEC-FP. One rate a model: `quality` is ignored.
    """

    def __init__(self, bands: int, width: int, latents: int) -> None:
        super().__init__()
        self.strides, self.channels = (16,), (latents,)
        self.g_a = nn.Sequential(
            down(bands, width), Gdn(width),
            down(width, width), Gdn(width),
            down(width, width), Gdn(width),
            down(width, latents),
        )  # fmt: skip
        self.g_s = nn.Sequential(
            up(latents, width), Gdn(width, inverse=True),
            up(width, width), Gdn(width, inverse=True),
            up(width, width), Gdn(width, inverse=True),
            up(width, bands),
        )  # fmt: skip
        self.median = nn.Parameter(torch.zeros(latents))

    def analysis(self, frames: Tensor, quality: int, cuts: Sequence[int] | None) -> Analysis:
        del quality, cuts  # one rate, all channels
        return Analysis((self.g_a(frames) - self.median.view(1, -1, 1, 1),), None, ())

    def symbols(self, maps: Maps, quality: int) -> Maps:
        del quality
        return tuple(m.round().clamp_(-LARGEST, LARGEST).to(torch.int32) for m in maps)

    def synthesis(self, maps: Maps, quality: int, turns: Turns) -> Tensor:
        del quality, turns  # one rate, no rotations
        return self.g_s(maps[0] + self.median.view(1, -1, 1, 1))

    def pack(self, turns: Turns, tiles: int) -> list[bytes]:
        del turns
        return [b""] * tiles

    def unpack(self, sides: Sequence[bytes], frames: int) -> Turns:
        del frames
        if any(sides):
            raise FormatError("tiles of this model have nothing beside their symbols")
        return ()


class PatchTransform(Patches):
    """A DCT of 8x8 patches, rotations over bands, a DCT of 4x4 leading channels, and branches.

        x -> DCT 8x8 -> rotation -> channels in order -> + branch -+-> leading -> DCT 4x4 -> coarse
                                                                   +-> others -------------> fine

    Latents are coded in units of step * 2**gain and come back times `shrink`; gains, shrinkage and
    branches depend on the step.
    """

    group = 4

    def __init__(
        self, bands: int, width: int, lead: int, reach: int, depth: int, qualities: int
    ) -> None:
        super().__init__(bands, width, reach, depth, qualities)
        inside, coarse = bands * self.patch**2, lead * self.group**2
        self.lead = lead
        self.strides = (self.patch * self.group, self.patch)
        self.channels = (coarse, inside - lead)
        self.gain = Knots(sum(self.channels))
        self.shrink = Knots(sum(self.channels), value=1.0)
        self.register_buffer("lead_order", torch.arange(coarse))
        self.register_buffer("lead_waves", spectral.dct(self.group).float(), persistent=False)
        self.lead_order: Tensor
        """Channels of the coarse map, as frequency * lead + channel, strongest first."""
        self.lead_waves: Tensor

    def analysis(self, frames: Tensor, quality: int, cuts: Sequence[int] | None) -> Analysis:
        step = self.steps[quality : quality + 1]
        cut = (cuts or self.channels)[1]
        spectrum = self.spectrum(frames)
        turns = self._turns(spectrum, float(step))
        spectrum = self._rotations(turns)[:, self.member] @ spectrum
        latent = self._ordered(spectrum, max(self.reach, self.lead + cut), frames.shape)
        missed = None if cut == self.channels[1] else self._missed(spectrum, cut, step)
        # The branch was trained in bfloat16; only synthesis must come out alike on all machines.
        fast = has_bfloat16(frames.device)
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=fast):
            maps = self._in_steps(latent, step)
        return Analysis((maps[0], maps[1][:, :cut]), missed, turns)

    def symbols(self, maps: Maps, quality: int) -> Maps:
        step = self.steps[quality : quality + 1]
        if not loops.quantise or step.device.type != "cpu":
            found = (m.clamp_(-LARGEST, LARGEST) for m in self.quantised_at(maps, step))
            return tuple(m.to(torch.int32) for m in found)
        rest = np.float32(0.5 - self._slack(step).item())
        symbols = tuple(torch.empty(m.shape, dtype=torch.int32) for m in maps)
        for m, target in zip(maps, symbols, strict=True):
            loops.quantise(m.reshape(-1).numpy(), rest, LARGEST, target.view(-1).numpy())
        return symbols

    def synthesis(self, maps: Maps, quality: int, turns: Turns) -> Tensor:
        step = self.steps[quality : quality + 1]
        return self.synthesis_at(maps, step, self._rotations(turns))

    def analysis_at(self, frames: Tensor, step: Tensor, default: Tensor) -> tuple[Maps, Tensor]:
        """Latents of frames (n, band, y, x) in quantisation steps, and their rotations.

        `step` is (n,) or (1,); `default` (n,) chooses the frames without a rotation of their own.
        """
        latent, rotations = self._latent(frames, step, default)
        return self._in_steps(latent, step), rotations

    def quantised_at(self, maps: Maps, step: Tensor) -> Maps:
        """Round to whole steps, towards zero a little: shorter symbols are worth some error.

        Coarse steps, whose symbols are mostly zero, gain most (measured on training data).
        """
        slack = self._slack(step).view(-1, 1, 1, 1)
        sizes = (m.abs().add_(0.5 - slack).floor_() for m in maps)
        return tuple(size.copysign_(m) for size, m in zip(sizes, maps, strict=True))

    def _slack(self, step: Tensor) -> Tensor:
        """How far rounding leans towards zero at each step (n,), in steps."""
        return (0.5 * (self.position(step) - 0.1)).clamp(0, MOST_SLACK)

    def synthesis_at(self, maps: Maps, step: Tensor, rotations: Tensor) -> Tensor:
        """Invert `analysis_at`.

        Maps may be cut to their first channels; the missing ones are zero and cost no work.
        """
        shrink = self._split(self.shrink(self.position(step)))
        sizes = (w * s for w, s in zip(self._widths(step), shrink, strict=True))
        coarse, fine = (s[:, : m.shape[1]] for m, s in zip(maps, sizes, strict=True))
        places = fine.new_zeros((len(maps[0]), *self.lead_order.shape, *maps[0].shape[2:]))
        places[:, self.lead_order[: maps[0].shape[1]]] = maps[0] * coarse
        lead = product(self.lead_waves.T, places.unflatten(1, (self.group**2, self.lead)))
        count = self.lead + maps[1].shape[1]
        # The last channel, of zeros, stands for all that are missing.
        latent = fine.new_zeros((len(maps[1]), count + 1, *maps[1].shape[2:]))
        latent[:, : self.lead] = scattered(lead, self.group)
        latent[:, self.lead : count].copy_(maps[1]).mul_(fine)
        latent = self._corrected(latent, count, self.br_s, step)
        return self._pixels(latent, rotations)

    def _missed(self, spectrum: Tensor, cut: int, step: Tensor) -> Tensor:
        """Mean square, in steps, of the channels that are not kept, (n, places)."""
        lost = spectrum.flatten(1, 2).index_select(1, self.order[self.lead + cut :])
        return lost.square_().sum(1) / self._widths(step)[1][:, cut:].square().sum()

    def _in_steps(self, latent: Tensor, step: Tensor) -> Maps:
        """Maps of a latent before the branch, which may be cut to its first channels."""
        latent = self._corrected(latent, latent.shape[1], self.br_a, step)
        lead = product(self.lead_waves, gathered(latent[:, : self.lead], self.group))
        coarse, fine = self._widths(step)
        others = latent[:, self.lead :]
        return lead.flatten(1, 2)[:, self.lead_order] / coarse, others / fine[:, : others.shape[1]]

    def _widths(self, step: Tensor) -> Sequence[Tensor]:
        return self._split(step[:, None] * torch.exp2(self.gain(self.position(step))))

    def _split(self, channels: Tensor) -> Sequence[Tensor]:
        return channels[..., None, None].split(self.channels, 1)


class FlatTransform(Patches):
    """Patches whose channels are one map, all in units of the quantisation step."""

    def analysis(self, frames: Tensor, quality: int) -> tuple[Tensor, Turns]:
        """Latents of frames (n, band, y, x) in steps, not rounded, and the rotations to store."""
        step = self.steps[quality : quality + 1]
        spectrum = self.spectrum(frames)
        turns = self._turns(spectrum, float(step))
        spectrum = self._rotations(turns)[:, self.member] @ spectrum
        latent = self._ordered(spectrum, len(self.order), frames.shape)
        fast = has_bfloat16(frames.device)  # as in training; only synthesis must come out alike
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=fast):
            latent = self._corrected(latent, len(self.order), self.br_a, step)
        return latent / step, turns

    def synthesis(self, latents: Tensor, quality: int, turns: Turns) -> Tensor:
        """Frames of latents in steps, float32."""
        step = self.steps[quality : quality + 1]
        return self.synthesis_at(latents, step, self._rotations(turns))

    def analysis_at(self, frames: Tensor, step: Tensor, default: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of frames (n, band, y, x) in steps (n,), and their rotations.

        `default` (n,) chooses the frames without a rotation of their own.
        """
        latent, rotations = self._latent(frames, step, default)
        latent = self._corrected(latent, len(self.order), self.br_a, step)
        return latent / step.view(-1, 1, 1, 1), rotations

    def synthesis_at(self, latents: Tensor, step: Tensor, rotations: Tensor) -> Tensor:
        """Invert `analysis_at`."""
        latent = latents * step.view(-1, 1, 1, 1)
        return self._pixels(self._corrected(latent, latent.shape[1], self.br_s, step), rotations)

    def turned_by(self, latents: Tensor, turn: Tensor) -> Tensor:
        """Latents (n, c, y, x) whose components are turned by matrices (n, group, c', c').

        With B A^T they go from rotation A to rotation B.
        """
        spectrum = latents[:, self.order.argsort()].unflatten(1, (-1, self.bands)).flatten(3)
        turned = (turn[:, self.member] @ spectrum).flatten(1, 2)
        return turned[:, self.order].unflatten(2, latents.shape[2:])
