"""What a user has today, measured beside TEC. Needs the extra `evaluate` (imagecodecs)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
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
    return on_all_cores(lambda band: bytes(encode(band, **options)), bands)


def jpeg2000_decode(streams: Iterable[bytes], shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Inverse of `jpeg2000_encode`."""
    out = np.empty(shape, np.uint16)
    bands = out.reshape(-1, *shape[-2:])
    decode = codecs().jpeg2k_decode
    on_all_cores(lambda job: decode(job[1], out=job[0]), zip(bands, streams, strict=True))
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


def blosc() -> Blosc:
    """The lossless default of many archives: zstd, bit shuffling."""
    return Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE)


def on_all_cores(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Results of `work` in the order of the items; for work that lets go of Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))
