"""Structural similarity of single bands. One scale, no colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.evaluate.metrics import PEAK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[Any]
    Floats = NDArray[np.float32]

# Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment: from error visibility to
# structural similarity": an 11 x 11 Gaussian window and two constants against division by zero.
SIDE, SIGMA = 11, 1.5
LUMINANCE = np.float32((0.01 * PEAK) ** 2)
CONTRAST = np.float32((0.03 * PEAK) ** 2)


def ssim_map(original: Pixels, decoded: Pixels) -> Floats:
    """SSIM of each window of two images (y, x) in digital numbers, data range 10000.

    Windows lie inside the image: the map is (y - 10, x - 10), empty for smaller images. As in the
    paper, variances are those of the weighted window, not of a sample.

    >>> float(ssim_map(np.full((11, 11), 300), np.full((11, 11), 300))[0, 0])
    1.0
    """
    middle = np.float32(original.mean()) if original.size else np.float32(0)  # spares digits
    first, second = (image.astype(np.float32) - middle for image in (original, decoded))
    products = (first, second, first * first, second * second, first * second)
    mean1, mean2, square1, square2, product = blur(np.stack(products))
    variances = square1 - mean1 * mean1 + square2 - mean2 * mean2
    structure = 2 * (product - mean1 * mean2) + CONTRAST
    mean1 += middle
    mean2 += middle
    luminance = (2 * mean1 * mean2 + LUMINANCE) / (mean1 * mean1 + mean2 * mean2 + LUMINANCE)
    seen: Floats = luminance * structure / (variances + CONTRAST)
    return seen


def blur(images: Floats) -> Floats:
    """Weighted means of all windows of images (..., y, x): (..., y - 10, x - 10)."""
    offsets = np.arange(SIDE) - SIDE // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = (weights / weights.sum()).astype(np.float32)
    height, width = (max(0, size - SIDE + 1) for size in images.shape[-2:])
    rows = np.zeros((*images.shape[:-2], height, images.shape[-1]), np.float32)
    for place, weight in enumerate(weights):
        rows += weight * images[..., place : place + height, :]
    means = np.zeros((*images.shape[:-2], height, width), np.float32)
    for place, weight in enumerate(weights):
        means += weight * rows[..., place : place + width]
    return means
