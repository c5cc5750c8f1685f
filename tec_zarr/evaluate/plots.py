"""Figures. Curves are drawn from the JSON of `report` only, so that they can be redrawn."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.bands import S2L2A
from tec_zarr.errors import TecError
from tec_zarr.evaluate.curves import medians, times_smaller
from tec_zarr.evaluate.sweep import curves_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Pixels = NDArray[Any]

COLUMNS = 3
SHOWN = (28.0, 58.0)
"""PSNR in dB that curves are drawn for."""

TRUE_COLOUR = ("B04", "B03", "B02")


def rate_plot(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result of `report`: PSNR over rate for each source, and the medians of all ratios."""
    records = result["codecs"]
    sources = list(records[0]["results"])
    rows = -(-len(sources) // COLUMNS)
    figure = _figure(5 * (COLUMNS + 1.6), 3.4 * rows)
    grid = figure.add_gridspec(rows, COLUMNS + 1, width_ratios=[1] * COLUMNS + [1.6])
    for place, source in enumerate(sources):
        axes = figure.add_subplot(grid[place // COLUMNS, place % COLUMNS], title=source)
        for entry in records:
            curve = curves_of(entry)[source]
            axes.plot(curve.bits, _drawn(curve.psnr), marker=".", label=entry["name"])
        axes.set(xscale="log", xlabel="bits per pixel of one band", ylabel="PSNR in dB")
        axes.set(ylim=SHOWN)
        axes.grid(visible=True, alpha=0.3)
    _ratio_panel(figure.add_subplot(grid[:, COLUMNS]), records)
    _write(figure, path)


def gain_plot(gains: Mapping[str, Mapping[int, float]], baseline: str, path: Path) -> None:
    """Draw BD-rates by the number of dates in a chunk, a line for each series."""
    figure = _figure(7, 4.5)
    axes = figure.add_subplot(xlabel="dates in a chunk", xscale="log")
    axes.set_ylabel(f"bytes at equal PSNR beside {baseline}, in %")
    for name, row in gains.items():
        axes.plot(list(row), [100 * gain for gain in row.values()], marker=".", label=name)
    every = sorted({dates for row in gains.values() for dates in row})
    axes.set_xticks(every, [str(dates) for dates in every], minor=False)
    axes.minorticks_off()
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    _write(figure, path)


def _ratio_panel(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    """How many times smaller than the first baseline each codec is, median over sources."""
    points = np.arange(SHOWN[0], SHOWN[1] + 0.5).tolist()
    against = curves_of(records[1])
    for entry in records:
        rows = [
            times_smaller(curve, against[source], points)
            for source, curve in curves_of(entry).items()
        ]
        middle = medians(rows)
        axes.plot(points, _drawn(middle.values()), linewidth=2, label=entry["name"])
    axes.set(yscale="log", xlabel="PSNR in dB (peak 10000)", xlim=SHOWN)
    axes.set_title(f"times smaller than {records[1]['name']}, median over sources")
    ticks = [0.7, 1, 1.5, 2, 3, 4, 5, 6, 8, 10]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="upper right")


def _drawn(values: Iterable[float | None]) -> list[float]:
    """Gaps where there is no value."""
    return [math.nan if value is None else value for value in values]


def training_plot(log: Path, path: Path) -> None:
    """Draw the log of a training run (`log.jsonl`): rate and PSNR on held-out frames over steps.

    Raises TecError if there is no such log, or none with held-out frames.
    """
    try:
        records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        places = [record["step"] for record in records]
        held = [record["held_out"] for record in records]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise TecError(f"{log} is no log of a training run: {err!r}") from err
    figure = _figure(12, 3.6)
    loss = figure.add_subplot(1, 3, 1, title="training", xlabel="step", ylabel="loss")
    loss.plot(places, [record["loss"] for record in records])
    panels = {"bits_per_pixel": "bits per pixel of all bands", "psnr": "PSNR in dB (peak 10000)"}
    for column, (measure, label) in enumerate(panels.items()):
        axes = figure.add_subplot(1, 3, column + 2, title="held out", xlabel="step", ylabel=label)
        for curve in zip(*held, strict=True):
            values = [point[measure] for point in curve]
            axes.plot(places, values, label=f"quantisation step {curve[0]['step']:g}")
            axes.legend(fontsize="small")
        axes.grid(visible=True, alpha=0.3)
    _write(figure, path)


def comparison_picture(original: Pixels, decoded: Pixels, path: Path, title: str = "") -> None:
    """Save original, decoded and error of 12-band L2A frames (frame, band, y, x), one row a frame.

    True colour, stretched alike for both; the error is the mean absolute one over all bands, in
    digital numbers.
    """
    figure = _figure(9, 2.8 * len(original) + 0.4)
    figure.suptitle(title)
    error = np.abs(decoded.astype(float) - original).mean(axis=1)
    top = float(np.percentile(error, 99.5)) or 1.0
    for row, (before, after) in enumerate(zip(original, decoded, strict=True)):
        low, high = np.percentile(_true_colour(before), [1, 99])
        panels = {"original": before, "decoded": after}
        for column, (name, frame) in enumerate(panels.items()):
            axes = figure.add_subplot(len(original), 3, 3 * row + column + 1)
            span = max(high - low, 1)
            _show(axes, np.clip((_true_colour(frame) - low) / span, 0, 1), name if row == 0 else "")
        axes = figure.add_subplot(len(original), 3, 3 * row + 3)
        shown = _show(axes, error[row], "error, all bands" if row == 0 else "", top)
        figure.colorbar(shown, ax=axes, fraction=0.046, label="DN")
    _write(figure, path)


def _true_colour(frame: Pixels) -> NDArray[np.float64]:
    return np.stack([frame[S2L2A.index(band)] for band in TRUE_COLOUR], axis=-1).astype(np.float64)


def _show(axes: Axes, image: Pixels, title: str, top: float | None = None) -> Any:  # noqa: ANN401 - AxesImage
    axes.set_axis_off()
    axes.set_title(title)
    return axes.imshow(image, vmin=0, vmax=top, cmap="magma", interpolation="nearest")


def _figure(width: float, height: float) -> Figure:
    """A figure that no window and no global state of matplotlib knows."""
    try:
        from matplotlib.figure import Figure
    except ImportError as err:
        raise TecError("plots need the extra: pip install 'tec-zarr[evaluate]'") from err
    return Figure(figsize=(width, height), layout="constrained")


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
