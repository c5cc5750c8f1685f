"""Rate and distortion on validation data, beside what a user has today, as one JSON and one plot.

Protocol: 12-band L2A validation frames of at least 120 x 120; a chunk is a frame; bytes are those
of the chunks (of baselines: of bare code streams), pooled over the frames of a source at one
quality; errors pooled likewise over valid values, peak 10000. Pixels that are 0 in all bands have
no data, which baselines get to know for nothing; any other 0 is a value for all codecs. A point
counts only where both reach it; the last row is the median over sources. What baselines gave is
kept in a folder, so that another run costs the model only.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.bands import S2L2A
from tec_zarr.cards import card
from tec_zarr.errors import TecError
from tec_zarr.evaluate import baselines, hevc, klt, report, sweep
from tec_zarr.evaluate.frames import DATA_VARIABLE, Wanted, fewer, load_frames, load_series
from tec_zarr.evaluate.plots import rate_plot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUALITIES = np.arange(28, 56.1, 2)
# OpenJPEG aims for a PSNR at peak 65535, which is 16.3 dB more, and misses it by a few dB.
LEVELS = np.arange(44, 76.1, 2)
REACHED = np.arange(28, 58.1, 2)
QUANTISERS = np.arange(51, -0.1, -3)
SUBSETS = {
    "10 bands": tuple(band for band in S2L2A if band not in ("B01", "B09")),
    "4 bands": ("B02", "B03", "B04", "B08"),
}
Codec = tuple[str, str, str, "sweep.Codec", np.ndarray]


def main() -> None:
    """Measure, print the tables, write JSON and plot."""
    options = arguments()
    if options.stored:
        show(report.load(options.out / "rate.json"), options)
        return
    sources = load_series(options.data)
    if options.frames:
        sources = fewer(sources, options.frames)
    count = sum(len(one.data) for own in sources.values() for one in own)
    print(f"{count} frames of {len(sources)} sources", flush=True)
    measure = partial(measure_baseline, options.cache)
    chosen = list(known_baselines(options))
    others = [measure(codec, sources) for codec in chosen]
    parts = {} if options.no_subsets else {name: only(sources, SUBSETS[name]) for name in SUBSETS}
    subsets = {name: [measure(chosen[0], part)] for name, part in parts.items()}
    if options.baselines_only:
        return
    if options.against:
        others.append(report.load(options.against / "rate.json")["codecs"][0])
    own = measure_model(options.model, sources, S2L2A)
    for name, part in parts.items():
        subsets[name].insert(0, measure_model(options.model, part, SUBSETS[name]))
    result = report.result([own, *others], subsets)
    report.save(options.out / "rate.json", result)
    show(result, options)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    results = Path("benchmarks/results")
    add("--model", default="tec-fp-s2l2a")
    add("--data", type=Path, help=f"folder of the samples; default: {DATA_VARIABLE}")
    add("--out", type=Path, default=results, help="folder of rate.json and rate.png")
    add("--cache", type=Path, default=results / "baselines", help="folder of kept measurements")
    add("--frames", type=int, help="at most so many of a source, for a quick look")
    add("--fast", action="store_true", help="JPEG 2000 as the only baseline")
    add("--no-subsets", action="store_true", help="no cubes of 10 and 4 bands")
    add("--baselines-only", action="store_true", help="only fill the folder of the baselines")
    add("--against", type=Path, help="folder with the rate.json of another model, as a baseline")
    add("--stored", action="store_true", help="measure nothing: tables and plot of rate.json")
    add("--page", type=Path, help="a page with the marks of the model, which gets the tables")
    return parser.parse_args()


def show(result: report.Result, options: argparse.Namespace) -> None:
    """Print the tables, draw the curves, write the page."""
    rate_plot(result, options.out / "rate.png")
    for table in report.tables(result).values():
        print(table.text())
    if options.page:
        report.write_page(options.page, result)
    print(f"\n{options.out / 'rate.json'}, {options.out / 'rate.png'}")


def only(sources: sweep.Sources, bands: Sequence[str]) -> sweep.Sources:
    """The same frames in some of the bands."""
    return {source: [one.only(bands) for one in own] for source, own in sources.items()}


def measure_model(model: str, sources: sweep.Sources, bands: Sequence[str]) -> sweep.Record:
    """Curves of a TEC model."""
    codec = sweep.by_frame(sweep.tec(model, bands=bands))
    tell = partial(progress, f"{model}, {len(bands)} bands")
    results = sweep.sweep(sweep.meter(codec), QUALITIES.tolist(), sources, tell)
    text = "TEC, a chunk a frame; quality as the codec calls it"
    return sweep.record(model, text, results, card(model).identity)


def measure_baseline(cache: Path, codec: Codec, sources: sweep.Sources) -> sweep.Record:
    """Curves of another codec, as far as they are known from the folder `cache`."""
    name, text, key, run, qualities = codec
    meter = sweep.remembered(sweep.meter(run), key, cache)
    bands = len(next(iter(sources.values()))[0].bands)
    tell = partial(progress, f"{name}, {bands} bands")
    return sweep.record(name, text, sweep.sweep(meter, qualities.tolist(), sources, tell))


def known_baselines(options: argparse.Namespace) -> list[Codec]:
    """Name, description, what results depend on, codec and qualities of each."""
    openjpeg = baselines.codecs().jpeg2k_version()
    text = "OpenJPEG, irreversible, a code stream a band; quality is its level, the same for all"
    run = sweep.by_frame(baselines.jpeg2000)
    plain = ("JPEG 2000", text, f"JPEG 2000 per band, {openjpeg}", run, LEVELS)
    return [plain] if options.fast else [plain, *rotated(options.data, openjpeg)]


def rotated(data: Path | None, openjpeg: str) -> list[Codec]:
    """Baselines beyond JPEG 2000; those with x265 only if it is there."""
    training = load_frames(data, Wanted(split="train"))
    axes = klt.fit_klt(frame for own in training.values() for frame in own)
    text = "fixed KLT over the bands, fitted to the training data, then OpenJPEG, one code stream"
    key = f"KLT {axes.name} + JPEG 2000 of all components at a PSNR, {openjpeg}"
    found: list[Codec] = [
        ("KLT + JPEG 2000", text, key, sweep.by_frame(axes.jpeg2000), REACHED)
    ]  # fmt: skip
    try:
        name = hevc.name()
    except TecError as err:
        print(f"without x265: {err}", file=sys.stderr)
        return found
    run: Callable[..., sweep.Coded] = partial(hevc.klt_x265, axes)
    text = f"12 bits, preset {hevc.PRESET}, tune {hevc.TUNE}, constant quantiser, dates as frames"
    key = f"KLT {axes.name} + {name}"
    found.append(("KLT + x265", f"the same KLT, a video a component, {text}", key, run, QUANTISERS))
    found.append(("x265", f"a video a band, {text}", name, hevc.x265, QUANTISERS))
    return found


def progress(what: str, source: str, quality: float) -> None:
    """Tell what is measured now."""
    start, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
    sys.stderr.write(f"{start}{what}: {source} at {quality:g}{end}")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        main()
    except TecError as err:
        sys.exit(f"rate: {err}")
