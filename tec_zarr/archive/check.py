"""Whether every chunk of a store can be read, and how far it is from its source."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.archive.chunks import codec_of, is_direct, objects, places
from tec_zarr.archive.models import check_model
from tec_zarr.archive.stores import arrays_of, open_group
from tec_zarr.carried import carried
from tec_zarr.codec import decode_chunk
from tec_zarr.errors import FormatError
from tec_zarr.evaluate.metrics import Distortion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tec_zarr.archive.chunks import Array, Place, Stored
    from tec_zarr.archive.stores import Location, Progress
    from tec_zarr.config import TecConfig

    Values = NDArray[Any]


TEXT = "OTU"
"""Kinds of dtypes that hold text; which one it is depends on the versions of xarray and zarr."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong."""

    array: str
    place: str
    """The part of the array, in pixels, and the object that holds it; "" for all of it."""

    message: str

    def __str__(self) -> str:
        return f"{self.array}{self.place}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class ArrayReport:
    """What was found out about an array."""

    name: str
    lossy: bool
    """Whether it, or what it was made of, is compressed with TEC, so that they may differ."""

    read: int
    """Chunks that were read without a complaint."""

    missing: int
    """Chunks that are not stored, which is how Zarr writes chunks that are all fill value."""

    problems: tuple[Problem, ...]
    distortion: Distortion | None
    """Against the source, in digital numbers; None without one, and where nothing may differ."""


@dataclass(frozen=True)
class Report:
    """What was found out about a store."""

    arrays: tuple[ArrayReport, ...]
    absent: tuple[Problem, ...] = ()
    """Arrays of the source that the store lacks."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All there are, of all arrays."""
        return (*self.absent, *chain.from_iterable(array.problems for array in self.arrays))


def verify(
    place: Location, source: Location | None = None, progress: Progress | None = None
) -> Report:
    """Read every chunk of a store, check all its checksums, and compare it with its source.

    The models that it carries are compared with their hashes. Whatever is damaged is reported, and
    the rest is checked all the same. Arrays without TEC are read as well, and must equal those of
    the source. Raises TecError only if one of the stores cannot be opened.
    """
    group = open_group(place)
    arrays, models = arrays_of(group), carried(group)
    originals = {} if source is None else arrays_of(open_group(source))
    total = sum(1 for array in arrays.values() for _ in objects(array)) + len(models)
    count = _Counter(total, progress)
    reports = [
        _verify_array(_Pair(name, array, originals.get(name)), count)
        for name, array in arrays.items()
    ]
    reports += [_verify_model(name, array, count) for name, array in models.items()]
    lost = sorted(originals.keys() - arrays.keys())
    return Report(tuple(reports), tuple(Problem(name, "", "is not in the store") for name in lost))


@dataclass
class _Counter:
    """Tells how far the work is, from several threads."""

    total: int
    progress: Progress | None
    done: int = 0
    guard: Lock = field(default_factory=Lock)

    def step(self) -> None:
        with self.guard:
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)


@dataclass(frozen=True)
class _Chunk:
    """What was found out about a chunk."""

    stored: bool = True
    problem: Problem | None = None
    distortion: Distortion | None = None


@dataclass(frozen=True)
class _Pair:
    """An array, and what it was made of."""

    name: str
    array: Array
    original: Array | None

    def problem(self, place: object, message: object) -> Problem:
        return Problem(self.name, str(place), str(message))

    def codec(self) -> TecConfig | None:
        """The codec of the array or of its original: pixels need not be equal then."""
        own = codec_of(self.array)
        return own if own or self.original is None else codec_of(self.original)

    def unlike(self) -> list[Problem]:
        """Why the two cannot be compared."""
        array, original = self.array, self.original
        if original is None or _form(array) == _form(original):
            return []
        kinds = f"{array.dtype} {array.shape}, in the source {original.dtype} {original.shape}"
        return [self.problem("", f"is {kinds}: not compared")]


def _verify_model(name: str, array: Array, count: _Counter) -> ArrayReport:
    problems: tuple[Problem, ...] = ()
    try:
        check_model(name, array)
    except Exception as err:  # noqa: BLE001 - other codecs raise what they like; check the rest
        problems = (Problem(name, "", str(err)),)
    count.step()
    read = 0 if problems else 1
    return ArrayReport(
        name=name, lossy=False, read=read, missing=0, problems=problems, distortion=None
    )


def _verify_array(pair: _Pair, count: _Counter) -> ArrayReport:
    problems = pair.unlike()
    if problems:
        pair = _Pair(pair.name, pair.array, None)

    def check(stored: Stored) -> list[_Chunk]:
        found = _verify_object(pair, stored)
        count.step()
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = list(chain.from_iterable(pool.map(check, objects(pair.array))))
    problems += [chunk.problem for chunk in chunks if chunk.problem]
    compared = [chunk.distortion for chunk in chunks if chunk.distortion]
    distortion = sum(compared, Distortion()) if compared else None
    if distortion and distortion.nodata_mismatches:
        message = f"{distortion.nodata_mismatches} values changed between data and nodata"
        problems.append(pair.problem("", message))
    return ArrayReport(
        name=pair.name,
        lossy=pair.codec() is not None,
        read=sum(chunk.stored and not chunk.problem for chunk in chunks),
        missing=sum(not chunk.stored for chunk in chunks),
        problems=tuple(problems),
        distortion=distortion,
    )


def _verify_object(pair: _Pair, stored: Stored) -> list[_Chunk]:
    try:
        found = places(pair.array, stored)
    except FormatError as err:
        return [_Chunk(problem=pair.problem(f" {stored.key}", err))]
    return [_verify_chunk(pair, place) for place in found]


def _verify_chunk(pair: _Pair, place: Place) -> _Chunk:
    try:
        values = _decoded(pair.array, place)
    except Exception as err:  # noqa: BLE001 - other codecs raise what they like; check the rest
        return _Chunk(problem=pair.problem(place, err))
    stored = values is not None
    if pair.original is None:
        return _Chunk(stored)
    if values is None:
        values = _read(pair.array, place.region)
    try:
        original = _read(pair.original, place.region)
    except Exception as err:  # noqa: BLE001 - as above
        return _Chunk(stored, pair.problem(place, f"the source cannot be read: {err}"))
    return _compared(pair, place, _Chunk(stored), original, values)


def _decoded(array: Array, place: Place) -> Values | None:
    """The values of a chunk, or None if it is not stored."""
    if not is_direct(array):
        return None if place.read(array, 1) is None else _read(array, place.region)
    data = place.read(array)
    if data is None:
        return None
    chunk = decode_chunk(data)
    if chunk.shape != array.chunks or chunk.dtype.newbyteorder("=") != array.dtype.newbyteorder(
        "="
    ):
        raise FormatError(f"holds {chunk.dtype} {chunk.shape}: it belongs to another array")
    return chunk[tuple(slice(part.stop - part.start) for part in place.region)]


def _compared(pair: _Pair, place: Place, chunk: _Chunk, original: Values, values: Values) -> _Chunk:
    codec = pair.codec()
    if codec:
        found = Distortion.between(original, values, codec.nodata_value, abs(codec.scale))
        return replace(chunk, distortion=found)
    if np.array_equal(original, values, equal_nan=values.dtype.kind in "fc"):
        return chunk
    return replace(chunk, problem=pair.problem(place, "differs from the source"))


def _read(array: Array, region: tuple[slice, ...]) -> Values:
    values = np.asarray(array[region])
    return values.astype(object) if values.dtype.kind in TEXT else values


def _form(array: Array) -> tuple[object, ...]:
    """What two arrays must have in common to be compared; text is text."""
    return array.shape, "text" if array.dtype.kind in TEXT else array.dtype
