"""From a trained graph to an artifact: integer forecast, measured tables, calibrated qualities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tec_zarr.bands import MEANS, S2L2A
from tec_zarr.models.activity import (
    FINE,
    FIRST_OCTAVE,
    ROW_UNIT,
    WEIGHT_BITS,
    log_table,
)
from tec_zarr.models.factorized import Factorized, FactorizedConfig
from tec_zarr.models.interpolation import GAIN_BITS
from tec_zarr.train.graph import UNIT
from tec_zarr.train.measured import (
    ROWS,
    SPARSE,
    counted,
    first_certain,
    pmf_of,
    sparse_rows,
    tables_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.train.data import Batches, Sample
    from tec_zarr.train.forecast import GroupForecast, InterpolatedForecast
    from tec_zarr.train.graph import AllRates, TrainGraph

QUALITIES = tuple(28 + 0.25 * code for code in range(113))
"""PSNR in dB, peak 10000, that the quality codes stand for."""

RARE = 1e-3
"""Channels whose symbols are rarer than this are not coded at a quality."""

PEAK = 10000.0


def export(
    graph: TrainGraph, batches: Batches, card: Mapping[str, Any], frames: int = 600
) -> Artifact:
    """Measure `graph` (the averaged weights) on `frames` training frames and pack it."""
    graph.eval()
    steps = calibrated_steps(graph, batches, frames // 4)
    integers = _integers(graph, steps) | sparse_rows(np.zeros(0))
    model = _model(graph, steps)
    with torch.inference_mode():
        integers["prior.extents"] = np.tile(model.transform.channels, (len(QUALITIES), 1))
        model.set_priors(integers, torch.device("cpu"))
        integers["prior.extents"] = measured_extents(model, batches, frames // 10)
        model.set_priors(integers, torch.device("cpu"))
        counts = counted(model, batches, frames)
    certain = first_certain(counts)
    pmf = [pmf_of(counts[row], row, certain) for row in range(ROWS)]
    chances = np.array([1 - row[len(row) // 2] for row in pmf[certain:]])
    integers |= sparse_rows(chances[: int((chances < SPARSE).argmin())])
    model = _model(graph, steps, certain)
    model.tables = tables_of(pmf, certain, integers)
    return model.to_artifact(integers, card, half=True)


def calibrated_steps(
    graph: AllRates, batches: Batches, frames: int, qualities: Sequence[float] = QUALITIES
) -> Tensor:
    """The quantisation step of each quality: where the training frames together have that PSNR."""
    low, high = graph.transform.span.tolist()
    grid = torch.linspace(low - 0.5, high + 2.5, 25)
    errors, pixels = torch.zeros(len(grid), dtype=torch.float64), 0
    with torch.inference_mode():
        for _ in range(frames):
            sample = batches.draw(1)
            errors += torch.stack([_squares(graph, sample, log_step) for log_step in grid])
            pixels += int(sample.counted.sum())
    psnr = 10 * torch.log10(PEAK**2 * pixels / errors)
    logs = np.interp(-np.array(qualities), -psnr.numpy(), grid.numpy())
    return torch.from_numpy(np.exp2(logs)).float()


def _squares(graph: AllRates, sample: Sample, log_step: Tensor) -> Tensor:
    """Sum of squared errors in digital numbers."""
    result = graph(sample.frames, torch.exp2(log_step)[None], *sample.dates)
    return sample.square_errors(result.frames).double().sum() * UNIT**2


def _integers(graph: TrainGraph, steps: Tensor) -> dict[str, NDArray[Any]]:
    """The forecast's weights as integers, and its biases at every quality code."""
    forecast, position = graph.forecast, graph.transform.position(steps)
    up = forecast.zup
    integers: dict[str, NDArray[Any]] = {
        "prior.logs": log_table().numpy().astype(np.int16),
        "prior.last": np.array(ROWS - 1, np.int32),
        "prior.upward": _rounded(up.weight[:, :, 0, 0], 2.0**WEIGHT_BITS, np.int16),
        "prior.upward_bias": _halved(up.bias, FINE),
    }
    coarse, fine = forecast.parts()
    groups: dict[tuple[int, int], GroupForecast | InterpolatedForecast] = {(0, 0): forecast.first}
    groups |= {(0, index): group for index, group in enumerate(coarse, 1)}
    groups |= {(1, index): group for index, group in enumerate(fine)}
    for (level, index), group in groups.items():
        for name, value in _group(group, position).items():
            integers[f"prior.{level}.{index}.{name}"] = value
    integers |= _interpolation(forecast.first, integers)
    return integers


def _group(
    group: GroupForecast | InterpolatedForecast, position: Tensor
) -> dict[str, NDArray[Any]]:
    bias, shift, first = group.bias(position), group.hb(position), group.conv.bias
    if first is not None:
        shift = shift + first.repeat(shift.shape[1] // len(first))
    return {
        "bias": _rounded(bias - FIRST_OCTAVE + 0.5 / ROW_UNIT, FINE, np.int16),
        "weight": _rounded(group.conv.weight, 2.0**WEIGHT_BITS, np.int16),
        "hidden_bias": _halved(shift, FINE),
        "out": _rounded(group.out.weight.flatten(1), 2.0**WEIGHT_BITS, np.int16),
    }


def _interpolation(
    first: InterpolatedForecast, integers: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The first group's integers: those of `_group`, kind by kind of level, and the gains."""
    kinds = {
        name: np.stack(np.split(integers[f"prior.0.0.{name}"], 3, 1))
        for name in ("bias", "hidden_bias")
    }
    found = {f"prior.0.0.{name}": value for name, value in kinds.items()}
    found["prior.0.0.weight"] = integers["prior.0.0.weight"][:, :, 0]
    found["prior.0.0.gain"] = _rounded(first.gain, 2.0**GAIN_BITS, np.int16)
    return found


def _rounded(values: Tensor, unit: float, dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    limits = np.iinfo(dtype)
    scaled = np.round(values.detach().double().numpy() * unit)
    return np.clip(scaled, limits.min, limits.max).astype(dtype)


def _halved(values: Tensor | None, unit: float) -> NDArray[Any]:
    """Round, and add half of what the shift after it cuts off."""
    values = torch.zeros(()) if values is None else values
    return _rounded(values, unit, np.int32) + np.int32(1 << (WEIGHT_BITS - 1))


def _model(graph: TrainGraph, steps: Tensor, certain: int = 0) -> Factorized:
    transform = graph.transform
    config = FactorizedConfig(
        bands=S2L2A,
        layout="patch",
        width=transform.br_a.first.out_channels,
        latents=transform.lead,
        reach=transform.reach,
        depth=len(transform.br_a.wide),
        qualities=QUALITIES,
        groups=graph.forecast.groups,
        certain=certain,
    )
    model = Factorized(config)
    weights = transform.state_dict() | {"steps": steps}
    model.transform.load_state_dict(weights)
    model.mean.copy_(torch.tensor(MEANS["s2l2a"]))
    model.std.fill_(UNIT)
    return model.eval().requires_grad_(requires_grad=False)


def measured_extents(model: Factorized, batches: Batches, frames: int) -> NDArray[np.int32]:
    """(codes, 2): how many channels of each map have symbols that are not too rare."""
    codes = range(0, len(model.qualities), 8)
    rates = np.zeros((len(codes), 2, max(model.transform.channels)))
    for _ in range(frames):
        sample = batches.draw(1).frames[None]
        for place, code in enumerate(codes):
            for level, symbols in enumerate(model.analyse(sample, code).maps):
                rate = (symbols != 0).double().mean((0, 1, 3, 4)).numpy() / frames
                rates[place, level, : len(rate)] += rate
    found = np.array([[_extent(rate) for rate in levels] for levels in rates])
    found = np.maximum.accumulate(found, axis=0)
    found[:, 0] = np.maximum(found[:, 0], model.config.groups[0][0])
    blown = [
        [np.interp(c, codes, found[:, level]) for level in (0, 1)] for c in range(len(QUALITIES))
    ]
    return np.minimum(np.ceil(np.array(blown) / 8) * 8, model.transform.channels).astype(np.int32)


def _extent(rate: NDArray[Any]) -> int:
    common = np.flatnonzero(rate > RARE)
    return int(common[-1]) + 1 if len(common) else 8
