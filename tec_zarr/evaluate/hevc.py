"""x265 with 12 bits a sample, dates as frames of a video. Needs the extra `hevc` (PyAV)."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.errors import TecError
from tec_zarr.evaluate.baselines import on_all_cores
from tec_zarr.evaluate.klt import filled, to_uint16

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from tec_zarr.evaluate.klt import Klt

    Pixels = NDArray[Any]
    Planes = NDArray[np.uint16]
    Coded = tuple[int, NDArray[np.uint16]]

TOP = 4095
"""Largest sample of 12 bits."""

FINEST = 4
"""Digital numbers for each unit of a plane of 12 bits that holds them all: most bands. Rounding to
such units is heard at 79 dB only."""

LOWEST, HIGHEST = 0, 51
"""Quantisers of x265. A step of 6 doubles the step of quantisation."""

SMALLEST = 16
"""x265 takes no planes of fewer pixels along an axis."""

SMALLEST_VIDEO = 96
"""With less, x265 of PyAV 18.1 now and then makes a false second frame, each time another one."""

PRESET = "slow"
"""In a trial on one band "veryslow" gave the same bytes at equal PSNR, "medium" up to 2 % more."""

TUNE = "psnr"
"""No adaptive and psychovisual quantisation: saved 2 % at equal PSNR in the same trial."""

PARAMETERS = "qp={}:pools=none:frame-threads=1:wpp=0:info=0:log-level=none:keyint=-1:scenecut=0"

FIRST_OF_PARAMETER_SETS = 32  # H.265, table 7-1: lower types of NAL units hold slices


class Samples(NamedTuple):
    """A plane (time, y, x) as x265 gets it: values = samples * unit + offset."""

    samples: Planes
    unit: int
    offset: int


def av() -> ModuleType:
    """PyAV; TecError if it is not installed or without x265 in 12 bits."""
    try:
        import av
    except ImportError as err:
        raise TecError("x265 needs the extra: pip install 'tec-zarr[hevc]'") from err
    codec = av.codec.Codec("libx265", "w") if "libx265" in av.codecs_available else None
    if not codec or "gray12le" not in {layout.name for layout in codec.video_formats or ()}:
        raise TecError("this build of PyAV has no x265 with 12 bits: take the wheel of PyPI")
    return av


def name() -> str:
    """What the bytes depend on: version and options."""
    return f"x265 of PyAV {av().__version__} {PRESET} {TUNE} {PARAMETERS} {FINEST}"


def x265(series: Pixels, quality: float) -> Coded:
    """Bytes of a series (time, band, y, x) and what they decode to; every band is a video.

    `quality` is the quantiser: the lower, the better. Nodata is filled; its mask, units and
    offsets are not counted, parameter sets that videos share only once.
    """
    images = np.stack([filled(frame) for frame in series]).astype(np.float64)
    size, decoded = _code(images, quality)
    return size, to_uint16(decoded)


def klt_x265(klt: Klt, series: Pixels, quality: float) -> Coded:
    """As `x265`, for the components of a fixed rotation of the bands."""
    components = klt.forward(np.stack([filled(frame) for frame in series]))
    size, decoded = _code(components, quality)
    return size, klt.backward(decoded)


def _code(planes: NDArray[np.float64], quality: float) -> tuple[int, NDArray[np.float64]]:
    """Code each plane of (time, plane, y, x) in units of its own, alike in the error they make."""

    def work(plane: NDArray[np.float64]) -> tuple[bytes, NDArray[np.float64]]:
        samples, unit, offset = to_samples(plane)
        quantiser = quality - 6 * np.log2(unit / FINEST)
        stream = encode(samples, int(np.clip(np.rint(quantiser), LOWEST, HIGHEST)))
        return stream, decode(stream, samples.shape).astype(np.float64) * unit + offset

    streams, decoded = zip(*on_all_cores(work, planes.swapaxes(0, 1)), strict=True)
    return size_of(streams), np.stack(decoded, axis=1)


def to_samples(plane: Pixels) -> Samples:
    """Values as 12-bit samples, in the smallest unit, 4 * 2^n, in which their range fits."""
    offset, unit = int(np.floor(plane.min())), FINEST
    while np.rint((plane.max() - offset) / unit) > TOP:
        unit *= 2
    return Samples(np.rint((plane - offset) / unit).astype(np.uint16), unit, offset)


def encode(planes: Planes, quantiser: int) -> bytes:
    """One H.265 stream of planes (time, y, x) of 12-bit samples; small ones are continued.

    TecError for several planes that x265 makes mistakes with.
    """
    if len(planes) > 1 and min(planes.shape[1:]) < SMALLEST_VIDEO:
        raise TecError(f"x265 errs on videos below {SMALLEST_VIDEO} pixels, got {planes.shape}")
    context = av().codec.CodecContext.create("libx265", "w")
    margins = [(0, max(0, SMALLEST - side)) for side in planes.shape[1:]]
    padded = np.pad(planes, [(0, 0), *margins], mode="edge")
    context.height, context.width = padded.shape[1:]
    context.pix_fmt, context.framerate = "gray12le", 25
    context.time_base = Fraction(1, 25)
    context.options = {
        "preset": PRESET, "tune": TUNE, "x265-params": PARAMETERS.format(quantiser),
    }  # fmt: skip
    packets = []
    for time, plane in enumerate(padded):
        frame = av().VideoFrame.from_ndarray(plane, format="gray12le")
        frame.pts = time
        packets += context.encode(frame)
    return b"".join(bytes(packet) for packet in [*packets, *context.encode(None)])


def decode(stream: bytes, shape: tuple[int, ...]) -> Planes:
    """Inverse of `encode`, but for the loss."""
    context = av().codec.CodecContext.create("hevc", "r")
    context.thread_count = 1
    packets = [*context.parse(stream), *context.parse(b""), None]
    frames = [frame.to_ndarray() for packet in packets for frame in context.decode(packet)]
    planes: Planes = np.stack(frames)[:, : shape[1], : shape[2]]
    return planes


def size_of(streams: Sequence[bytes]) -> int:
    """Bytes of all streams; parameter sets that are the same in several count once."""
    units = [unit for stream in streams for unit in nal_units(stream)]
    slices = [unit for unit in units if unit[0] >> 1 & 63 < FIRST_OF_PARAMETER_SETS]
    shared = {unit for unit in units if unit[0] >> 1 & 63 >= FIRST_OF_PARAMETER_SETS}
    return sum(3 + len(unit) for unit in [*slices, *shared])


def nal_units(stream: bytes) -> Iterator[bytes]:
    """The units of a stream (H.265, annex B), without their start codes."""
    for part in stream.split(b"\0\0\1")[1:]:
        yield part.rstrip(b"\0")
