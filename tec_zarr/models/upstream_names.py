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


STACKS = (("encoder_sep", "past"), ("encoder_joint", "joint"), ("decoder", "decoder"))
"""Transformers of the temporal models: their published names and ours."""

TEMPORAL_RULES: tuple[Rule, ...] = (
    *(
        (rf"transform\.{long}_transform\.transforms\.{pattern}", rf"{short}.{target}")
        for long, short in (("analysis", "g_a"), ("synthesis", "g_s"))
        for pattern, target in (
            (r"(\d+\.(?:weight|bias))", r"\1"),
            (r"(\d+)\.conv\.([024]\.(?:weight|bias))", r"\1.convs.\2"),
            (r"(\d+)\.conv_a\.([012])\.conv\.([024]\.(?:weight|bias))", r"\1.features.\2.convs.\3"),
            (r"(\d+)\.conv_b\.([012])\.conv\.([024]\.(?:weight|bias))", r"\1.gate.\2.convs.\3"),
            (r"(\d+)\.conv_b\.(3\.(?:weight|bias))", r"\1.gate.\2"),
        )
    ),
    *(
        (
            rf"entropy_model\.{stack}\.layers\.encoder_layer_(\d+)\.{old}\.(weight|bias)",
            rf"prior.{ours}.layers.\1.{new}.\2",
        )
        for stack, ours in STACKS
        for place, own, attention in ((0, "1", "self"), (1, "2", "cross"))
        for old, new in (
            (f"norm{own}a", f"{place}.before"),
            (f"norm{own}b", f"{place}.between"),
            (rf"{attention}_attention\.q", f"{place}.attention.query"),
            (rf"{attention}_attention\.k", f"{place}.attention.key"),
            (rf"{attention}_attention\.v", f"{place}.attention.value"),
            (rf"{attention}_attention\.proj", f"{place}.attention.out"),
            (rf"mlp{own}\.fc1", f"{place}.perceptron.0"),
            (rf"mlp{own}\.fc2", f"{place}.perceptron.2"),
        )
    ),
    (r"entropy_model\.decoder\.layers\.encoder_layer_\d+\.look_ahead_mask", DONE),
    (r"entropy_model\.encoder_embedding\.(weight|bias)", r"prior.embed_past.\1"),
    (r"entropy_model\.decoder_embedding\.(weight|bias)", r"prior.embed.\1"),
    (r"entropy_model\.post_embedding_layernorm\.(weight|bias)", r"prior.norm.\1"),
    (r"entropy_model\.(mean|scale)_head\.([024]\.(?:weight|bias))", r"prior.\1.\2"),
    (r"entropy_model\.learned_zero\.sym", "prior.first"),
    (r"entropy_model\.enc_position_sep\._pos", "prior.place_past"),
    (r"entropy_model\.enc_position_joint\._pos", "prior.place_joint"),
    (r"entropy_model\.dec_position\._pos", "prior.place"),
    (r"_temporal_pad_token_maker\.weight", "prior.start"),
    (r"_dequantizer\.process_conv\.0\.(weight|bias)", r"lift.0.\1"),
    (r"_dequantizer\.process_conv\.2\.conv1\.(weight|bias)", r"lift.2.convs.0.\1"),
    (r"_dequantizer\.process_conv\.2\.conv2\.(weight|bias)", r"lift.2.convs.2.\1"),
    (
        r"entropy_model\.bottleneck\._entropy_model\.(?:_offset|_quantized_cdf|_cdf_length"
        r"|_indexes_table|_prior_mean|_prior_scale|scale_bound|likelihood_lower_bound\.bound"
        r"|(?:lower_bound_(?:scale|zero)|upper_bound_(?:mean|scale))\.bound)",
        DONE,
    ),
    # What stands for tokens that are not sent in training; decoding has their forecast.
    (r"entropy_model\.(?:mask_token|z_cur_mask_token)", DONE),
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
