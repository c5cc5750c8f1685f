"""Where training starts: what the covariances of the training data say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tec_zarr.models import spectral
from tec_zarr.models.layers import gathered
from tec_zarr.models.transforms import product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.models.transforms import PatchTransform
    from tec_zarr.train.data import Batches
    from tec_zarr.train.graph import TrainGraph


STEP = 0.1
"""Quantisation step, in normalised units, for which rotations are found here."""


def start_from_covariances(graph: TrainGraph, batches: Batches, frames: int = 500) -> None:
    """Set the default rotations, the orders of channels, and the forecast to their scales."""
    transform, step = graph.transform, torch.tensor([STEP])
    noise = (step.square() / 12).double()
    samples = [batches.draw(1).frames for _ in range(frames)]
    tables = [spectral.covariances(transform.spectrum(frame)) for frame in samples]
    mean = torch.stack([spectral.weighted(table, noise) for table in tables]).mean(0)
    transform.turned.copy_(spectral.eigenvectors(mean, None)[0])
    own = [spectral.eigenvectors(spectral.weighted(t, noise), transform.turned) for t in tables]
    rotated = [
        o.float()[:, transform.member] @ transform.spectrum(f)
        for o, f in zip(own, samples, strict=True)
    ]
    power = torch.stack([r.square().mean((0, 3)).flatten() for r in rotated]).mean(0)
    transform.order.copy_(power.argsort(descending=True))
    lead = _lead_power(transform, rotated, [f.shape for f in samples])
    transform.lead_order.copy_(lead.argsort(descending=True))
    ordered = power[transform.order]
    for branch in (transform.br_a, transform.br_s):
        branch.spread.copy_(_deviations(ordered[: transform.reach]))
    coarse = lead[transform.lead_order]
    _set_scales(graph, _deviations(torch.cat([coarse, ordered[transform.lead :]])))


def _lead_power(
    transform: PatchTransform, spectra: Sequence[Tensor], sizes: Sequence[Sequence[int]]
) -> Tensor:
    """Mean square of each channel of the coarse map."""
    total = torch.zeros(len(transform.lead_order))
    for spectrum, size in zip(spectra, sizes, strict=True):
        places = [s // transform.patch for s in size[2:]]
        chosen = spectrum.flatten(1, 2)[:, transform.order[: transform.lead]]
        grouped = gathered(chosen.unflatten(2, places), transform.group)
        total += product(transform.lead_waves, grouped).square().mean((0, 3, 4)).flatten()
    return total / len(spectra)


def _deviations(power: Tensor) -> Tensor:
    return power.clamp(min=1e-12).sqrt()


def _set_scales(graph: TrainGraph, deviations: Tensor) -> None:
    """Static scales at every knot, in steps; half an octave less than deviations (Laplacian)."""
    coarse, fine = graph.forecast.parts()
    first = coarse[0].bias.table
    low, high = graph.transform.span.tolist()
    knots = torch.from_numpy(np.linspace(low, high, first.shape[0])).float()
    scales = (torch.log2(deviations)[None] - knots[:, None] - 0.5).clamp(-5, 11)
    start = 0
    for forecast in (*coarse, *fine):
        table = forecast.bias.table
        with torch.no_grad():
            table.copy_(scales[:, start : start + table.shape[1]])
        start += table.shape[1]
