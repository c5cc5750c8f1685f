"""All errors of decoded frames as sums that can be added up: over frames, over sources."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.evaluate.landcover import KINDS, kinds_of, ndvi_errors
from tec_zarr.evaluate.metrics import is_nodata, nodata_of, spectral_angles
from tec_zarr.evaluate.ssim import SIDE, blur, ssim_map
from tec_zarr.mask import keep_valid
from tec_zarr.tiling import plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from numpy.typing import NDArray

    Pixels = NDArray[Any]
    Floats = NDArray[np.float64]

VERSION = 2
"""Counts changes of what a tally holds: stored ones of another version are not used."""

TILE = 256
"""Side of the tiles whose borders are looked at, in pixels: the codec's default."""

NEAR = 8
"""So many pixels to either side of a border are near it."""

INTERIOR, INNER, EDGE = range(3)
"""Places: far from borders, near one between two tiles, near one of the chunk only."""


class Series(NamedTuple):
    """Frames of one place, in the order of time, and what their pixels show."""

    data: Pixels
    """(time, band, y, x) in digital numbers."""

    bands: tuple[str, ...]

    kinds: NDArray[np.uint8]
    """(time, y, x), places in `KINDS`."""

    @classmethod
    def of(cls, data: Pixels, bands: Sequence[str]) -> Self:
        """A series (time, band, y, x) whose kinds the spectral rules tell."""
        return cls(data, tuple(bands), np.stack([kinds_of(frame, bands) for frame in data]))

    def only(self, bands: Sequence[str]) -> Self:
        """The same pixels in some of the bands; the kinds stay those of all bands."""
        chosen = self.data[:, [self.bands.index(band) for band in bands]]
        return self._replace(data=np.ascontiguousarray(chosen), bands=tuple(bands))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """Sums of errors; `first + second` is the tally of both together. Units: digital numbers."""

    bytes: int
    counts: Floats
    """(band,): values that are data in both images; `squares` likewise."""
    squares: Floats
    similarities: Floats
    """(band,): sum of SSIM over windows without nodata, and how many they are."""
    windows: Floats
    kind_counts: Floats
    """(kind,): as `counts` and `squares`, over all bands."""
    kind_squares: Floats
    place_counts: Floats
    """(place,): likewise, by distance from borders."""
    place_squares: Floats
    angles: Floats
    """(2,): sum of spectral angles in degrees, number of pixels."""
    indices: Floats
    """(3,): sums of absolute and of squared errors of NDVI, number of pixels."""
    mismatches: int
    """Values that are nodata in one of the images only."""
    max_error: float

    def __add__(self, other: Self) -> Self:
        both = {
            each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)
        }
        return type(self)(**both | {"max_error": max(self.max_error, other.max_error)})

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {each.name: np.asarray(getattr(self, each.name)).tolist() for each in fields(self)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        listed = {name: np.array(value, np.float64) for name, value in stored.items()}
        return cls(**listed | {k: v for k, v in stored.items() if not isinstance(v, list)})


def tally(series: Series, decoded: Pixels, size: int) -> Tally:
    """Compare a series with what `size` bytes decode to, an array of the shape of its data.

    Where a frame has nodata (`metrics.nodata_of`), codecs that know none get the mask for nothing:
    no value of theirs is nodata elsewhere, so that no error of a dark pixel is overlooked, and
    their errors under the mask do not count. Other frames are values throughout, for all codecs.
    """
    total = _tally(series, 0, decoded[0], size)
    for frame in range(1, len(decoded)):
        total += _tally(series, frame, decoded[frame], 0)
    return total


def places(height: int, width: int) -> NDArray[np.uint8]:
    """Which of INTERIOR, INNER and EDGE each pixel (y, x) of a chunk is."""
    at = np.full((height, width), EDGE, np.uint8)
    at[NEAR:-NEAR, NEAR:-NEAR] = INTERIOR
    for tile in plan(height, width, TILE):  # tiles form a grid: their borders run all through
        if tile.y:
            at[tile.y - NEAR : tile.y + NEAR] = INNER
        if tile.x:
            at[:, tile.x - NEAR : tile.x + NEAR] = INNER
    return at


def _tally(series: Series, frame: int, decoded: Pixels, size: int) -> Tally:
    original = series.data[frame]
    nodata = nodata_of(original)
    missing, lost = is_nodata(original, nodata), is_nodata(decoded, nodata)
    kept, decoded = ~missing, decoded.copy()
    if nodata is not None:
        keep_valid(decoded, missing, nodata)
    error = decoded.astype(np.float64) - original
    squared = np.square(error)
    height, width = original.shape[1:]
    sums = {"kind": series.kinds[frame], "place": places(height, width)}
    similarities, windows = _similarities(original, decoded, kept)
    angles = spectral_angles(original, decoded, nodata)
    ndvi = ndvi_errors(original, decoded, series.bands, nodata)
    return Tally(
        bytes=size,
        counts=kept.sum(axis=(1, 2), dtype=np.float64),
        squares=squared.sum(axis=(1, 2)),
        similarities=similarities,
        windows=windows,
        kind_counts=_sort(kept, sums["kind"], len(KINDS)),
        kind_squares=_sort(squared, sums["kind"], len(KINDS)),
        place_counts=_sort(kept, sums["place"], EDGE + 1),
        place_squares=_sort(squared, sums["place"], EDGE + 1),
        angles=np.array([angles.sum(), angles.size]),
        indices=np.array([np.abs(ndvi).sum(), np.square(ndvi).sum(), ndvi.size]),
        mismatches=int((missing != lost).sum()),
        max_error=float(np.abs(error).max(initial=0.0)),
    )


def _sort(values: Pixels, labels: NDArray[np.uint8], count: int) -> Floats:
    """Sums of values (band, y, x) by label (y, x)."""
    weights = values.sum(axis=0, dtype=np.float64)
    return np.bincount(labels.ravel(), weights.ravel(), count).astype(np.float64)


def _similarities(
    original: Pixels, decoded: Pixels, kept: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Sums of SSIM over the windows of each band that hold data only, and their numbers."""
    sums, counts = np.zeros(len(original)), np.zeros(len(original))
    if min(original.shape[1:]) < SIDE:
        return sums, counts
    for band, valid in enumerate(kept):
        similarity = ssim_map(original[band], decoded[band])
        if not valid.all():
            similarity = similarity[blur((~valid).astype(np.float32)) == 0]
        sums[band], counts[band] = similarity.sum(dtype=np.float64), similarity.size
    return sums, counts
