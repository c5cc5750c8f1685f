"""Write the parity goldens: what the packages `terracodec` and `compressai` compute.

Runs from the root of the repository, in an environment of its own (here called ENVIRONMENT) with
neither `tec_zarr` nor its dependencies:

    python3.11 -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install "torch==2.14.1" "torchvision==0.29.1" "numpy<2" terracodec
    ENVIRONMENT/bin/python -m tests.golden.parity.make

Weights are those of `tests/upstream.py`. Symbols are what the packages' own `compress` hands to
their entropy coder. Of some pictures that one is taken whose symbols keep farthest away from the
middle between two integers: there, float32 of another machine could round the other way.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from terracodec.imagecodecs import ELIC, FactorizedPrior

from tests.upstream import LOUD, PICTURES, listed, picture, state_of

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


def main() -> None:
    """Write one file a case; existing ones are replaced."""
    torch.set_grad_enabled(False)
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
        else:
            arrays[name] = values.numpy()[:, ::3, ::3]
            said += f", {name} {values.std():.3g} +-"
    sys.stdout.write(f"{said}\n")
    np.savez_compressed(FOLDER / f"{case}.npz", **arrays)


if __name__ == "__main__":
    main()
