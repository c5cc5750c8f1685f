"""What FlexTEC costs beside TEC-TT, and what its layers cost.

Validation series of level 2A with at least four dates, 8 dates a chunk: one layer against TEC-TT
(BD-rate over 33 to 46 dB), all layers against one, and what readers of some layers get. More tokens
must never be worse. A table and a JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr import container
from tec_zarr.codec import decode_chunk, encode_chunk, plan_layers
from tec_zarr.config import TecConfig
from tec_zarr.evaluate import sweep
from tec_zarr.evaluate.curves import bd_rate, bytes_at
from tec_zarr.evaluate.frames import DATA_VARIABLE, load_dates
from tec_zarr.evaluate.metrics import nodata_of
from tec_zarr.models import artifact as artifacts
from tec_zarr.models import registry
from tec_zarr.models.shelf import PATH_VARIABLE, SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.evaluate.curves import Curve
    from tec_zarr.evaluate.sweep import Coded, FrameCodec, Pixels
    from tec_zarr.evaluate.tally import Series

QUALITIES = np.arange(30, 48.1, 3).tolist()
DATES = 8
RANGE = (33.0, 46.0)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="flextec-s2l2a")
    parser.add_argument("--baseline", default="tec-tt-s2l2a")
    parser.add_argument("--data", type=Path, help=f"folder of samples; default: {DATA_VARIABLE}")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain, budgets = in_one_layer(options.model, Path(folder))
        found = {
            name: measured(name, (options.model, plain, options.baseline), budgets, own)
            for name, own in load_dates(options.data, split=options.split).items()
        }
    for key in ("one_layer", "all_layers"):
        values = [100 * row[key] for row in found.values() if row[key] is not None]
        print(f"median, {key.replace('_', ' ')}: {np.median(values):+.1f} %")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "flextec.json"
    written = {"model": options.model, "baseline": options.baseline, "series": found}
    path.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    print(path)


def in_one_layer(model: str, folder: Path) -> tuple[str, list[int]]:
    """The same model without layers, as a hash that this process finds, and the budgets it had."""
    _, data = registry.content(model)
    layered = artifacts.loads(data)
    config = layered.fields["config"]
    count = len(config["qualities"])
    fields = {**layered.fields, "config": {**config, "budgets": [count]}}
    plain = artifacts.Artifact(fields, layered.tensors, layered.card)
    os.environ[PATH_VARIABLE] = str(folder)
    return plain.save(folder / f"plain{SUFFIX}"), list(config["budgets"])


def measured(
    name: str, models: tuple[str, str, str], budgets: list[int], own: list[Series]
) -> dict[str, Any]:
    """What is found of a series; models are the layered one, that in one layer, the baseline."""
    layered, plain, baseline = models
    options: Any = {"bands": own[0].bands}
    tokens = [float(k) for k in range(1, budgets[-1] + 1)]
    base = curve_of(f"{name}, {baseline}", sweep.tec(baseline, **options), QUALITIES, own)
    one = curve_of(f"{name}, one layer", sweep.tec(plain, **options), tokens, own)
    read = {
        k: curve_of(f"{name}, read at {k}", read_at(layered, k, **options), tokens[-1:], own)
        for k in budgets
    }
    row = {
        "one_layer": bd_rate(one, base, *RANGE),
        "all_layers": read[budgets[-1]].bytes[0] / one.bytes[-1] - 1,
        "psnr": one.psnr,
        "bytes": one.bytes,
        "worse_with_more": sum(low >= high for low, high in pairwise(known(one))),
        "layers": {k: layer_of(curve, base) for k, curve in read.items()},
    }
    print(f"{name}:".ljust(70), json.dumps(row), sep="\n")
    return row


def known(curve: Curve) -> list[float]:
    """The PSNR of every point."""
    return [math.inf if psnr is None else psnr for psnr in curve.psnr]


def layer_of(curve: Curve, base: Curve) -> dict[str, float | None]:
    """What a reader up to a layer fetches and gets, and what the baseline takes for that."""
    (psnr,) = known(curve)
    return {"bytes": curve.bytes[0], "psnr": psnr, "baseline": bytes_at(base, psnr)}


def read_at(model: str, at_most: float, **options: Any) -> FrameCodec:  # noqa: ANN401 - passed on
    """A codec whose reader takes the layers up to a quality; bytes are those that it fetches."""

    def codec(frames: Pixels, quality: float) -> Coded:
        own = TecConfig(model=model, quality=quality, nodata=nodata_of(frames), **options)
        chunk = encode_chunk(frames, own)
        size = container.front_size(chunk)
        front = container.parse_front(chunk[:size])
        layers = plan_layers(front, at_most)
        size += sum(front.extent(tile, layers)[1] for tile in range(len(front.segments)))
        return size, decode_chunk(chunk, at_most)

    return codec


def curve_of(name: str, codec: FrameCodec, qualities: Sequence[float], own: list[Series]) -> Curve:
    """Bytes and PSNR of a series."""
    meter = sweep.meter(sweep.by_dates(codec, DATES))
    tell = partial(progress, name)
    return sweep.sweep(meter, qualities, {"series": own}, tell)["series"]


def progress(name: str, source: str, quality: float) -> None:
    """One line that is written again and again."""
    del source
    print(f"{name}, quality {quality:g}".ljust(70), end="\r", flush=True)


if __name__ == "__main__":
    main()
