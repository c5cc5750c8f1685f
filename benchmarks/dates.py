"""What dates in a chunk save: a temporal model beside another one that codes frame by frame.

Validation series of level 2A with at least four dates, each by itself. Bytes are those of the
chunks, errors are pooled over all dates; BD-rate over 33 to 46 dB. A table, a JSON and a plot.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.evaluate import sweep
from tec_zarr.evaluate.curves import bd_rate
from tec_zarr.evaluate.frames import DATA_VARIABLE, load_dates
from tec_zarr.evaluate.plots import gain_plot

if TYPE_CHECKING:
    from tec_zarr.evaluate.curves import Curve
    from tec_zarr.evaluate.tally import Series

QUALITIES = np.arange(30, 48.1, 3).tolist()
DATES = (1, 2, 4, 8, 12)
RANGE = (33.0, 46.0)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tec-tt-s2l2a")
    parser.add_argument("--baseline", default="tec-elic-s2l2a", help="coded frame by frame")
    parser.add_argument("--data", type=Path, help=f"folder of samples; default: {DATA_VARIABLE}")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    gains: dict[str, dict[int, float]] = {}
    for name, own in load_dates(options.data, split=options.split).items():
        base = curve_of(options.baseline, own, 1)
        curves = {n: curve_of(options.model, own, n) for n in DATES if n <= len(own[0].data)}
        found = {dates: bd_rate(curve, base, *RANGE) for dates, curve in curves.items()}
        gains[name] = {dates: gain for dates, gain in found.items() if gain is not None}
        shown = "  ".join(f"{n}: {100 * gain:+.1f}" for n, gain in gains[name].items())
        print(f"{name} ({len(own[0].data)} dates, {len(own[0].bands)} bands), % at {shown}")
    most = [row[max(row)] for row in gains.values() if row]
    print(f"median with most dates: {100 * float(np.median(most)):+.1f} %")
    options.out.mkdir(parents=True, exist_ok=True)
    written = {"model": options.model, "baseline": options.baseline, "bd_rate": gains}
    (options.out / "dates.json").write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    gain_plot(gains, options.baseline, options.out / "dates.png")
    print(f"{options.out / 'dates.json'}, {options.out / 'dates.png'}")


def curve_of(model: str, own: list[Series], dates: int) -> Curve:
    """Bytes and PSNR of a series, so many dates a chunk."""
    codec = sweep.by_dates(sweep.tec(model, bands=own[0].bands), dates)
    tell = partial(progress, f"{model}, {dates} dates")
    return sweep.sweep(sweep.meter(codec), QUALITIES, {"series": own}, tell)["series"]


def progress(name: str, source: str, quality: float) -> None:
    """One line that is written again and again."""
    print(f"{name}, {source}, quality {quality:g}".ljust(70), end="\r", flush=True)


if __name__ == "__main__":
    main()
