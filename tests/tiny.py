"""Tiny models with random weights, the same on any machine: NumPy's Philox, keyed by name."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tec_zarr.bands import MEANS, S2L2A
from tec_zarr.entropy import exact
from tec_zarr.entropy.tables import Tables, gaussian
from tec_zarr.models import registry
from tec_zarr.models.activity import log_table
from tec_zarr.models.elic import Elic, ElicConfig
from tec_zarr.models.elic_patch import PatchElic
from tec_zarr.models.factorized import Factorized, FactorizedConfig
from tec_zarr.models.flex_patch import PatchFlex
from tec_zarr.models.temporal import Temporal, TemporalConfig
from tec_zarr.models.tt_patch import OLDEST
from tec_zarr.train import measured
from tec_zarr.train.measured import SUPPORT, pmf_of
from tests.draws import draw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tec_zarr.models.artifact import Artifact

GROUPS = ((8, 56), (12, 20, 156))
ROWS, CERTAIN, RARE = 32, 8, 3
SHIFTS = (2, 0, 1)
"""Bits of a run that are coded apart, one a rare row: the rows after those that are certain."""

QUALITIES = (30.0, 40.0, 50.0)
RGB = ("B02", "B03", "B04")
RARELY_ONE = np.array([1 - 2.0**-10, 2.0**-10 - 2.0**-14])


def whole(name: str, shape: tuple[int, ...], scale: float) -> NDArray[np.int32]:
    """The same, rounded to integers."""
    return np.round(draw(name, shape, scale).astype(np.float64)).astype(np.int32)


def laplacian_rows(count: int, certain: int, first_octave: float) -> Tables:
    """Rows a quarter of an octave apart, and one more for a rare flag."""
    pmf, offsets = _laplacians(count, certain, first_octave)
    return Tables.from_pmf([*pmf, RARELY_ONE], [*offsets, 0])


def sparse_rows() -> Tables:
    """The rows of a patch model: those above, then runs, their bits and values of rare symbols."""
    pmf, offsets = _laplacians(ROWS, CERTAIN, -4)
    pmf.append(RARELY_ONE)
    pmf += [np.full(30, (1 - 2.0**-12) / 30)] * RARE
    pmf += [np.full(2**bits, 2.0**-bits) for bits in range(1, max(SHIFTS) + 1)]
    pmf += [np.array([0.05, 0.4, 0.4, 0.05])] * RARE
    flat = [0] * (1 + RARE + max(SHIFTS))
    return Tables.from_pmf(pmf, [*offsets, *flat, *[-2] * RARE])


def _laplacians(
    count: int, certain: int, first_octave: float
) -> tuple[list[NDArray[np.float64]], list[int]]:
    pmf: list[NDArray[np.float64]] = []
    offsets = []
    for row in range(count):
        scale = 2.0 ** (first_octave + row / 4)
        reach = 0 if row < certain else int(min(200, np.ceil(12 * scale) + 1))
        distance = np.abs(np.arange(-reach, reach + 1))
        weights = np.exp(-distance / scale)
        pmf.append(weights / weights.sum() * (1 if row < certain else 1 - 2.0**-14))
        offsets.append(-reach)
    return pmf, offsets


def orthonormal(name: str, size: int) -> torch.Tensor:
    """A random rotation, rounded to float16 so that linear algebra libraries cannot disagree."""
    rotation, _ = np.linalg.qr(draw(name, (size, size)).astype(np.float64))
    return torch.from_numpy(rotation.astype(np.float16).astype(np.float32))


def shuffled(name: str, size: int, channels: int) -> torch.Tensor:
    """A random order of frequencies * channels, low frequencies first as a rule."""
    highest = np.maximum(*np.indices((size, size))).ravel().repeat(channels)
    return torch.from_numpy(np.argsort(highest + draw(name, highest.shape), kind="stable"))


def patch_artifact(bands: tuple[str, ...] = RGB) -> Artifact:
    """A patch model of three bands with a random context network."""
    config = FactorizedConfig(
        bands=bands, layout="patch", width=8, latents=4, qualities=QUALITIES,
        reach=48, depth=2, groups=GROUPS, certain=CERTAIN,
    )  # fmt: skip
    model = Factorized(config)
    state = {
        n: torch.from_numpy(draw(n, tuple(v.shape), 0.02)) for n, v in model.state_dict().items()
    }
    rotations = [orthonormal(f"turned{group}", len(bands)) for group in range(4)]
    state["transform.turned"] = torch.stack(rotations)
    state["transform.order"] = shuffled("order", 8, len(bands))
    state["transform.lead_order"] = shuffled("lead_order", 4, config.latents)
    state["transform.shrink.table"] += 1
    for branch in ("br_a", "br_s"):
        state[f"transform.{branch}.spread"] = state[f"transform.{branch}.spread"].abs() + 0.01
    state["transform.steps"] = torch.tensor([0.8, 0.2, 0.05])
    state["transform.span"] = torch.tensor([-5.0, 1.0])
    _set_statistics(state, bands)
    model.load_state_dict(state)
    model.tables = sparse_rows()
    return model.to_artifact(_integers(), {"summary": "random weights, for tests"}, half=True)


def strided_artifact(width: int = 8, latents: int = 12, scale: float = 0.06) -> Artifact:
    """A plain TEC-FP with all 12 bands."""
    config = FactorizedConfig(
        bands=S2L2A, layout="strided", width=width, latents=latents, qualities=(10.0,)
    )
    model = Factorized(config)
    state = {
        n: torch.from_numpy(draw(n, tuple(v.shape), scale)) for n, v in model.state_dict().items()
    }
    for name in state:
        if name.endswith((".beta", ".gamma")):
            state[name] = state[name].abs() + (1.0 if name.endswith("beta") else 0.0)
    state["transform.g_a.6.weight"] *= 8
    _set_statistics(state, S2L2A)
    model.load_state_dict(state)
    model.tables = laplacian_rows(latents, 0, 0)
    return model.to_artifact({}, {"summary": "random weights, for tests"}, half=False)


def elic_artifact(width: int = 8, groups: tuple[int, ...] = (4, 4, 8)) -> Artifact:
    """A TEC-ELIC with all 12 bands and narrow networks; symbols span some tens."""
    config = ElicConfig(
        bands=S2L2A, width=width, latents=sum(groups), groups=groups, qualities=(10.0,),
        context=(12, 8), hidden=16, scales=(0.11, 64.0), rows=48,
    )  # fmt: skip
    model = Elic(config)
    state = {
        n: torch.from_numpy(draw(n, tuple(v.shape), fan_in(v.shape)))
        for n, v in model.state_dict().items()
    }
    state["g_a.13.weight"] *= 0.3
    state["g_s.14.weight"] *= 0.01
    for name in (n for n in state if n.endswith("aggregation.4.bias")):
        state[name] += 1
    _set_statistics(state, S2L2A)
    model.load_state_dict(state)
    ratio = (64 / 0.11) ** (1 / 47)
    scales = [0.11 * ratio**row for row in range(48)]
    model.tables = gaussian([*scales, *([6.0] * width)])
    return model.to_artifact({"summary": "random weights, for tests"})


def temporal_artifact(
    *,
    repacked: bool = False,
    scales: tuple[float, float, int] = (0.01, 64.01, 48),
    finest: int = 100,
    **changes: Any,
) -> Artifact:
    """A TEC-TT or FlexTEC with all 12 bands and narrow networks; symbols span some tens.

    `scales` are the first one, the last one and their number, each with at most `finest` rows.
    """
    deviations = exact.deviations(*scales)
    bins = tuple(min(finest, count) for count in exact.bins(deviations))
    tokens = tuple(range(1, 17)) if repacked else (16,)
    config = TemporalConfig(
        bands=S2L2A, qualities=tuple(map(float, tokens)) if repacked else (20.0,), sent=tokens,
        channels=(6, 8, 8), latents=64 if repacked else 12, width=32, heads=4, layers=(1, 1, 2),
        expansion=2, scales=scales[:2], bins=bins, repacked=repacked,
    )  # fmt: skip
    config = replace(config, **changes)
    model = Temporal(config)
    state = {n: random_layer(n, v.shape) for n, v in model.state_dict().items()}
    state["g_a.13.weight"] *= 3
    _set_statistics(state, S2L2A)
    model.load_state_dict(state)
    model.prior.double()
    model.tables = exact.shifted(deviations, bins)
    return model.to_artifact({"summary": "random weights, for tests"})


@contextmanager
def at_hand(artifact: Artifact, folder: Path) -> Iterator[str]:
    """Save an artifact where this process finds it; gives its identity."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEC_ZARR_MODELS", str(folder))
        registry.forget()
        yield artifact.save(folder / "own.tec.safetensors")
    registry.forget()


def neighbour_artifact(kind: type[PatchElic] = PatchElic, **changes: Any) -> Artifact:
    """A TEC-ELIC, TEC-TT or FlexTEC in patch layout, of three bands and narrow networks."""
    config: dict[str, Any] = {
        "bands": RGB, "qualities": QUALITIES, "width": 8, "reach": 16, "depth": 1,
        "groups": (4, 12), "others": (16, 160), "features": 8, "weighed": 4,
    }  # fmt: skip
    if kind is PatchFlex:
        config |= {"qualities": (1.0, 2.0, 3.0), "tokens": (4, 20, 168), "budgets": (1, 3)}
    model = kind(kind.options(**config | changes))
    state = {n: _neighbour_layer(n, v) for n, v in model.state_dict().items()}
    state["transform.turned"] = torch.stack([orthonormal(f"turned{g}", 3) for g in range(4)])
    state["transform.order"] = shuffled("order", 8, len(RGB))
    for branch in ("br_a", "br_s"):
        state[f"transform.{branch}.spread"] = state[f"transform.{branch}.spread"].abs() + 0.01
    state["transform.steps"] = torch.tensor([0.8, 0.2, 0.05])
    state["transform.span"] = torch.tensor([-5.0, 1.0])
    _set_statistics(state, RGB)
    model.load_state_dict(state)
    model.prior.settle(model.transform.order[: model.prior.strong] < len(RGB))
    pmf = [pmf_of(np.zeros(2 * SUPPORT + 1, np.int64), row, 1) for row in range(64)]
    pmf = [row[(cut := max(0, len(row) // 2 - 200)) : len(row) - cut] for row in pmf]
    pmf = [row / row.sum() * (1 if len(row) == 1 else 1 - 2.0**-14) for row in pmf]
    chances = np.array([1 - row[len(row) // 2] for row in pmf[1:]])
    integers = measured.sparse_rows(chances[: int((chances < measured.SPARSE).argmin())], 5)
    first = np.full(OLDEST + 1, 1 / (OLDEST + 1))
    model.tables = measured.tables_of(pmf, 1, integers, first.tolist())
    named = {name.removeprefix("prior."): value for name, value in integers.items()}
    return model.to_artifact(named, {"summary": "random weights, for tests"})


def _neighbour_layer(name: str, value: torch.Tensor) -> torch.Tensor:
    """Weights that keep the size of signals; tables of steps are as they are in a new model."""
    if name.endswith((".table", ".flat")) and "shrink" not in name:
        return value + (
            0 if name.endswith("flat") else torch.from_numpy(draw(name, tuple(value.shape), 0.1))
        )
    if "shrink" in name:
        return value
    if name.startswith("transform"):
        return torch.from_numpy(draw(name, tuple(value.shape), 0.02))
    scale = 0.1 if value.ndim == 1 else float(np.sqrt(1.2 / np.prod(value.shape[1:])))
    scale *= 0.2 if ".out." in name else 1.0  # means of some steps
    return torch.from_numpy(draw(name, tuple(value.shape), scale))


def random_layer(name: str, shape: torch.Size) -> torch.Tensor:
    """Weights that keep the size of signals, about."""
    if ".norm" in name or ".before" in name or ".between" in name:
        return torch.from_numpy(
            draw(name, tuple(shape), 0.1) + (1 if name.endswith("weight") else 0)
        )
    gain = {"start": 5.0, "first": 5.0, "mean.4.weight": 8.0, "scale.4.weight": 4.0}
    scale = next((value for end, value in gain.items() if name.endswith(end)), 1.0)
    size = 1.0 if len(shape) == 1 else float(np.sqrt(1.2 / np.prod(shape[1:])))
    return torch.from_numpy(draw(name, tuple(shape), scale * (0.1 if len(shape) == 1 else size)))


def fan_in(shape: torch.Size) -> float:
    """Deviation of random weights that keeps the size of signals, about; biases are small."""
    return 0.1 if len(shape) < 4 else float(np.sqrt(1.5 / np.prod(shape[1:])))


def _set_statistics(state: dict[str, torch.Tensor], bands: tuple[str, ...]) -> None:
    means = dict(zip(S2L2A, MEANS["s2l2a"], strict=True))
    state["mean"] = torch.tensor([means[band] for band in bands])
    state["std"] = torch.full((len(bands),), 1000.0)


def _integers() -> dict[str, NDArray[Any]]:
    codes = len(QUALITIES)
    runs, bits = ROWS + 1, max(SHIFTS)
    integers: dict[str, NDArray[Any]] = {
        "prior.chances": (2**24 * np.array([0.03, 0.07, 0.1])).astype(np.int32),
        "prior.shifts": np.array(SHIFTS, np.int32),
        "prior.sparse": np.array([runs, runs + RARE, runs + RARE + bits], np.int32),
        "prior.counts": np.arange(CERTAIN + 2, ROWS, 2, dtype=np.int32),
        "prior.logs": log_table().numpy().astype(np.int16),
        "prior.last": np.array(ROWS - 1, np.int32),
        "prior.upward": whole("upward", (8 * 16, 64), 20),
        "prior.upward_bias": whole("upward_bias", (8 * 16,), 500),
        "prior.extents": np.array([[16, 40], [40, 120], [64, 188]], np.int32),
    }
    for level, groups in enumerate(GROUPS):
        for index, channels in enumerate(groups):
            inside = sum(groups[:index]) + (8 if level else 0)
            prefix = f"prior.{level}.{index}."
            # Finer steps have larger symbols, later channels smaller ones, down to certain rows.
            place = sum(groups[:index]) + np.arange(channels)
            mean = 8000 + 2500 * np.arange(codes)[:, None] - 80 * place
            kinds = () if inside else (3,)
            bias = whole(prefix, (*kinds, codes, channels), 800) + mean.astype("i4")
            shape = (4, inside, 3, 3) if inside else (4, 2 * channels)
            integers |= {
                prefix + "bias": bias,
                prefix + "weight": whole(prefix + "w", shape, 15),
                prefix + "hidden_bias": whole(prefix + "h", (*kinds, codes, 4), 500),
                prefix + "out": whole(prefix + "o", (channels, 4), 60),
            }
    counts = np.arange(1, 5)[:, None]
    gain = 4096 / counts + whole("gain", (2, 4, GROUPS[0][0]), 200)
    return integers | {"prior.0.0.gain": gain.astype(np.int32)}
