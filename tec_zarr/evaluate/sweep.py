"""Rate and distortion of a codec over qualities and frames, as one JSON schema for all codecs.

Bytes and errors are pooled over the frames of a source at one quality; points are compared at equal
PSNR. Where a comparison has no common range it has no value: nothing is extrapolated.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.evaluate.frames import NODATA
from tec_zarr.evaluate.machine import machine, versions
from tec_zarr.evaluate.metrics import Distortion, spectral_angle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Frame = NDArray[np.uint16]
    Frames = Mapping[str, Sequence[Frame]]
    Record = dict[str, Any]
    Codec = Callable[[Frame, float], tuple[int, NDArray[Any]]]
    Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Curve:
    """What the frames of one source cost at several qualities; lists of one length."""

    values: int
    """Pixels times bands of all frames."""

    quality: list[float] = field(default_factory=list)
    """As the codec calls it."""

    bytes: list[int] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)
    """Per pixel of one band."""

    psnr: list[float] = field(default_factory=list)
    """In dB at peak 10000, over valid values."""

    max_error: list[float] = field(default_factory=list)
    """In digital numbers."""

    spectral_angle: list[float] = field(default_factory=list)
    """Mean angle between the spectra of a pixel, in degrees."""

    nodata_mismatches: list[int] = field(default_factory=list)


def tec(model: str, **options: Any) -> Codec:  # noqa: ANN401 - passed on
    """A codec for `sweep`: one frame is one chunk."""

    def codec(frame: Frame, quality: float) -> tuple[int, NDArray[Any]]:
        chunk = encode_chunk(
            frame, TecConfig(model=model, quality=quality, nodata=NODATA, **options)
        )
        return len(chunk), decode_chunk(chunk)

    return codec


def sweep(
    codec: Codec,
    qualities: Iterable[float],
    frames: Frames,
    progress: Progress | None = None,
) -> dict[str, Curve]:
    """Curves by source. `progress` is told what comes next."""
    curves = {source: Curve(sum(frame.size for frame in own)) for source, own in frames.items()}
    for quality in qualities:
        for source, own in frames.items():
            if progress:
                progress(source, quality)
            _extend(curves[source], quality, [(frame, *codec(frame, quality)) for frame in own])
    return curves


def _extend(curve: Curve, quality: float, coded: Sequence[tuple[Frame, int, NDArray[Any]]]) -> None:
    size = sum(count for _, count, _ in coded)
    total = reduce(add, (Distortion.between(frame, seen, NODATA) for frame, _, seen in coded))
    angles = np.array([spectral_angle(frame, seen, NODATA) for frame, _, seen in coded])
    curve.quality.append(quality)
    curve.bytes.append(size)
    curve.bits.append(8 * size / curve.values)
    curve.psnr.append(total.psnr)
    curve.max_error.append(total.max_error)
    curve.spectral_angle.append(float(np.nan_to_num(angles).mean()))
    curve.nodata_mismatches.append(total.nodata_mismatches)


def bytes_at(curve: Curve, psnr: float) -> float | None:
    """Bytes at a PSNR, log-linear between measured points; None outside of them."""
    order = np.argsort(curve.psnr)
    known = np.array(curve.psnr)[order]
    if not known[0] <= psnr <= known[-1]:
        return None
    return float(math.exp(np.interp(psnr, known, np.log(np.array(curve.bytes)[order]))))


def times_smaller(
    curve: Curve, baseline: Curve, points: Iterable[float]
) -> dict[float, float | None]:
    """Bytes of the baseline over those of the codec at each PSNR; None where one lacks it."""
    pairs = {psnr: (bytes_at(baseline, psnr), bytes_at(curve, psnr)) for psnr in points}
    return {psnr: old / new if old and new else None for psnr, (old, new) in pairs.items()}


def medians(rows: Iterable[Mapping[float, float | None]]) -> dict[float, float | None]:
    """Median over sources at each PSNR, of those that have a value there."""
    found: dict[float, list[float]] = {}
    for row in rows:
        for psnr, value in row.items():
            found.setdefault(psnr, []).extend([] if value is None else [value])
    return {psnr: float(np.median(own)) if own else None for psnr, own in found.items()}


def record(
    name: str, description: str, results: Mapping[str, Curve], model_hash: str | None = None
) -> Record:
    """The JSON of a sweep; `model_hash` is the identity of the artifact, if there is one."""
    return {
        "name": name,
        "description": description,
        "model_hash": model_hash,
        "versions": versions(),
        "machine": machine(),
        "results": {source: asdict(curve) for source, curve in results.items()},
    }


def save(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as one JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1) + "\n", "utf-8")


def curves_of(entry: Mapping[str, Any]) -> dict[str, Curve]:
    """The curves of a record, by source."""
    return {source: Curve(**curve) for source, curve in entry["results"].items()}
