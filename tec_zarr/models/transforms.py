"""Analysis and synthesis of single frames: normalised units <-> latents in quantisation steps.

A transform turns (n, band, y, x) into a tuple of maps, finest resolution last, and back. Nothing is
rounded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tec_zarr.models.layers import Branch, Gdn, Knots, down, up
from tec_zarr.runtime import has_bfloat16

if TYPE_CHECKING:
    from collections.abc import Sequence

Maps = tuple[Tensor, ...]

MOST_SLACK = 0.14
"""How far, in steps, rounding of the bundled model leans towards zero at most."""


class Transform(Protocol):
    """What models need of a transform."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def analysis(self, frames: Tensor, quality: int) -> Maps: ...

    def quantised(self, maps: Maps, quality: int) -> Maps: ...

    def synthesis(self, maps: Maps, quality: int) -> Tensor: ...


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

    def analysis(self, frames: Tensor, quality: int) -> Maps:  # noqa: ARG002 - one rate
        return (self.g_a(frames) - self.median.view(1, -1, 1, 1),)

    def quantised(self, maps: Maps, quality: int) -> Maps:
        del quality
        return tuple(m.round() for m in maps)

    def synthesis(self, maps: Maps, quality: int) -> Tensor:  # noqa: ARG002 - one rate
        return self.g_s(maps[0] + self.median.view(1, -1, 1, 1))


class PatchTransform(nn.Module):
    """A linear transform of 8x8 patches and of 4x4 groups of its first channels, with branches.

        x -> 8x8 patches -+-> linear --> + -+-> first channels -> 4x4 groups -> linear -> coarse
                          +-> branch --> +  +-> other channels -----------------------> fine

    Both linear maps start as the PCA of training data, the nonlinear branches as zero. Latents are
    divided by step * 2**gain; the gains and the branches depend on the step.
    """

    patch, group = 8, 4

    def __init__(self, bands: int, width: int, lead: int, qualities: int) -> None:
        super().__init__()
        inside = bands * self.patch**2
        self.lead, coarse = lead, lead * self.group**2
        self.strides, self.channels = (self.patch * self.group, self.patch), (coarse, inside - lead)
        self.lin_a = nn.Conv2d(inside, inside, 1, bias=False)
        self.lin_s = nn.Conv2d(inside, inside, 1, bias=False)
        self.z_a = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.z_s = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.br_a, self.br_s = Branch(inside, width, inside), Branch(inside, width, inside)
        self.gain = Knots(sum(self.channels))
        self.register_buffer("steps", torch.ones(qualities))
        self.register_buffer("span", torch.tensor([-6.0, 3.0]))
        self.steps: Tensor
        """Quantisation step of each quality code, in normalised units."""
        self.span: Tensor
        """log2 of the finest and of the coarsest step that the model was trained for."""

    def analysis(self, frames: Tensor, quality: int) -> Maps:
        # The branch was trained in bfloat16; only synthesis must come out alike on all machines.
        fast = has_bfloat16(frames.device)
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=fast):
            return self.analysis_at(frames, self.steps[quality : quality + 1])

    def quantised(self, maps: Maps, quality: int) -> Maps:
        return self.quantised_at(maps, self.steps[quality : quality + 1])

    def synthesis(self, maps: Maps, quality: int) -> Tensor:
        return self.synthesis_at(maps, self.steps[quality : quality + 1])

    def position(self, step: Tensor) -> Tensor:
        """Where steps (n,) lie in the span, 0 to 1."""
        return (torch.log2(step) - self.span[0]) / (self.span[1] - self.span[0])

    def analysis_at(self, frames: Tensor, step: Tensor) -> Maps:
        """Latents of frames (n, band, y, x) in quantisation steps; `step` is (n,) or (1,)."""
        patches = functional.pixel_unshuffle(frames, self.patch)
        branch = self.br_a(patches, self.position(step))
        with torch.autocast(frames.device.type, enabled=False):  # steps can be small
            latent = self.lin_a(patches.float()) + branch.float()
            lead = functional.pixel_unshuffle(latent[:, : self.lead], self.group)
            coarse, fine = self._widths(step)
            return self.z_a(lead) / coarse, latent[:, self.lead :] / fine

    def quantised_at(self, maps: Maps, step: Tensor) -> Maps:
        """Round to whole steps, towards zero a little: shorter symbols are worth some error.

        Coarse steps, whose symbols are mostly zero, gain most (measured on training data).
        """
        slack = (0.5 * (self.position(step) - 0.1)).clamp(0, MOST_SLACK).view(-1, 1, 1, 1)
        return tuple(torch.copysign((m.abs() + (0.5 - slack)).floor_(), m) for m in maps)

    def synthesis_at(self, maps: Maps, step: Tensor) -> Tensor:
        """Invert `analysis_at`.

        Maps may be cut to their first channels; the missing ones are zero and cost no work.
        """
        widths = self._widths(step)
        coarse, fine = (m * w[:, : m.shape[1]] for m, w in zip(maps, widths, strict=True))
        with torch.autocast(maps[0].device.type, enabled=False):
            lead = functional.conv2d(coarse.float(), self.z_s.weight[:, : coarse.shape[1]])
            latent = torch.cat([functional.pixel_shuffle(lead, self.group), fine.float()], 1)
            linear = functional.conv2d(latent, self.lin_s.weight[:, : latent.shape[1]])
        branch = self.br_s(latent, self.position(step))
        return functional.pixel_shuffle(linear + branch.float(), self.patch)

    def _widths(self, step: Tensor) -> Sequence[Tensor]:
        widths = step[:, None] * torch.exp2(self.gain(self.position(step)))
        return widths[..., None, None].split(self.channels, 1)
