"""What a user has today, measured beside TEC. Needs the extra `evaluate` (imagecodecs)."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs import Blosc

from tec_zarr.errors import TecError
from tec_zarr.evaluate.metrics import Distortion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

    from numpy.typing import NDArray

    Pixels = NDArray[Any]

LEVELS = (20.0, 90.0)
"""Where every useful level lies. OpenJPEG aims for a PSNR at peak 65535 and does not quite get it:
at peak 10000 the PSNR of satellite images is some 16 to 18 dB below the level."""

MIDDLE, STEP = 32768, 4.0
"""How components, which have either sign and a wide range, become uint16: an offset, and digital
numbers for each unit. Rounding to such units is heard at 79 dB only."""


def codecs() -> ModuleType:
    """imagecodecs; TecError if it is not installed."""
    try:
        import imagecodecs
    except ImportError as err:
        raise TecError("baselines need the extra: pip install 'tec-zarr[evaluate]'") from err
    return imagecodecs


def jpeg2000_encode(frames: Pixels, level: float) -> list[bytes]:
    """Code every band of uint16 images (..., y, x) by itself; all cores work.

    Irreversible wavelet, bare code streams; `level` is the PSNR in dB at peak 65535 that OpenJPEG
    aims for, the same for all bands.
    """
    encode = codecs().jpeg2k_encode
    options = {"level": level, "reversible": False, "codecformat": "j2k"}
    bands = np.ascontiguousarray(frames).reshape(-1, *frames.shape[-2:])
    return _on_all_cores(lambda band: bytes(encode(band, **options)), bands)


def jpeg2000_decode(streams: Iterable[bytes], shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Inverse of `jpeg2000_encode`."""
    out = np.empty(shape, np.uint16)
    bands = out.reshape(-1, *shape[-2:])
    decode = codecs().jpeg2k_decode
    _on_all_cores(lambda job: decode(job[1], out=job[0]), zip(bands, streams, strict=True))
    return out


def jpeg2000(frame: Pixels, level: float) -> tuple[int, NDArray[np.uint16]]:
    """Bytes of all code streams of a frame, and what they decode to."""
    streams = jpeg2000_encode(frame, level)
    return sum(map(len, streams)), jpeg2000_decode(streams, frame.shape)


def jpeg2000_level(images: Pixels, psnr: float) -> float:
    """The level whose PSNR (peak 10000) on these images is at least `psnr`, to 0.1."""
    low, high = LEVELS
    while high - low > 0.1:
        middle = (low + high) / 2
        found = Distortion.between(images, jpeg2000(images, middle)[1]).psnr
        low, high = (middle, high) if found < psnr else (low, middle)
    return high


@dataclass(frozen=True, eq=False)
class Klt:
    """A fixed rotation of the band axis, and JPEG 2000 of what it gives."""

    mean: NDArray[np.float64]
    """(band,)"""

    rotation: NDArray[np.float64]
    """(component, band), orthonormal."""

    def __call__(self, frame: Pixels, level: float) -> tuple[int, NDArray[np.uint16]]:
        """Bytes of a frame (band, y, x) and what they decode to; one level for all components."""
        centred = frame - self.mean[:, None, None]
        components = np.tensordot(self.rotation, centred, 1) / STEP + MIDDLE
        size, decoded = jpeg2000(_to_uint16(components), level + 20 * math.log10(STEP))
        back = np.tensordot(self.rotation.T, (decoded.astype(np.float64) - MIDDLE) * STEP, 1)
        return size, _to_uint16(back + self.mean[:, None, None])


def fit_klt(frames: Iterable[Pixels]) -> Klt:
    """The principal axes of all pixels of frames (band, y, x); give it training data only."""
    spectra = [frame.reshape(len(frame), -1).astype(np.float64) for frame in frames]
    count = sum(part.shape[1] for part in spectra)
    mean = sum((part.sum(axis=1) for part in spectra), np.zeros(1)) / count
    products = sum((part @ part.T for part in spectra), np.zeros(1)) / count
    _, axes = np.linalg.eigh(products - np.outer(mean, mean))
    return Klt(mean, axes.T[::-1])


def blosc() -> Blosc:
    """The lossless default of many archives: zstd, bit shuffling."""
    return Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE)


def _to_uint16(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16)


def _on_all_cores(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))
