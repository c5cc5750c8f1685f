"""Checkpoints as they are published, with random weights: NumPy's Philox, keyed by tensor name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.draws import draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEYS = Path(__file__).parent / "upstream_keys"

LOUD = {"fp_n128_m192": 6.0, "fp_n192_m320": 6.0, "elic_n128_m192": 0.25, "elic_n192_m320": 0.4}
"""Cases of the parity goldens, and what scales their latents."""

SENT = {"tt_s2l2a": 16, "flextec_s2l2a": 6}
"""Temporal cases, and the tokens that are sent of each window."""

TEMPORAL_LOUD = 2.0
"""What scales their latents."""

STEPS = 3
"""Frames of them."""

PICTURES = 24
"""How many pictures the goldens are chosen from."""

GAINS = {"g_s.0.weight": 0.15, "g_s.14.weight": 0.05, "latent_codec.hyper.h_a.4.weight": 4.0}
"""Layers that are louder or quieter than others, so that numbers stay those of images."""

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Any]

TEMPORAL = ("transform.", "entropy_model.", "_temporal_pad_token_maker.", "_dequantizer.")
"""How names of temporal models begin."""

TEMPORAL_GAINS = {
    "_pos": 0.3, "sym": 5.0, "maker.weight": 5.0, "mask_token": 1.0, "bias": 0.02,
    "mean_head.4.weight": 1.0, "scale_head.4.weight": 2.0, "process_conv.0.weight": 0.3,
    "synthesis_transform.transforms.1.weight": 0.15,
}  # fmt: skip
"""Deviations of tensors without a fan-in, and gains of those with one."""

ZEROS = (
    *("_offset", "_quantized_cdf", "_cdf_length", "scale_table"),
    *("_indexes_table", "_prior_mean", "_prior_scale"),
)
"""Buffers that are empty in a published file."""


def listed(case: str) -> Shapes:
    """Names and shapes of a published model, such as "fp_n128_m192"."""
    lines = (KEYS / f"{case}.txt").read_text("utf-8").splitlines()
    return {
        name: ast.literal_eval(shape) for name, shape, _ in (line.split("\t") for line in lines)
    }


NARROW = {64: 4, 80: 6, 96: 32, 128: 8, 160: 12, 192: 64, 768: 96, 3072: 384}
"""Sizes of layers of the temporal models, and small ones that go together as well."""

SHALLOW = {"encoder_sep": 2, "encoder_joint": 1, "decoder": 2}
"""Layers of the transformers, to go with them."""


def temporal(case: str) -> Shapes:
    """Names and shapes of a published "tt_s2l2a", "tt_s2l1c" or "flextec_s2l2a"."""
    shapes = listed("tt_s2l2a")
    if case == "tt_s2l1c":
        shapes = {n: tuple(13 if size == 12 else size for size in v) for n, v in shapes.items()}
    if case == "flextec_s2l2a":
        masks = {"entropy_model.mask_token": (192,), "entropy_model.z_cur_mask_token": (768,)}
        shapes |= masks
    return shapes


def narrowed(shapes: Shapes) -> Shapes:
    """The same of a temporal model with narrow layers, and few of them."""
    small: Shapes = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        if "layers" in parts and int(parts[3].rpartition("_")[2]) >= SHALLOW[parts[1]]:
            continue
        kept = shape[:2] if "_pos" in parts else ()
        sizes = tuple(NARROW.get(size, size) for size in shape[len(kept) :])
        small[name] = shape if name.endswith("look_ahead_mask") else (*kept, *sizes)
    return small


def picture(case: str, number: int) -> NDArray[np.float32]:
    """(1, 12, y, x): something smooth with some noise, in normalised units."""
    shape = (1, 12, 64, 128 if "n128" in case else 64)
    hills = np.cumsum(draw(f"hills {case} {number}", shape, 0.25), -1)
    return hills + draw(f"noise {case} {number}", shape, 0.3)


def series(case: str, number: int) -> NDArray[np.float32]:
    """(1, t, 12, y, x): the same hills with other noise, step by step."""
    shape = (1, STEPS, 12, 128, 128)
    hills = np.cumsum(draw(f"hills {case} {number}", (1, 1, *shape[2:]), 0.25), -1)
    return hills + draw(f"noise {case} {number}", shape, 0.3)


def state_of(shapes: Shapes, seed: str = "", loud: float = 1.0) -> dict[str, NDArray[Any]]:
    """Tensors of these names and shapes; the constants among them are the published ones.

    `loud` scales the last layer of the analysis, and so the latents.
    """
    return {name: tensor(name, shape, seed, loud) for name, shape in shapes.items()}


def tensor(name: str, shape: tuple[int, ...], seed: str, loud: float) -> NDArray[Any]:
    """One tensor of a random checkpoint."""
    last = name.rpartition(".")[2]
    if last in ZEROS:
        whole = last in ("_offset", "_quantized_cdf", "_cdf_length")
        return np.zeros(shape, np.int32 if whole else np.float32)
    if name.endswith(("pedestal", "bound", "target", "mask")):
        return constant(name, shape)
    if name.startswith(TEMPORAL):
        return temporal_tensor(name, shape, seed, loud)
    if "entropy_bottleneck" in name or last in ("beta", "gamma"):
        return (normaliser if last in ("beta", "gamma") else prior)(name, shape, seed)
    if len(shape) < 4:
        return draw(seed + name, shape, 0.02)
    gain = {**GAINS, "g_a.6.weight": loud, "g_a.13.weight": loud}.get(name, 1.0)
    deconv = (name.startswith("g_s") and shape[2] == 5) or name.endswith(
        ("h_s.0.weight", "h_s.2.weight")
    )
    fan_in = shape[0] * shape[2] * shape[3] / 4 if deconv else np.prod(shape[1:])
    return draw(seed + name, shape, gain * float(np.sqrt(1.2 / fan_in)))


def temporal_tensor(
    name: str, shape: tuple[int, ...], seed: str, loud: float
) -> NDArray[np.float32]:
    """A layer of a temporal model."""
    gains = {**TEMPORAL_GAINS, "analysis_transform.transforms.13.weight": loud}
    gain = next((value for end, value in gains.items() if name.endswith(end)), 1.0)
    if "norm" in name:
        return draw(seed + name, shape, 0.1) + np.float32(name.endswith("weight"))
    if name.endswith("scale_head.4.bias"):
        return np.abs(draw(seed + name, shape, 10.0)) + np.float32(2)
    if len(shape) == 1 or name.endswith(("_pos", "maker.weight")):
        return draw(seed + name, shape, gain)
    deconv = "synthesis" in name and shape[2:] == (5, 5)
    fan_in = shape[0] * 25 / 4 if deconv else np.prod(shape[1:])
    return draw(seed + name, shape, gain * float(np.sqrt(1.2 / fan_in)))


def constant(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Buffers that are the same in every checkpoint."""
    if name.endswith("look_ahead_mask"):
        return np.triu(np.ones(shape, np.bool_), 1)
    if name.endswith("mask"):
        return np.broadcast_to(np.indices((5, 5)).sum(0) % 2, shape).astype(np.float32)
    if name.endswith("target"):
        edge = np.log(2e9 - 1)
        return np.array([-edge, 0, edge], np.float32)
    values = {
        "pedestal": 2.0**-36,
        "beta_reparam.lower_bound.bound": (1e-6 + 2.0**-36) ** 0.5,
        "gamma_reparam.lower_bound.bound": 2.0**-18,
        "likelihood_lower_bound.bound": 1e-9,
        "scale_bound": 0.11,
        "lower_bound_scale.bound": 0.11,
        "lower_bound_zero.bound": 0.0,
        "upper_bound_mean.bound": -99.0,
        "upper_bound_scale.bound": -255.0,
    }
    if name.startswith("entropy_model"):
        values |= {"scale_bound": 0.01, "lower_bound_scale.bound": 0.01}
    found = next(value for end, value in values.items() if name.endswith(end))
    return np.full(shape, found, np.float32)


def prior(name: str, shape: tuple[int, ...], seed: str) -> NDArray[np.float32]:
    """A layer of a factorised prior, some steps wide, or its quantiles."""
    random = draw(seed + name, shape)
    if name.endswith("quantiles"):
        return (random * np.float32(0.3) + np.array([-10, 0, 10], np.float32)).astype(np.float32)
    if "matrices" in name:
        middle = np.log(np.expm1(10**-0.2 / shape[1]))
        return (random * np.float32(0.2) + np.float32(middle)).astype(np.float32)
    return random * np.float32(0.2)


def normaliser(name: str, shape: tuple[int, ...], seed: str) -> NDArray[np.float32]:
    """Roots of the parameters of GDN, as training keeps them; some are below their bound."""
    random = np.abs(draw(seed + name, shape))
    if name.endswith("beta"):
        return np.sqrt(1 + 0.2 * random).astype(np.float32)
    sparse = np.where(random < 1, 0, 0.02 * random) + 0.1 * np.eye(len(random))
    return np.sqrt(sparse).astype(np.float32)
