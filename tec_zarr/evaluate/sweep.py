"""Coding frames at several qualities, as one JSON schema for all codecs.

Bytes and errors are pooled over the frames of a source at one quality (`evaluate.tally`), and are
compared at equal PSNR (`evaluate.curves`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.evaluate.curves import Curve
from tec_zarr.evaluate.machine import machine, versions
from tec_zarr.evaluate.metrics import nodata_of
from tec_zarr.evaluate.tally import VERSION, Series, Tally, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[Any]
    Sources = Mapping[str, Sequence[Series]]
    Record = dict[str, Any]
    Coded = tuple[int, Pixels]
    FrameCodec = Callable[[Pixels, float], Coded]
    Codec = Callable[[Pixels, float], Coded]
    Meter = Callable[[Series, float], Tally]
    Progress = Callable[[str, float], None]


def tec(model: str, **options: Any) -> FrameCodec:  # noqa: ANN401 - passed on
    """A codec of frames (band, y, x): one frame is one chunk."""

    def codec(frame: Pixels, quality: float) -> Coded:
        own = TecConfig(model=model, quality=quality, nodata=nodata_of(frame), **options)
        chunk = encode_chunk(frame, own)
        return len(chunk), decode_chunk(chunk)

    return codec


def by_dates(codec: FrameCodec, dates: int) -> Codec:
    """A codec of series (time, band, y, x) that codes so many dates at a time."""

    def whole(series: Pixels, quality: float) -> Coded:
        parts = [series[at : at + dates] for at in range(0, len(series), dates)]
        sizes, decoded = zip(*(codec(part, quality) for part in parts), strict=True)
        return sum(sizes), np.concatenate(decoded)

    return whole


def by_frame(codec: FrameCodec) -> Codec:
    """A codec of series (time, band, y, x) that codes each frame by itself."""

    def whole(series: Pixels, quality: float) -> Coded:
        sizes, decoded = zip(*(codec(frame, quality) for frame in series), strict=True)
        return sum(sizes), np.stack(decoded)

    return whole


def meter(codec: Codec) -> Meter:
    """Code, decode, compare."""

    def measure(series: Series, quality: float) -> Tally:
        size, decoded = codec(series.data, quality)
        return tally(series, decoded, size)

    return measure


def remembered(measure: Meter, name: str, folder: Path) -> Meter:
    """A meter that keeps what it measured in `folder`, and finds it there the next time.

    `name` must tell all that the result depends on beside pixels and quality: codec, options,
    versions. One JSON file for each series and quality; stored ones are never replaced.
    """

    def look(series: Series, quality: float) -> Tally:
        path = folder / _key(series, name) / f"{quality:g}.json"
        if path.is_file():
            return Tally.from_dict(json.loads(path.read_text("utf-8")))
        found = measure(series, quality)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(found.to_dict()), "utf-8")
        unfinished.rename(path)
        return found

    return look


def _key(series: Series, name: str) -> str:
    data = series.data
    front = f"{VERSION} {name} {data.shape} {data.dtype.str} {series.bands}"
    digest = hashlib.sha256(front.encode())
    digest.update(data.tobytes())
    digest.update(series.kinds.tobytes())
    return digest.hexdigest()[:32]


def sweep(
    measure: Meter, qualities: Iterable[float], sources: Sources, progress: Progress | None = None
) -> dict[str, Curve]:
    """Curves by source. `progress` is told what comes next."""
    curves = {
        source: Curve(sum(series.data.size for series in own), sum(len(one.data) for one in own))
        for source, own in sources.items()
    }
    for quality in qualities:
        for source, own in sources.items():
            if progress:
                progress(source, quality)
            total = reduce(add, (measure(series, quality) for series in own))
            curves[source].add(quality, total, own[0].bands)
    return curves


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


def curves_of(entry: Mapping[str, Any]) -> dict[str, Curve]:
    """The curves of a record, by source."""
    return {source: Curve(**curve) for source, curve in entry["results"].items()}
