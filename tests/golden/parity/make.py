"""Write the parity goldens: what the packages `terracodec` and `compressai` compute.

Runs from the root of the repository, in an environment of its own (here called ENVIRONMENT) with
neither `tec_zarr` nor its dependencies:

    python3.11 -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install "torch==2.14.1" "torchvision==0.29.1" "numpy<2" terracodec
    ENVIRONMENT/bin/python -m tests.golden.parity.make

Weights are those of `tests/upstream.py`. Symbols are what the packages' own `compress` hands to
their entropy coder. Of some pictures that one is taken whose symbols keep farthest away from the
middle between two integers: there, float32 of another machine could round the other way.

The temporal models are narrow, of the package's own parts. TEC-TT is its `forward`. FlexTEC is its
`masking_inference`, frame by frame: tokens that are not sent become their forecast as `compress`
has it (`forward` has mask tokens instead), bits follow from the trained scales (`compress` uses
others, see docs/decisions/012-temporal.md). All bits are the package's estimates.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from terracodec.imagecodecs import ELIC, FactorizedPrior
from terracodec.temporaltransformer.entropy_model import TerraCodecTTEntropyModel
from terracodec.temporaltransformer.pipeline import Dequantizer, TerraCodecTTPipeline
from terracodec.temporaltransformer.transforms import ELICTransform

from tests.upstream import (
    LOUD,
    NARROW,
    PICTURES,
    SENT,
    SHALLOW,
    TEMPORAL_LOUD,
    listed,
    narrowed,
    picture,
    series,
    state_of,
    temporal,
)

FOLDER = Path(__file__).parent


class Recorded:
    """Symbols that an entropy model of CompressAI quantises, and how near they are to a border."""

    def __init__(self, model: Any) -> None:
        self.symbols: list[torch.Tensor] = []
        self.margin = 1.0
        self._genuine = model.quantize
        model.quantize = self

    def __call__(self, inputs: torch.Tensor, mode: str, means: torch.Tensor | None = None) -> Any:
        result = self._genuine(inputs, mode, means)
        if mode == "symbols":
            exact = inputs - (0 if means is None else means)
            self.symbols.append(result)
            self.margin = min(self.margin, float((0.5 - (exact - result).abs()).min()))
        return result


def model_of(case: str) -> Any:
    """A published class with random weights, its tables built."""
    family, width, latents = case.split("_")
    kind = FactorizedPrior if family == "fp" else ELIC
    model = kind(in_channels=12, N=int(width[1:]), M=int(latents[1:]), image_size=256)
    state = {n: torch.from_numpy(v) for n, v in state_of(listed(case), loud=LOUD[case]).items()}
    model.load_state_dict(state, strict=True)
    model.update(force=True)
    return model.eval()


def fp(model: Any, frame: torch.Tensor) -> tuple[dict[str, torch.Tensor], float]:
    """Symbols and reconstruction of TEC-FP."""
    recorded = Recorded(model.entropy_bottleneck)
    payload = model.compress(frame)
    back = model.decompress(payload["strings"], payload["shape"])
    return {"symbols": recorded.symbols[0][0], "frame": back[0]}, recorded.margin


def elic(model: Any, frame: torch.Tensor) -> tuple[dict[str, torch.Tensor], float]:
    """Symbols, latents as readers see them and reconstruction of TEC-ELIC."""
    codecs = [model.latent_codec["y"].latent_codec[f"y{k}"] for k in range(5)]
    hyper = Recorded(model.latent_codec["hyper"].entropy_bottleneck)
    halves = [Recorded(codec["y"].gaussian_conditional) for codec in codecs]
    payload = model.compress(frame)
    back = model.decompress(payload["strings"], payload["shape"])
    groups = [c.embed(torch.stack(h.symbols[:2])) for c, h in zip(codecs, halves, strict=True)]
    found = {
        "z": hyper.symbols[0][0],
        "symbols": torch.cat(groups, 1)[0],
        "latents": payload["y_hat"][0],
        "frame": back[0],
    }
    return found, min(record.margin for record in (hyper, *halves))


def pipeline_of(case: str) -> Any:
    """The published parts of a temporal model, narrow, with random weights."""
    flexible = case.startswith("flextec")
    channels = [NARROW[size] for size in (128, 160, 192, 192)]
    transform = ELICTransform(in_channels=12, out_channels=12, channels=channels)
    flags = {"enable_latent_repacking": flexible, "enable_masking": flexible}
    model = TerraCodecTTPipeline(transform, **flags)
    model.entropy_model = TerraCodecTTEntropyModel(
        num_channels=NARROW[192], d_model=NARROW[768], num_head=NARROW[768] // 48,
        num_layers_encoder_sep=SHALLOW["encoder_sep"],
        num_layers_encoder_joint=SHALLOW["encoder_joint"],
        num_layers_decoder=SHALLOW["decoder"], **flags,
    )  # fmt: skip
    model._dequantizer = Dequantizer(NARROW[192], NARROW[768])
    shapes = narrowed(temporal(case))
    state = state_of(shapes, loud=TEMPORAL_LOUD).items()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state}, strict=True)
    return model.eval()


def coded(model: Any, frames: torch.Tensor, sent: int) -> tuple[dict[str, torch.Tensor], float]:
    """Latents, bits of each frame and reconstructions of some frames (1, t, band, y, x)."""
    exact = model.transform.encode(frames)
    latents, inputs, bits, states = [], [], [], None
    for step in range(frames.shape[1]):
        states, outs = model._encode_frame_masking(
            exact[:, step], step, [sent], states, "deterministic"
        )
        found = outs[0].bottleneck
        latents.append(found.latent_q[0])
        inputs.append(model._decode_bottleneck(found, enable_masking=False))
        bits.append(model.compute_rate(found.likelihood[None, :, :sent]))
    margin = float((0.5 - (exact - exact.round()).abs()).min())
    back = model.transform.decode(torch.stack(inputs, 1), frames.shape)[0]
    return {"symbols": torch.stack(latents), "bits": torch.stack(bits), "frame": back}, margin


def temporal_case(case: str) -> None:
    """Write the file of a temporal model."""
    model, tries = pipeline_of(case), []
    for number in range(PICTURES):
        frames = torch.from_numpy(series(case, number))
        found, margin = coded(model, frames, SENT[case])
        if case.startswith("tt"):
            whole, bits = model(frames)
            if not torch.allclose(whole[0], found["frame"]) or any(
                abs(int(a) - int(b)) > 1 for a, b in zip(bits, found["bits"], strict=True)
            ):
                raise RuntimeError("forward() is another computation")
        tries.append((margin, number, found))
    margin, number, found = max(tries, key=lambda item: item[0])
    write(case, found, margin, number)


def main() -> None:
    """Write one file a case; existing ones are replaced."""
    torch.set_grad_enabled(False)
    for case in SENT:
        temporal_case(case)
    for case in LOUD:
        run = fp if case.startswith("fp") else elic
        tries = []
        for number in range(PICTURES):
            found, margin = run(model_of(case), torch.from_numpy(picture(case, number)))
            tries.append((margin, number, found))
        margin, number, found = max(tries, key=lambda item: item[0])
        write(case, found, margin, number)


def write(case: str, found: dict[str, torch.Tensor], margin: float, number: int) -> None:
    """Symbols whole, floats a sample of them."""
    arrays: dict[str, Any] = {"picture": number, "margin": margin}
    said = f"{case}: picture {number}, margin {margin:.1e}"
    for name, values in found.items():
        if name in ("z", "symbols"):
            arrays[name] = values.numpy().astype(np.int16)
            said += f", {name} {arrays[name].min()} to {arrays[name].max()}"
        elif name == "bits":
            arrays[name] = values.numpy()
            said += f", {values.tolist()} bits"
        else:
            step = 3 if values.ndim == 3 else 7
            arrays[name] = values.numpy()[..., ::step, ::step]
            said += f", {name} {values.std():.3g} +-"
    sys.stdout.write(f"{said}\n")
    np.savez_compressed(FOLDER / f"{case}.npz", **arrays)


if __name__ == "__main__":
    main()
