"""How many times smaller than JPEG 2000, at equal PSNR, on validation data.

Protocol: 12-band L2A validation frames of at least 120 x 120; a chunk is a frame; bytes are those
of the chunks (of JPEG 2000: of bare code streams, one a band, one level for all), pooled over the
frames of a source at one quality; errors pooled likewise over valid values, peak 10000. JPEG 2000
stores no nodata, and its errors there are forgiven. A point counts only where both reach it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from tec_zarr.cards import card
from tec_zarr.errors import TecError
from tec_zarr.evaluate import baselines, sweep
from tec_zarr.evaluate.frames import DATA_VARIABLE, Wanted, load_frames
from tec_zarr.evaluate.plots import rate_plot

POINTS = (30.0, 33.0, 36.0, 40.0, 44.0, 48.0, 52.0, 56.0)
TARGETS: dict[str, dict[float, float]] = {
    "JPEG 2000": {33.0: 1.5, 36.0: 1.5, 40.0: 1.5},
    "KLT + JPEG 2000": {},
}
QUALITIES = np.arange(28, 56.1, 2)
# OpenJPEG aims for a PSNR at peak 65535, which is 16.3 dB more, and misses it by a few dB.
LEVELS = np.arange(40, 78.1, 2)


def main() -> None:
    """Measure, print the tables and write JSON and plot."""
    options = arguments()
    frames = load_frames(options.data)
    count = sum(map(len, frames.values()))
    print(f"{count} frames of {len(frames)} sources; {options.model} and JPEG 2000 per band")
    records = [measure(options.model, frames), measure_jpeg2000(frames)]
    if options.klt:
        records.append(measure_klt(frames, options.data))
    sweep.save(options.out / "rate.json", records)
    rate_plot(records, options.out / "rate.png")
    for other in records[1:]:
        print_table(records[0], other)
    print(f"curves: {options.out / 'rate.json'}, {options.out / 'rate.png'}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tec-fp-s2l2a")
    parser.add_argument(
        "--data", type=Path, help=f"folder of the samples; default: {DATA_VARIABLE}"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--klt", action="store_true", help="also a fixed KLT before JPEG 2000")
    return parser.parse_args()


def measure(model: str, frames: sweep.Frames) -> sweep.Record:
    """Curves of a TEC model."""
    results = sweep.sweep(sweep.tec(model), QUALITIES.tolist(), frames, progress)
    text = "TEC, a chunk a frame; quality as the codec calls it"
    return sweep.record(model, text, results, card(model).identity)


def measure_jpeg2000(frames: sweep.Frames) -> sweep.Record:
    """Curves of JPEG 2000, every band by itself."""
    results = sweep.sweep(baselines.jpeg2000, LEVELS.tolist(), frames, progress)
    text = "OpenJPEG, irreversible, a code stream a band; quality is its level, the same for all"
    return sweep.record("JPEG 2000", text, results)


def measure_klt(frames: sweep.Frames, data: Path | None) -> sweep.Record:
    """Curves of JPEG 2000 over principal components."""
    training = load_frames(data, Wanted(split="train"))
    klt = baselines.fit_klt(frame for own in training.values() for frame in own)
    results = sweep.sweep(klt, LEVELS.tolist(), frames, progress)
    text = "fixed KLT over the bands, fitted to the training data, then JPEG 2000 per component"
    return sweep.record("KLT + JPEG 2000", text, results)


def progress(source: str, quality: float) -> None:
    """Tell what is measured now."""
    start, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
    sys.stderr.write(f"{start}{source} at {quality:g}{end}")
    sys.stderr.flush()


def print_table(own: sweep.Record, baseline: sweep.Record) -> None:
    """How many times smaller, by source and PSNR."""
    mine, theirs = sweep.curves_of(own), sweep.curves_of(baseline)
    rows = {source: sweep.times_smaller(mine[source], theirs[source], POINTS) for source in mine}
    middle = sweep.medians(rows.values())
    print(f"\nbytes of {baseline['name']} / bytes of {own['name']} at equal PSNR (dB)")
    print(f"{'':24}" + "".join(f"{psnr:7g}" for psnr in POINTS))
    targets = {psnr: TARGETS[baseline["name"]].get(psnr) for psnr in POINTS}
    for source, row in {**rows, "median": middle, "target": targets}.items():
        print(f"{source:24}" + "".join(cell(row[psnr]) for psnr in POINTS))


def cell(value: float | None) -> str:
    """A number of the table."""
    return f"{'-':>7}" if value is None else f"{value:7.2f}"


if __name__ == "__main__":
    try:
        main()
    except TecError as err:
        sys.exit(f"rate: {err}")
