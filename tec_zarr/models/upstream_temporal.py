"""Checkpoints of TEC-TT and FlexTEC: their sizes, their constants and their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tec_zarr.entropy import exact
from tec_zarr.errors import ModelMismatchError
from tec_zarr.models.sequence import FINE, TOKENS
from tec_zarr.models.temporal import Temporal, TemporalConfig
from tec_zarr.models.upstream_names import STACKS, TEMPORAL_RULES, renamed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    State = Mapping[str, NDArray[Any]]

FIRST = "transform.analysis_transform.transforms.0.weight"
"""The first layer of both."""

MASKED = "entropy_model.mask_token"
"""What FlexTEC has and TEC-TT has not."""

SCALES = (0.01, 256.01, 256)
"""First and last deviation and their number: upstream adds the smallest scale to all of them."""

HEAD = 48
"""Features of an attention head; nothing in a checkpoint tells."""

BOUNDS = {
    "scale_bound": 0.01,
    "lower_bound_scale.bound": 0.01,
    "lower_bound_zero.bound": 0.0,
    "upper_bound_mean.bound": 1.0 - FINE,
    "upper_bound_scale.bound": 1.0 - SCALES[2],
}
"""Constants of the bottleneck that the code here has built in."""


def temporal(
    state: State, bands: tuple[str, ...], quality: float
) -> tuple[Temporal, dict[str, NDArray[Any]]]:
    """The model of a checkpoint, with its tables but without memory, and its weights.

    TEC-TT has one quality; those of FlexTEC are the tokens that are sent. ModelMismatchError for
    unknown tensors and other constants, KeyError for missing ones.
    """
    _check_constants(state)
    flexible = MASKED in state
    tokens = tuple(range(1, TOKENS + 1)) if flexible else (TOKENS,)
    weights = renamed(state, TEMPORAL_RULES)
    for name in ("start", "place", "place_past", "place_joint"):  # published with axes of length 1
        weights[f"prior.{name}"] = weights[f"prior.{name}"].squeeze()
    width, latents = weights["prior.embed.weight"].shape
    first, middle, last = (len(weights[f"g_a.{layer}.bias"]) for layer in (0, 4, 9))
    past, joint, decoder = (_layers(weights, f"prior.{ours}.layers.") for _, ours in STACKS)
    scales = exact.deviations(*SCALES)
    config = TemporalConfig(
        bands=bands, qualities=tuple(map(float, tokens)) if flexible else (quality,), sent=tokens,
        channels=(first, middle, last), latents=latents, width=width, heads=width // HEAD,
        layers=(past, joint, decoder),
        expansion=len(weights["prior.past.layers.0.0.perceptron.0.bias"]) // width,
        scales=SCALES[:2], bins=exact.bins(scales), repacked=flexible,
    )  # fmt: skip
    with torch.device("meta"):
        model = Temporal(config)
    model.tables = exact.shifted(scales, config.bins)
    return model, weights


def _layers(weights: State, prefix: str) -> int:
    """Layers of a stack."""
    names = (name.removeprefix(prefix) for name in weights if name.startswith(prefix))
    return len({name.partition(".")[0] for name in names})


def _check_constants(state: State) -> None:
    for name, value in BOUNDS.items():
        if not np.allclose(state[f"entropy_model.bottleneck._entropy_model.{name}"], value):
            raise ModelMismatchError(f"the checkpoint's {name} is not {value}")
    causal = np.triu(np.ones((TOKENS, TOKENS), np.bool_), 1)
    for name in (name for name in state if name.endswith("look_ahead_mask")):
        if not np.array_equal(state[name].astype(np.bool_), causal):
            raise ModelMismatchError(f"{name} is not causal")
