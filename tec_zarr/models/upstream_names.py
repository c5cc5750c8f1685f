"""Names of tensors in published checkpoints, and what they are called here: tables of patterns.

A rule for each kind of tensor; a name that no rule knows is an error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tec_zarr.errors import ModelMismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PREFIX = "model."
"""Image models are published with it before each name."""

NEW = {"_matrix": "matrices.", "_bias": "biases.", "_factor": "factors."}
"""Older names of the layers of an entropy bottleneck, and the present ones."""

DONE = ""
"""Target of names that are dealt with elsewhere: tables made anew, and constants."""

BOTTLENECK = (
    r"(?:quantiles|target|_offset|_quantized_cdf|_cdf_length|likelihood_lower_bound\.bound"
    r"|matrices\.[0-4]|biases\.[0-4]|factors\.[0-3])"
)

Rule = tuple[str, str]
"""A pattern of published names and what the tensor is called here."""

FP_RULES: tuple[Rule, ...] = (
    (r"(g_[as]\.[0246]\.(?:weight|bias))", r"transform.\1"),
    (r"(g_[as]\.[135]\.(?:beta|gamma))", r"transform.\1"),
    (r"g_[as]\.[135]\.(?:beta|gamma)_reparam\.(?:pedestal|lower_bound\.bound)", DONE),
    (rf"entropy_bottleneck\.{BOTTLENECK}", DONE),
)

TRANSFORM_RULES: tuple[Rule, ...] = (
    (r"(g_[as]\.\d+\.(?:weight|bias))", r"\1"),
    (r"(g_[as]\.\d+)\.conv1\.(weight|bias)", r"\1.convs.0.\2"),
    (r"(g_[as]\.\d+)\.conv2\.(weight|bias)", r"\1.convs.2.\2"),
    (r"(g_[as]\.\d+)\.conv3\.(weight|bias)", r"\1.convs.4.\2"),
    (r"(g_[as]\.\d+)\.conv_a\.(\d)\.conv\.([024]\.(?:weight|bias))", r"\1.features.\2.convs.\3"),
    (r"(g_[as]\.\d+)\.conv_b\.(\d)\.conv\.([024]\.(?:weight|bias))", r"\1.gate.\2.convs.\3"),
    (r"(g_[as]\.\d+)\.conv_b\.3\.(weight|bias)", r"\1.gate.3.\2"),
)

LATENT = r"latent_codec\.y\.latent_codec\.y([0-4])"

ELIC_RULES: tuple[Rule, ...] = (
    *TRANSFORM_RULES,
    (r"latent_codec\.hyper\.(h_a\.[024]\.(?:weight|bias))", r"\1"),
    (r"latent_codec\.hyper\.(h_s\.[024]\.(?:weight|bias))", r"prior.\1"),
    (
        r"latent_codec\.y\.channel_context\.y([1-4])\.([024]\.(?:weight|bias))",
        r"prior.groups.\1.channel.\2",
    ),
    (
        rf"{LATENT}\.entropy_parameters\.([024]\.(?:weight|bias))",
        r"prior.groups.\1.aggregation.\2",
    ),
    (rf"{LATENT}\.context_prediction\.(weight|bias)", r"prior.groups.\1.spatial.\2"),
    (rf"{LATENT}\.context_prediction\.mask", DONE),
    (
        rf"{LATENT}\.y\.gaussian_conditional\.(?:_offset|_quantized_cdf|_cdf_length|scale_table"
        r"|scale_bound|likelihood_lower_bound\.bound|lower_bound_scale\.bound)",
        DONE,
    ),
    (rf"latent_codec\.hyper\.entropy_bottleneck\.{BOTTLENECK}", DONE),
)


def present_name(name: str) -> str:
    """A published name without its prefix, spelled as CompressAI does today."""
    name = name.removeprefix(PREFIX)
    for old, new in NEW.items():
        name = re.sub(rf"(entropy_bottleneck\.){old}(\d)$", rf"\g<1>{new}\2", name)
    return name


def renamed(state: Mapping[str, NDArray[Any]], rules: tuple[Rule, ...]) -> dict[str, NDArray[Any]]:
    """Tensors under our names, without those that are dealt with elsewhere.

    ModelMismatchError if no rule knows a name.
    """
    compiled = [(re.compile(pattern), target) for pattern, target in rules]
    result, unknown = {}, []
    for name, value in state.items():
        hits = [(m, target) for pattern, target in compiled if (m := pattern.fullmatch(name))]
        if not hits:
            unknown.append(name)
        elif hits[0][1] != DONE:
            result[hits[0][0].expand(hits[0][1])] = value
    if unknown:
        raise ModelMismatchError(f"the checkpoint has unknown tensors: {', '.join(unknown[:5])}")
    return result
