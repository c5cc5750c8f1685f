"""What a pixel shows, by simple spectral rules, and the vegetation index. No codec in here.

The rules are thresholds on reflectance from the literature. They sort errors into kinds of land
cover; they are no classification to map with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.evaluate.metrics import PEAK, is_nodata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Pixels = NDArray[Any]
    Floats = NDArray[np.float64]

KINDS = ("other", "snow", "cloud", "water", "vegetation", "built-up or bare")
"""Names of the kinds; the place of a name here is its number."""

NEEDED = ("B03", "B04", "B08", "B11")

SNOW_NDSI, SNOW_NIR = 0.4, 0.11  # Hall, Riggs and Salomonson 1995: snow, and not dark water
CLOUD_GREEN, CLOUD_SURE = 0.175, 0.39  # Braaten, Cohen and Yang 2015: bright in green
WATER_NDWI = 0.0  # McFeeters 1996
PLANTS_NDVI = 0.4  # Sobrino and others use 0.5 for full cover; 0.4 takes in crops
BUILT_NDBI = 0.0  # Zha, Gao and Ni 2003; bare soil looks the same


def kinds_of(frame: Pixels, bands: Sequence[str]) -> NDArray[np.uint8]:
    """The kind (y, x) of each pixel of a frame (band, y, x) in digital numbers.

    Everything is "other" if one of the bands B03, B04, B08 and B11 is absent.
    """
    kinds = np.zeros(frame.shape[1:], np.uint8)
    if not set(NEEDED) <= set(bands):
        return kinds
    green, red, infrared, short = (frame[bands.index(band)] / PEAK for band in NEEDED)
    snow = (ratio(green, short) > SNOW_NDSI) & (infrared > SNOW_NIR)
    bright = (green > CLOUD_GREEN) & (ratio(green, red) > 0)
    cloud = bright | (green > CLOUD_SURE)
    water = ratio(green, infrared) > WATER_NDWI
    plants = ratio(infrared, red) > PLANTS_NDVI
    built = ratio(short, infrared) > BUILT_NDBI
    rules = {"snow": snow, "cloud": cloud, "water": water}
    rules |= {"vegetation": plants, "built-up or bare": built}
    for name, holds in reversed(rules.items()):  # the first rule that holds decides
        kinds[holds] = KINDS.index(name)
    return kinds


def ratio(first: Pixels, second: Pixels) -> Floats:
    """Normalised difference (first - second) / (first + second); 0 where both are 0.

    >>> ratio(np.array([3, 0]), np.array([1, 0])).tolist()
    [0.5, 0.0]
    """
    one, two = first.astype(np.float64), second.astype(np.float64)
    total = one + two
    return np.divide(one - two, total, out=np.zeros_like(total), where=total != 0)


def ndvi_errors(
    original: Pixels, decoded: Pixels, bands: Sequence[str], nodata: float | None
) -> Floats:
    """Decoded minus true vegetation index of the pixels that have one in both; a flat array.

    NDVI = (B08 - B04) / (B08 + B04), Tucker 1979, of frames (band, y, x) without offset. Empty if
    one of the two bands is absent.
    """
    if not {"B04", "B08"} <= set(bands):
        return np.zeros(0)
    chosen = [bands.index("B08"), bands.index("B04")]
    pairs = [frame[chosen] for frame in (original, decoded)]
    known = ~np.any([is_nodata(pair, nodata).any(axis=0) for pair in pairs], axis=0)
    true, seen = (ratio(pair[0][known], pair[1][known]) for pair in pairs)
    return seen - true
