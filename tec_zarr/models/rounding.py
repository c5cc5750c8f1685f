"""Whole steps that weigh bits against error; only writers round.

A symbol of a Laplacian costs bits with its magnitude. Where the next smaller one is hardly farther
away it is the better choice (rate-distortion optimised quantisation; Sullivan 1996).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

WORTH = 6 / math.log(2)
"""Bits that a squared step of error is worth: the balance of the two at high rates."""

CAUTION = 0.75
"""Share of the saved bits that counts: smaller symbols also make a poorer context for others."""


def rounded(values: Tensor, log_scale: Tensor, shrink: Tensor) -> Tensor:
    """The nearest whole steps, or those next to them towards zero where they save enough.

    `log_scale` is log2 of the Laplacian's scale, in steps; readers take `shrink` * steps.
    """
    rate = 0.5 / math.log(2) / torch.exp2(log_scale)
    first = 1 + rate - torch.log2(1 + torch.exp2(-rate))
    steps = (values.abs() + 0.5).floor_()
    saved = torch.where(steps > 1, 2 * rate, first)
    border = shrink * (steps - 0.5) + CAUTION / (2 * WORTH) * saved / shrink
    return (steps - (values.abs() < border).to(steps)).clamp_(min=0).copysign_(values)
