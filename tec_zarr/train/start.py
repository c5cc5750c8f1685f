"""Where training starts: band covariance and principal components of the training data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from tec_zarr.train.data import Batches, Crops
    from tec_zarr.train.graph import TrainGraph


def band_covariance(crops: Crops, mean: Tensor, std: Tensor, frames: int = 400) -> Tensor:
    """(band, band) second moments of normalised units about the given means, from full frames."""
    pixels: list[Tensor] = []
    while len(pixels) < frames:
        frame, bands = crops.draw()
        if bands.all() and (frame > 0).all():
            units = (torch.from_numpy(frame) - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
            pixels.append(units.flatten(1)[:, ::16])
    joined = torch.cat(pixels, 1).double()
    return (joined @ joined.T / joined.shape[1]).float()


def start_from_pca(graph: TrainGraph, batches: Batches, frames: int = 500) -> None:
    """Set the linear maps to principal components, and the forecast to their scales."""
    transform = graph.transform
    patches = torch.cat([_patches(batches, transform.patch) for _ in range(frames)])
    basis, deviations = _components(patches.flatten(0, 1))
    _set_pair(transform.lin_a.weight, transform.lin_s.weight, basis)
    lead = patches @ basis[: transform.lead].T
    side = math.isqrt(lead.shape[1])
    grid = lead.transpose(1, 2).unflatten(2, (side, side))
    groups = functional.pixel_unshuffle(grid, transform.group).flatten(2).transpose(1, 2)
    coarse, coarse_deviations = _components(groups.flatten(0, 1))
    _set_pair(transform.z_a.weight, transform.z_s.weight, coarse)
    _set_scales(graph, torch.cat([coarse_deviations, deviations[transform.lead :]]))


def _patches(batches: Batches, side: int) -> Tensor:
    frames = batches.draw(1).frames
    return functional.pixel_unshuffle(frames, side).flatten(2).transpose(1, 2)


def _components(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Principal components (component, value) of rows (n, value), and their deviations."""
    wide = rows.double()
    values, vectors = torch.linalg.eigh(wide.T @ wide / len(wide))
    return vectors.flip(1).T.float(), values.flip(0).clamp(min=1e-12).sqrt().float()


def _set_pair(analysis: Tensor, synthesis: Tensor, basis: Tensor) -> None:
    with torch.no_grad():
        analysis.copy_(basis[:, :, None, None])
        synthesis.copy_(basis.T[:, :, None, None])


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
