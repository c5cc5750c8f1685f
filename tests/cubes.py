"""Image cubes for tests, made of the sample patches: real pixels of any shape and dtype."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from tec_zarr import sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

Whatever = Any  # where a library's types say no more

PEAK = 10000
QUALITY = 44.0
WORST = 3 * PEAK / 10 ** (QUALITY / 20)
"""Root mean square error that no image may exceed at the default quality, in digital numbers."""


@lru_cache(maxsize=1)
def _patches() -> NDArray[np.uint16]:
    values: NDArray[np.uint16] = sample()["s2"].values
    return values


def pixels(shape: tuple[int, ...], dtype: str = "<u2") -> NDArray[Any]:
    """Digital numbers of shape (..., band, y, x), at most 12 bands; a 64th of it in uint8."""
    *leading, bands, height, width = shape
    repeats = (1, 1, -(-height // 240), -(-width // 240))
    mirrored = np.pad(_patches()[:, :bands], ((0, 0), (0, 0), (0, 120), (0, 120)), mode="symmetric")
    frames = np.tile(mirrored, repeats)[..., :height, :width]
    chosen = frames[np.arange(math.prod(leading)) % len(frames)].reshape(shape)
    if np.dtype(dtype).itemsize == 1:
        chosen = np.minimum(chosen // 64, 255)
    return chosen.astype(dtype)


def dataset(shape: tuple[int, ...] = (2, 12, 70, 90), dtype: str = "<u2") -> xr.Dataset:
    """A cube `s2` with the axes (..., band, y, x), a classification `scl` and coordinates."""
    dims = ("tile", "time", "band", "y", "x")[-len(shape) :]
    values = pixels(shape, dtype)
    return xr.Dataset(
        {
            "s2": (dims, values, {"long_name": "surface reflectance"}),
            "scl": (dims[:-3] + dims[-2:], (values[..., 0, :, :] % 11).astype("u1")),
        },
        coords={
            "band": np.array(sample()["band"].values[: shape[-3]], object),
            "y": 5000000 - 10.0 * np.arange(shape[-2]),
            "x": 300000 + 10.0 * np.arange(shape[-1]),
        },
        attrs={"title": "a cube"},
    )


def error(found: Whatever, expected: NDArray[Any], scale: float = 1.0) -> float:
    """Root mean square error over pixels that are data in both, in digital numbers."""
    difference = (found.astype(np.float64) - expected.astype(np.float64)) * scale
    return float(np.sqrt(np.nanmean(np.square(difference))))


def alike(found: Whatever, expected: Whatever) -> bool:
    """Whether two decodings agree as promised: within 1, whatever was batched with them."""
    if np.shape(found) != np.shape(expected):
        return False
    difference = np.asarray(found, np.float64) - np.asarray(expected, np.float64)
    return bool((np.abs(difference) <= 1).all())
