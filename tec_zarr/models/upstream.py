"""Checkpoints in the format of CompressAI, as TerraCodec publishes them, to artifacts.

    file -> tensors by name -> family -> names and shapes of ours, tables -> artifact

Every tensor is used, or a constant that is built in here, or a table that is made anew; any other
is an error. The same checkpoint gives the same artifact, hence the same hash, on every machine.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from tec_zarr.bands import MEANS, ORDERS, STDS
from tec_zarr.entropy import exact
from tec_zarr.errors import ConfigError, ModelMismatchError, ModelNotFoundError
from tec_zarr.models.bottleneck import Bottleneck
from tec_zarr.models.correlation import correlation
from tec_zarr.models.elic import Elic, ElicConfig
from tec_zarr.models.factorized import Factorized, FactorizedConfig
from tec_zarr.models.upstream_names import ELIC_RULES, FP_RULES, present_name, renamed
from tec_zarr.models.upstream_temporal import FIRST, MASKED, temporal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from tec_zarr.entropy.tables import Tables
    from tec_zarr.models.artifact import Artifact
    from tec_zarr.models.temporal import Temporal

    State = Mapping[str, NDArray[Any]]

SCALES = (0.11, 256.0, 64)
"""First and last Gaussian row and their number: CompressAI's table of scales."""

SPATIAL_MASK = np.indices((5, 5)).sum(0) % 2
"""Taps of the checkerboard context: places of the other half."""


class Origin(NamedTuple):
    """Where a checkpoint comes from, for the artifact's card and its statistics."""

    bands: str
    """Product order that the model codes."""

    quality: float
    """The lambda that it was trained for."""

    card: Mapping[str, Any]
    """Prose: no part of the artifact's identity."""


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a checkpoint file by their published names; runs no code of the file.

    Raises ModelNotFoundError if there is no such file, ModelMismatchError if it is none.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"there is no checkpoint file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as err:
        raise ModelMismatchError(f"{path} is no checkpoint of PyTorch: {err}") from err
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in state.items()
    ):
        raise ModelMismatchError(f"{path} holds other things than tensors by name")
    return {present_name(name): array(value) for name, value in state.items()}


def array(value: torch.Tensor) -> NDArray[Any]:
    """A tensor as an array; floats of any precision as float32, exactly or nearest."""
    value = value.detach()
    return (value.float() if value.is_floating_point() else value).contiguous().numpy()


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def family_of(state: State) -> str:
    """Family of a checkpoint; ModelMismatchError if it is none that this release reads."""
    found = [family for family, (mark, _) in CONVERTERS.items() if mark in state]
    if not found:
        raise ModelMismatchError(
            f"{len(state)} tensors of no known model: expected one of {', '.join(CONVERTERS)} in "
            "the format of CompressAI"
        )
    return found[0]


def bands_of(state: State) -> str:
    """Product order that a model codes, by its number of bands."""
    name = "g_a.0.weight" if "g_a.0.weight" in state else FIRST
    count = state[name].shape[1]
    for order, bands in ORDERS.items():
        if len(bands) == count:
            return order
    raise ModelMismatchError(f"the checkpoint codes {count} bands; known are 12 (L2A) and 13 (L1C)")


def convert(state: State, origin: Origin) -> Artifact:
    """The artifact of a checkpoint.

    ModelMismatchError if a tensor is missing, left over, misshapen or not what it should be.
    """
    _, converter = CONVERTERS[family_of(state)]
    try:
        return converter(state, origin)
    except KeyError as err:
        raise ModelMismatchError(f"the checkpoint lacks the tensor {err}") from err


def convert_file(path: Path, quality: float | None, said: Mapping[str, str]) -> Artifact:
    """The artifact of a checkpoint file of one's own.

    Its lambda is `quality`, or else what the name says. `said` goes to the card. Raises
    ConfigError if the lambda is not known, else as `read` and `convert`.
    """
    state = read(path)
    trained_at = lambda_in(path) if quality is None else quality
    summary = f"TEC-{family_of(state).upper()}, lambda {trained_at:g}, converted from {path.name}"
    own = {"summary": summary, "source": path.name, "source_sha256": digest(path)}
    return convert(state, Origin(bands_of(state), trained_at, {**own, **said}))


def lambda_in(path: Path) -> float:
    """The lambda of a checkpoint as its file name says it; ConfigError if it does not."""
    match = re.search(r"lambda-(\d+(?:\.\d+)?)", path.name)
    if match is None:
        raise ConfigError(f"{path.name} does not say its lambda (as in lambda-10.pt): give quality")
    return float(match[1])


def convert_fp(state: State, origin: Origin) -> Artifact:
    """TEC-FP: strided convolutions with GDN, one table row a channel."""
    width, latents = state["g_a.0.weight"].shape[0], state["g_a.6.weight"].shape[0]
    bands = ORDERS[origin.bands]
    config = FactorizedConfig(
        bands=bands, layout="strided", width=width, latents=latents, qualities=(origin.quality,)
    )
    weights = renamed(state, FP_RULES)
    for name in [name for name in weights if name.endswith(("beta", "gamma"))]:
        weights[name] = effective(state, name.removeprefix("transform."))
    prior = bottleneck(state, "entropy_bottleneck.")
    weights["transform.median"] = prior.medians.astype(np.float32)
    model = Factorized(config)
    _fill(model, weights, origin)
    model.tables = prior.tables()
    return model.to_artifact({}, origin.card, half=False)


def convert_elic(state: State, origin: Origin) -> Artifact:
    """TEC-ELIC: rows of the Gaussian family, then one a channel of z."""
    width, latents = state["g_a.0.weight"].shape[0], state["g_a.13.weight"].shape[0]
    spatial = [state[f"{_context(group)}.weight"] for group in range(5)]
    first, last, rows = SCALES
    config = ElicConfig(
        bands=ORDERS[origin.bands], width=width, latents=latents,
        groups=tuple(weight.shape[1] for weight in spatial), qualities=(origin.quality,),
        scales=(first, last), rows=rows,
    )  # fmt: skip
    weights = renamed(state, ELIC_RULES)
    for group, weight in enumerate(spatial):
        _check_group(state, group)
        weights[f"prior.groups.{group}.spatial.weight"] = weight * SPATIAL_MASK.astype(np.float32)
    prior = bottleneck(state, "latent_codec.hyper.entropy_bottleneck.")
    weights["prior.median"] = prior.medians.astype(np.float32)
    model = Elic(config)
    _fill(model, weights, origin)
    model.tables = exact.joined(gaussian_rows(), prior.tables())
    return model.to_artifact(origin.card)


def convert_temporal(state: State, origin: Origin) -> Artifact:
    """TEC-TT and FlexTEC: rows of normal distributions whose means are fractions."""
    model, weights = temporal(state, ORDERS[origin.bands], origin.quality)
    _fill(model, weights, origin)
    return model.to_artifact(origin.card)


CONVERTERS: dict[str, tuple[str, Callable[[State, Origin], Artifact]]] = {
    "fp": ("g_a.1.beta", convert_fp),
    "elic": ("latent_codec.y.channel_context.y1.0.weight", convert_elic),
    "flextec": (MASKED, convert_temporal),
    "tt": (FIRST, convert_temporal),
}
"""Families, a tensor that they have and those before them have not, and what converts them."""


def gaussian_rows() -> Tables:
    """Rows of CompressAI's table of scales."""
    return exact.gaussian(*SCALES)


def effective(state: State, name: str) -> NDArray[np.float32]:
    """A parameter of GDN as it is used: training keeps roots of it, above a bound."""
    stored = state[name].astype(np.float64)
    pedestal = state[f"{name}_reparam.pedestal"].item()
    bound = state[f"{name}_reparam.lower_bound.bound"].item()
    return (np.square(np.maximum(stored, bound)) - pedestal).astype(np.float32)


def bottleneck(state: State, prefix: str) -> Bottleneck:
    """The factorised prior whose tensors begin with `prefix`."""
    wide = {
        name.removeprefix(prefix): value.astype(np.float64)
        for name, value in state.items()
        if name.startswith(prefix)
    }
    return Bottleneck(
        [wide[f"matrices.{layer}"] for layer in range(5)],
        [wide[f"biases.{layer}"] for layer in range(5)],
        [wide[f"factors.{layer}"] for layer in range(4)],
        wide["quantiles"][:, 0, 1],
    )


def _context(group: int) -> str:
    return f"latent_codec.y.latent_codec.y{group}.context_prediction"


def _check_group(state: State, group: int) -> None:
    """The constants of a group are those that the code here has built in."""
    weight, mask = state[f"{_context(group)}.weight"], state[f"{_context(group)}.mask"]
    if weight.shape != mask.shape or weight.shape[2:] != (5, 5) or (mask != SPATIAL_MASK).any():
        raise ModelMismatchError(f"the spatial context of group {group} is no 5x5 checkerboard")
    prefix = f"latent_codec.y.latent_codec.y{group}.y.gaussian_conditional."
    least, scales = state[prefix + "lower_bound_scale.bound"], state[prefix + "scale_table"]
    expected = exact.deviations(*SCALES) if scales.size else []  # no table before it is needed
    if not np.allclose(least, SCALES[0]) or not np.array_equal(
        scales, np.array(expected, np.float32)
    ):
        raise ModelMismatchError(f"the scales of group {group} are not CompressAI's")


def _fill(model: Factorized | Elic | Temporal, weights: State, origin: Origin) -> None:
    """Put weights and band statistics into a model; ModelMismatchError if they do not fit it."""
    statistics = {
        "mean": np.array(MEANS[origin.bands], np.float32),
        "std": np.array(STDS[origin.bands], np.float32),
        "covariance": correlation(ORDERS[origin.bands]),
    }
    tensors = {name: torch.from_numpy(value) for name, value in {**weights, **statistics}.items()}
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as err:
        raise ModelMismatchError(f"the checkpoint does not fit its family: {err}") from err
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise ModelMismatchError("the checkpoint has weights that are not finite")
