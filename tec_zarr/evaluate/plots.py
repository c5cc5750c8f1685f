"""Figures. Curves are drawn from the JSON of `sweep.record` only, so that they can be redrawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.bands import S2L2A
from tec_zarr.errors import TecError
from tec_zarr.evaluate.sweep import curves_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Pixels = NDArray[Any]

COLUMNS = 3
TRUE_COLOUR = ("B04", "B03", "B02")


def rate_plot(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw PSNR over bits per pixel of one band, a panel for each source."""
    sources = list(records[0]["results"])
    rows = -(-len(sources) // COLUMNS)
    figure = _figure(4 * COLUMNS, 3.2 * rows)
    for place, source in enumerate(sources):
        axes = figure.add_subplot(rows, COLUMNS, place + 1, title=source, xscale="log")
        for entry in records:
            curve = curves_of(entry)[source]
            axes.plot(curve.bits, curve.psnr, marker=".", label=entry["name"])
        axes.set(xlabel="bits per pixel of one band", ylabel="PSNR in dB (peak 10000)")
        axes.tick_params(axis="x", which="minor", labelbottom=False)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
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
