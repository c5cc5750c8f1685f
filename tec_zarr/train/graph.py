"""What a step of training computes: of any kind of model, and of the bundled TEC-FP."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from tec_zarr.train.forecast import Forecast, laplace_bits

if TYPE_CHECKING:
    from tec_zarr.models.patches import Patches
    from tec_zarr.models.transforms import PatchTransform

UNIT = 1000.0
"""Digital numbers in a normalised unit; equal for all bands, so that all errors weigh the same."""

FINEST, COARSEST = 24.0, 6144.0
"""Range of quantisation steps that a model is trained for, in digital numbers."""

HIGH_RATE = 6 / math.log(2)
"""lambda * step**2 at high rate: where d(bits)/d(step) balances d(step**2 / 12)/d(step)."""

DEFAULTS = 0.1
"""Share of training frames that are coded with the default rotations of bands."""


class Result(NamedTuple):
    """What a step of training looks at."""

    frames: Tensor
    """Reconstruction in normalised units."""

    bits: Tensor
    """Estimated bits of each frame."""

    worth: Tensor
    """lambda of each frame: bits that a unit of squared error is worth."""


class Graph(nn.Module):
    """A model in training: frames and quantisation steps in, reconstruction and bits out."""

    looked_at: tuple[float, ...] = (1.0,)
    """Quantisation steps, in digital numbers, at which held-out frames are looked at."""

    def forward(self, frames: Tensor, step: Tensor) -> Result:
        """`frames` (n, band, y, x) and `step` (n,) in normalised units.

        In training symbols are not rounded but get noise, so that there are gradients. A model of
        one rate has the step 1 and does not look at it.
        """
        raise NotImplementedError

    def settle(self) -> None:
        """Set what follows from the trained weights; called before the model is evaluated."""


class AllRates(Graph):
    """A model whose transform knows the quantisation step."""

    looked_at = (96.0, 384.0, 1536.0)
    transform: Patches


class TrainGraph(AllRates):
    """The bundled TEC-FP, one model for all rates.

    Analysis, additive noise or rounding, forecast of scales, synthesis:

    x -> analysis -> / step -+-> + noise ---------------> bits
                             +-> round -> forecast -------^
                                   +-> * step -> synthesis -> x'
    """

    transform: PatchTransform

    def __init__(
        self, transform: PatchTransform, coarse: tuple[int, ...], fine: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.transform = transform
        self.forecast = Forecast(coarse, fine, transform.group)

    def forward(self, frames: Tensor, step: Tensor) -> Result:
        default = torch.rand(len(frames)) < (DEFAULTS if self.training else 0)
        values, rotations = self.transform.analysis_at(frames, step, default.to(frames.device))
        hard = self.transform.quantised_at(tuple(v.detach() for v in values), step)
        through = tuple(v + (h - v.detach()) for v, h in zip(values, hard, strict=True))
        coded = tuple(v + torch.rand_like(v) - 0.5 for v in values) if self.training else hard
        mean, scales = self.forecast(hard, self.transform.position(step))
        first, others = coded[0].tensor_split([mean.shape[1]], 1)
        coded = (torch.cat([first - mean, others], 1), coded[1])
        bits = torch.stack(
            [laplace_bits(c, s.float()).sum((1, 2, 3)) for c, s in zip(coded, scales, strict=True)]
        ).sum(0)
        decoded = self.transform.synthesis_at(through, step, rotations)
        return Result(decoded, bits, HIGH_RATE / step.square())
