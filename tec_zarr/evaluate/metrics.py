"""How far a decoded image is from its original, in digital numbers (reflectance * 10000)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    Pixels = NDArray[Any]

PEAK = 10000.0
"""Digital number of a reflectance of 1: the peak of every PSNR in this project."""


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """Errors of values that are data in both images; sums, so that parts can be added up.

    >>> first, second = (Distortion.between(np.array([0, 9]), np.array([0, n])) for n in (9, 12))
    >>> (first + second).max_error, round((first + second).psnr, 2)
    (3.0, 76.48)
    """

    count: int = 0
    """Values that were compared."""

    squares: float = 0.0
    """Sum of squared errors."""

    max_error: float = 0.0
    """Largest absolute error."""

    nodata_mismatches: int = 0
    """Values that are nodata in one of the images and data in the other."""

    @classmethod
    def between(
        cls, original: Pixels, decoded: Pixels, nodata: float | None = None, scale: float = 1.0
    ) -> Self:
        """Compare two arrays of one shape; `scale` is digital numbers per stored unit."""
        missing, lost = is_nodata(original, nodata), is_nodata(decoded, nodata)
        kept = ~(missing | lost)
        error = (decoded[kept].astype(np.float64) - original[kept]) * scale
        return cls(
            count=error.size,
            squares=float(np.square(error).sum()),
            max_error=float(np.abs(error).max(initial=0.0)),
            nodata_mismatches=int((missing != lost).sum()),
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(
            count=self.count + other.count,
            squares=self.squares + other.squares,
            max_error=max(self.max_error, other.max_error),
            nodata_mismatches=self.nodata_mismatches + other.nodata_mismatches,
        )

    @property
    def rmse(self) -> float:
        """Root mean square error; 0 where nothing was compared."""
        return math.sqrt(self.squares / max(1, self.count))

    @property
    def psnr(self) -> float:
        """Peak signal to noise ratio in dB; infinite without errors."""
        return math.inf if self.squares == 0 else 20 * math.log10(PEAK / self.rmse)


def is_nodata(values: Pixels, nodata: float | None) -> NDArray[np.bool_]:
    """True where an array holds no data; without a nodata value, nowhere."""
    if nodata is None:
        return np.zeros(values.shape, bool)
    return np.isnan(values) if math.isnan(nodata) else values == nodata


def nodata_of(frame: Pixels) -> int | None:
    """0 if pixels of a frame (band, y, x) have no data, which are 0 in all bands; else None.

    A 0 in single bands is a value: that of dark water, B09 above all.
    """
    return 0 if bool((frame == 0).all(axis=0).any()) else None


def spectral_angle(original: Pixels, decoded: Pixels, nodata: float | None = None) -> float:
    """Mean angle in degrees between the spectra of two images (..., band, y, x).

    Pixels count that are data in every band of both. NaN if there are none.
    """
    angles = spectral_angles(original, decoded, nodata)
    return float(angles.mean()) if angles.size else math.nan


def spectral_angles(
    original: Pixels, decoded: Pixels, nodata: float | None = None
) -> NDArray[np.float64]:
    """What `spectral_angle` takes the mean of: an angle for each pixel (Kruse et al. 1993)."""
    missing = is_nodata(original, nodata) | is_nodata(decoded, nodata)
    valid = ~missing.any(axis=-3)
    first, second = (
        np.moveaxis(image, -3, -1)[valid].astype(np.float64) for image in (original, decoded)
    )
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    dark = lengths == 0
    cosine = (first * second).sum(axis=-1)[~dark] / lengths[~dark]
    angles: NDArray[np.float64] = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return angles
