"""A fixed rotation of the band axis, the classical remedy for alike bands, before other codecs."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.evaluate.baselines import codecs
from tec_zarr.evaluate.metrics import PEAK, nodata_of
from tec_zarr.mask import fill

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Pixels = NDArray[Any]
    Floats = NDArray[np.float64]

MIDDLE, STEP = 32768, 4.0
"""How components, which have either sign and a wide range, become uint16 for JPEG 2000: an offset,
and digital numbers for each unit. Rounding to such units is heard at 79 dB only."""

OFFSETS = (8.5, 24.5)
"""Levels of JPEG 2000 lie that much above the PSNR at peak 10000 that they give, see
`baselines.LEVELS`; in the middle most often."""

NEAR = 0.25
"""A PSNR is reached well enough if it is missed by less than this, in dB."""

DIGITS = 6
"""The fit is rounded to these, so that it does not depend on the order of a machine's sums."""


@dataclass(frozen=True, eq=False)
class Klt:
    """Principal axes of spectra (Karhunen-Loeve transform). Frames in digital numbers."""

    mean: Floats
    """(band,)"""

    rotation: Floats
    """(component, band), orthonormal to 6 digits: a squared error of components is one of bands."""

    @property
    def name(self) -> str:
        """What identifies it: a hash of its numbers."""
        return hashlib.sha256(self.mean.tobytes() + self.rotation.tobytes()).hexdigest()[:16]

    def forward(self, frames: Pixels) -> Floats:
        """Components (..., component, y, x) of (..., band, y, x)."""
        centred = frames - self.mean[:, None, None]
        return np.einsum("cb,...byx->...cyx", self.rotation, centred, optimize=True)

    def backward(self, components: Pixels) -> NDArray[np.uint16]:
        """Inverse of `forward`, rounded."""
        centred = np.einsum("cb,...cyx->...byx", self.rotation, components, optimize=True)
        return to_uint16(centred + self.mean[:, None, None])

    def jpeg2000(self, frame: Pixels, psnr: float) -> tuple[int, NDArray[np.uint16]]:
        """Bytes of a frame (band, y, x) and what they decode to.

        `psnr` is what the frame is coded at, in dB at peak 10000, or a little more.
        All components go into one code stream: OpenJPEG then spends bits where they lower the error
        of the whole most, and one header serves all. Nodata is filled and its mask not counted.
        """
        planes = to_uint16(self.forward(filled(frame)) / STEP + MIDDLE)
        size, decoded = _at_psnr(planes, psnr)
        return size, self.backward((decoded - MIDDLE) * STEP)


def _at_psnr(planes: NDArray[np.uint16], psnr: float) -> tuple[int, Floats]:
    """The least level that reaches a PSNR, by bisection; if none does, the highest one.

    A level aims for a PSNR and misses it, by 10 dB where it leaves a smooth frame no bits at all.
    """
    low, high = (psnr + offset + 20 * math.log10(STEP) for offset in OFFSETS)
    found = _code(planes, high)
    while high - low > 0.1:
        middle = (low + high) / 2
        size, decoded = _code(planes, middle)
        error = STEP**2 * float(np.square(decoded - planes).mean())
        reached = 20 * math.log10(PEAK) - 10 * math.log10(max(error, 1e-9))
        if reached < psnr:
            low = middle
            continue
        found, high = (size, decoded), middle
        if reached < psnr + NEAR:
            break
    return found


def _code(planes: NDArray[np.uint16], level: float) -> tuple[int, Floats]:
    """One code stream (component, y, x): its bytes, and what it decodes to."""
    options = {"reversible": False, "codecformat": "j2k", "planar": True, "mct": False}
    stream = codecs().jpeg2k_encode(np.ascontiguousarray(planes), level=level, **options)
    return len(stream), np.asarray(codecs().jpeg2k_decode(stream, planar=True), np.float64)


def fit_klt(frames: Iterable[Pixels]) -> Klt:
    """The principal axes of all pixels of frames (band, y, x); give it training data only."""
    count, total, products = 0, np.zeros(1), np.zeros((1, 1))
    for frame in frames:
        part = frame.reshape(len(frame), -1).astype(np.float64)
        count += part.shape[1]
        total = total + part.sum(axis=1)
        products = products + part @ part.T
    mean = total / count
    _, axes = np.linalg.eigh(products / count - np.outer(mean, mean))
    rotation = axes.T[::-1] * np.sign(axes.sum(axis=0)[::-1, None])
    return Klt(np.round(mean, DIGITS), np.round(rotation, DIGITS))


def filled(frame: Pixels) -> Pixels:
    """A frame (band, y, x) in whose nodata there is something smooth that costs few bits."""
    if nodata_of(frame) is None:
        return frame
    return fill(frame[None].astype(np.float32), frame[None] == 0)[0]


def to_uint16(values: Floats) -> NDArray[np.uint16]:
    """Nearest values of uint16."""
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16)
