"""Rate over distortion of one source, and how two such curves compare. No pixels, no codec.

Points are compared at equal PSNR. Where two curves have no common range a comparison has no value:
nothing is extrapolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.evaluate.landcover import KINDS
from tec_zarr.evaluate.metrics import PEAK
from tec_zarr.evaluate.tally import EDGE, INNER, INTERIOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from tec_zarr.evaluate.tally import Tally

    Floats = NDArray[np.float64]
    Numbers = list[float | None]
    Row = Mapping[float, float | None]

NODES = 200
"""Of the quadrature in `bd_rate`: many for each segment of a curve."""


@dataclass(frozen=True)
class Curve:
    """What the frames of one source cost at several qualities; lists of one length.

    None stands where nothing could be measured, or where there is no error at all.
    """

    values: int
    """Pixels times bands of all frames."""

    frames: int = 1

    quality: list[float] = field(default_factory=list)
    """As the codec calls it."""

    bytes: list[int] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)
    """Per pixel of one band."""

    psnr: Numbers = field(default_factory=list)
    """In dB at peak 10000, over valid values."""

    ssim: Numbers = field(default_factory=list)
    """Mean over windows and bands, data range 10000."""

    spectral_angle: Numbers = field(default_factory=list)
    """Mean angle between the spectra of a pixel, in degrees."""

    ndvi_error: Numbers = field(default_factory=list)
    """Mean absolute error of the vegetation index."""

    ndvi_rmse: Numbers = field(default_factory=list)
    max_error: list[float] = field(default_factory=list)
    """In digital numbers."""

    nodata_mismatches: list[int] = field(default_factory=list)
    edge: Numbers = field(default_factory=list)
    """Mean squared error within 8 pixels of any border of a tile or chunk, over that elsewhere."""

    seam: Numbers = field(default_factory=list)
    """The same of borders between two tiles only."""

    band_psnr: dict[str, Numbers] = field(default_factory=dict)
    band_ssim: dict[str, Numbers] = field(default_factory=dict)
    kind_psnr: dict[str, Numbers] = field(default_factory=dict)
    kind_share: dict[str, float] = field(default_factory=dict)
    """Part of all valid values."""

    def add(self, quality: float, total: Tally, bands: Sequence[str]) -> None:
        """Append what was measured at a quality."""
        self.quality.append(quality)
        self.bytes.append(total.bytes)
        self.bits.append(8 * total.bytes / self.values)
        self.max_error.append(total.max_error)
        self.nodata_mismatches.append(total.mismatches)
        for name, value in _measures(total).items():
            getattr(self, name).append(value)
        for place, band in enumerate(bands):
            psnr = _psnr(total.squares[place], total.counts[place])
            self.band_psnr.setdefault(band, []).append(psnr)
            ssim = _over(total.similarities[place], total.windows[place])
            self.band_ssim.setdefault(band, []).append(ssim)
        for kind, count, squares in _found_kinds(total):
            self.kind_share[kind] = count / float(total.kind_counts.sum())
            psnr = _psnr(squares, count)
            self.kind_psnr.setdefault(kind, []).append(psnr)


def _measures(total: Tally) -> dict[str, float | None]:
    absolute, squared, pixels = total.indices
    mean_square = _over(squared, pixels)
    inside = _place(total, [INTERIOR])
    return {
        "psnr": _psnr(total.squares.sum(), total.counts.sum()),
        "ssim": _over(total.similarities.sum(), total.windows.sum()),
        "spectral_angle": _over(*total.angles),
        "ndvi_error": _over(absolute, pixels),
        "ndvi_rmse": None if mean_square is None else math.sqrt(mean_square),
        "edge": _over(_place(total, [INNER, EDGE]), inside),
        "seam": _over(_place(total, [INNER]), inside),
    }


def _found_kinds(total: Tally) -> Iterator[tuple[str, float, float]]:
    rows = zip(KINDS, total.kind_counts.tolist(), total.kind_squares.tolist(), strict=True)
    yield from (row for row in rows if row[1])


def _place(total: Tally, chosen: list[int]) -> float | None:
    """Mean squared error of places."""
    return _over(total.place_squares[chosen].sum(), total.place_counts[chosen].sum())


def _over(total: float | None, count: float | None) -> float | None:
    return float(total / count) if count and total is not None else None


def _psnr(squares: float, count: float) -> float | None:
    return 10 * math.log10(PEAK**2 * count / squares) if squares and count else None


def rising(curve: Curve) -> tuple[Floats, Floats]:
    """PSNR and the logarithm of bytes, both strictly rising: points that cost more for less go."""
    pairs = sorted(
        (size, psnr) for size, psnr in zip(curve.bytes, curve.psnr, strict=True) if psnr is not None
    )
    kept: list[tuple[float, float]] = []
    for size, psnr in pairs:
        if not kept or (psnr > kept[-1][1] and size > kept[-1][0]):
            kept.append((size, psnr))
    sizes, quality = np.array(kept, np.float64).reshape(-1, 2).T
    return quality, np.log(sizes)


def bytes_at(curve: Curve, psnr: float) -> float | None:
    """Bytes at a PSNR, log-linear between measured points; None outside of them."""
    known, sizes = rising(curve)
    if not len(known) or not known[0] <= psnr <= known[-1]:
        return None
    return float(math.exp(np.interp(psnr, known, sizes)))


def times_smaller(
    curve: Curve, baseline: Curve, points: Iterable[float]
) -> dict[float, float | None]:
    """Bytes of the baseline over those of the codec at each PSNR; None where one lacks it."""
    pairs = {psnr: (bytes_at(baseline, psnr), bytes_at(curve, psnr)) for psnr in points}
    return {psnr: old / new if old and new else None for psnr, (old, new) in pairs.items()}


def medians(rows: Iterable[Row]) -> dict[float, float | None]:
    """Median over sources at each PSNR, of those that have a value there."""
    found: dict[float, list[float]] = {}
    for row in rows:
        for psnr, value in row.items():
            found.setdefault(psnr, []).extend([] if value is None else [value])
    return {psnr: float(np.median(own)) if own else None for psnr, own in found.items()}


def bd_rate(
    curve: Curve, baseline: Curve, low: float = -math.inf, high: float = math.inf
) -> float | None:
    """Bytes more (positive) or less than the baseline over a range of PSNR, as a part of them.

    Bjontegaard 2001 (VCEG-M33): exp(1 / (b - a) * integral from a to b of (ln R(D) - ln R0(D)) dD)
    - 1, with a and b the ends of the PSNR range that both curves have, here also within `low` and
    `high`. ln R(D) is a monotone piecewise cubic (PCHIP) through the measured points, as practice
    has it since the ITU's HSTP-VID-WPOM (2020), not the one cubic of 2001. None without a range.
    """
    (own, sizes), (other, others) = rising(curve), rising(baseline)
    if min(len(own), len(other)) < 2:
        return None
    start, end = max(low, own[0], other[0]), min(high, own[-1], other[-1])
    if start >= end:
        return None
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    at = start + (end - start) * (nodes + 1) / 2
    difference = pchip(own, sizes, at) - pchip(other, others, at)
    return float(math.expm1((difference * weights).sum() / 2))


def pchip(x: Floats, y: Floats, at: Floats) -> Floats:
    """Monotone piecewise cubic through points of rising `x`, two or more, evaluated inside them.

    Slopes: Fritsch and Butland 1984, the weighted harmonic mean of the neighbouring differences;
    at the ends a parabola's, limited as in Moler 2004, "Numerical Computing with MATLAB".
    """
    step = np.diff(x)
    rise = np.diff(y) / step
    slopes = np.zeros(len(x))
    weight = 2 * step[1:] + step[:-1], step[1:] + 2 * step[:-1]
    same = rise[:-1] * rise[1:] > 0
    before, after = (np.where(same, part, 1) for part in (rise[:-1], rise[1:]))
    slopes[1:-1] = np.where(
        same, (weight[0] + weight[1]) / (weight[0] / before + weight[1] / after), 0
    )
    slopes[0], slopes[-1] = _end(step, rise), _end(step[::-1], rise[::-1])
    place = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(step) - 1)
    width, t = step[place], (at - x[place]) / step[place]
    return (
        y[place] * (1 + 2 * t) * (1 - t) ** 2
        + y[place + 1] * t**2 * (3 - 2 * t)
        + width * t * (1 - t) * (slopes[place] * (1 - t) - slopes[place + 1] * t)
    )


def _end(step: Floats, rise: Floats) -> float:
    """Slope at the first point."""
    if len(step) < 2:
        return float(rise[0])
    slope = ((2 * step[0] + step[1]) * rise[0] - step[0] * rise[1]) / (step[0] + step[1])
    if slope * rise[0] <= 0:
        return 0.0
    crooked = rise[0] * rise[1] < 0 and abs(slope) > 3 * abs(rise[0])
    return float(3 * rise[0] if crooked else slope)
