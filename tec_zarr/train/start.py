"""Where training starts: what the covariances of the training data say."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from tec_zarr.errors import ConfigError
from tec_zarr.models import spectral
from tec_zarr.models.activity import FINE, FIRST_OCTAVE, ROW_UNIT, WEIGHT_BITS
from tec_zarr.models.factorized import Factorized
from tec_zarr.models.interpolation import GAIN_BITS
from tec_zarr.models.layers import gathered, product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tec_zarr.models.activity import Activity
    from tec_zarr.models.layers import Knots
    from tec_zarr.models.model import Model
    from tec_zarr.models.priors import ActivityPrior
    from tec_zarr.models.transforms import PatchTransform
    from tec_zarr.train.data import Batches
    from tec_zarr.train.forecast import GroupForecast, InterpolatedForecast
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
    transform.lead_order.copy_(_leading_first(transform, lead))
    ordered = power[transform.order]
    for branch in (transform.br_a, transform.br_s):
        branch.spread.copy_(_deviations(ordered[: transform.reach]))
    coarse = lead[transform.lead_order]
    _set_scales(graph, _deviations(torch.cat([coarse, ordered[transform.lead :]])))


def _leading_first(transform: PatchTransform, power: Tensor) -> Tensor:
    """The order of the coarse channels: mean values of components, then by falling power.

    Neighbouring places have like means; `models.interpolation` codes their differences.
    """
    flat = transform.order[: transform.lead] < transform.bands  # frequency 0
    means = torch.cat([flat, flat.new_zeros(len(power) - len(flat))])
    return torch.where(means, power + power.sum(), power).argsort(descending=True)


def start_from_model(graph: TrainGraph, model: Model) -> None:
    """Take all from a bundled model: the inverse of `export`, but for what rounding lost.

    ConfigError if it is of another kind, or of other sizes.
    """
    transform, forecast = graph.transform, graph.forecast
    if not isinstance(model, Factorized) or forecast.groups != model.config.groups:
        raise ConfigError("training goes on from a bundled TEC-FP, or from one trained like it")
    prior = cast("ActivityPrior", model.wide)
    own = model.transform.state_dict()
    position = transform.position(own.pop("steps")).double().cpu().numpy()
    transform.load_state_dict(own | {"steps": transform.steps})
    with torch.no_grad():
        forecast.zup.weight.copy_(prior.upward[:, :, None, None] / 2.0**WEIGHT_BITS)
        _set_bias(forecast.zup, (prior.upward_bias - 2.0 ** (WEIGHT_BITS - 1)) / FINE)
        forecast.first.gain.copy_(prior.first.gain / 2.0**GAIN_BITS)
        _take_activities(forecast.first, prior.first.activities, position)
        for groups, activities in zip(forecast.parts(), prior.activities, strict=True):
            for group, activity in zip(groups, activities, strict=True):
                _take_activities(group, (activity,), position)


def _take_activities(
    group: GroupForecast | InterpolatedForecast,
    activities: Sequence[Activity],
    position: NDArray[np.float64],
) -> None:
    """Take the weights that all activities share, and the biases of each, side by side."""
    biases = torch.cat([a.bias for a in activities], 1)
    _take_knots(group.bias, biases / FINE + FIRST_OCTAVE - 0.5 / ROW_UNIT, position)
    weight, out = activities[0].weight, activities[0].out
    group.conv.weight.copy_(weight.view_as(group.conv.weight) / 2.0**WEIGHT_BITS)
    _set_bias(group.conv, torch.zeros(len(weight)))
    group.out.weight.copy_(out.view_as(group.out.weight) / 2.0**WEIGHT_BITS)
    shifts = torch.cat([a.hidden_bias for a in activities], 1)
    _take_knots(group.hb, (shifts - 2.0 ** (WEIGHT_BITS - 1)) / FINE, position)


def _take_knots(knots: Knots, values: Tensor, position: NDArray[np.float64]) -> None:
    """Set knots from values (codes, channels) at falling positions; beyond them go on straight."""
    places, known = position[::-1], values.double().cpu().numpy()[::-1]
    wanted = np.linspace(0, 1, len(knots.table))
    right = places.searchsorted(wanted).clip(1, len(places) - 1)
    # Neighbours a few codes apart, because single codes are rounded.
    left, right = np.maximum(right - 4, 0), np.minimum(right + 3, len(places) - 1)
    part = ((wanted - places[left]) / (places[right] - places[left]))[:, None]
    knots.table.copy_(torch.from_numpy(known[left] * (1 - part) + known[right] * part))


def _set_bias(conv: nn.Conv1d | nn.Conv2d, value: Tensor) -> None:
    if conv.bias is not None:
        conv.bias.copy_(value)


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
    forecast = graph.forecast
    coarse, fine = forecast.parts()
    low, high = graph.transform.span.tolist()
    knots = torch.from_numpy(np.linspace(low, high, len(forecast.first.bias.table))).float()
    scales = (torch.log2(deviations)[None] - knots[:, None] - 0.5).clamp(-5, 11)
    start = forecast.groups[0][0]
    with torch.no_grad():
        forecast.first.bias.table.copy_(scales[:, :start].repeat(1, 3))
        for group in (*coarse, *fine):
            end = start + group.bias.table.shape[1]
            group.bias.table.copy_(scales[:, start:end])
            start = end
