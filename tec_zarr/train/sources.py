"""Where training frames come from: indexed scenes, Zarr archives, folders of arrays.

Archives and .npy files are read where frames are cut out of them, never as a whole.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from tec_zarr.archive.stores import local, open_datasets, open_group
from tec_zarr.bands import S2L2A, resolve_bands
from tec_zarr.cube import codec_in
from tec_zarr.errors import ConfigError
from tec_zarr.images import derived_options, images
from tec_zarr.train.data import Scene, is_replicated, load_scenes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

    Read = Callable[[int, slice, slice], NDArray[Any]]
    """(frame, rows, columns) -> stored values (band, y, x)."""

log = logging.getLogger(__name__)

HELD_OUT = 10
"""One in this many scenes, rows or frames is held out."""

LOOK = 240
"""Side of what is looked at to see whether bands are replicated; a multiple of all factors."""

SUFFIXES = (".npy", ".npz")


class Split(NamedTuple):
    """Scenes to learn from, and others of the same kind to measure on."""

    training: list[Scene]
    held_out: list[Scene]


class Units(NamedTuple):
    """How stored values become digital numbers."""

    nodata: float | None = 0.0
    scale: float = 1.0
    offset: float = 0.0

    def numbers(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Digital numbers, at least 1, and 0 where there are none."""
        values = stored.astype(np.float64)
        missing = np.isnan(values)
        if self.nodata is not None:
            missing |= values == self.nodata
        numbers = np.maximum(values * self.scale + self.offset, 1)
        return np.where(missing, 0, numbers).astype(np.float32)


@dataclass(frozen=True, eq=False)
class LazyFrames:
    """Frames in digital numbers, read when they are cut: `frames[step, :, rows, columns]`."""

    read: Read
    order: NDArray[np.int64]
    """Places along the stored band axis of the bands that are used."""

    units: Units
    steps: range
    rows: range
    width: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frame, band, y, x)."""
        return len(self.steps), len(self.order), len(self.rows), self.width

    def __getitem__(self, place: tuple[int, slice, slice, slice]) -> NDArray[np.float32]:
        step, bands, rows, columns = place
        inside = self.rows[rows]
        stored = self.read(self.steps[step], slice(inside.start, inside.stop), columns)
        return self.units.numbers(np.asarray(stored)[self.order[bands]])

    def part(self, steps: slice, rows: slice) -> LazyFrames:
        """Some of the frames, some of their rows."""
        return replace(self, steps=self.steps[steps], rows=self.rows[rows])


def open_scenes(data: Path | str, crop: int) -> Split:
    """Scenes of a folder with an `index.json`, a Zarr archive, or a folder of arrays.

    - An index: see `data.load_scenes`; its split "validation" is held out, if it has one.
    - An archive: the images of all its groups by the rules of `tec_zarr.encoding`, with bands,
      nodata, scale and offset as their metadata say; bands that level 2A lacks are left out.
    - Arrays: .npy or .npz files of shape (..., band, y, x) in digital numbers, 0 or NaN is nodata;
      12 or 13 bands, or those that `bands` in an .npz names beside `data`.

    Else one in ten scenes is held out; of fewer scenes, the lowest tenth of the rows (at least
    `crop` of them), or of images too low for that one in ten frames. Raises ConfigError if there
    are no images, TecError if there is no such store.
    """
    folder = local(data)
    if folder is not None and (folder / "index.json").is_file():
        return _indexed(folder, crop)
    files = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
    files = [path for path in files if path.suffix in SUFFIXES]
    scenes = [_array_scene(path) for path in files] if files else list(_archived(data))
    if not scenes:
        raise ConfigError(f"{data} has no images of Sentinel-2: no axes (..., band, y, x)")
    return _held_out(scenes, crop)


def _indexed(folder: Path, crop: int) -> Split:
    training = load_scenes(folder)
    try:
        return Split(training, load_scenes(folder, "validation"))
    except ConfigError:
        return _held_out(training, crop)


def _archived(data: Path | str) -> Iterator[Scene]:
    root = open_group(data)
    for path, group in open_datasets(data).items():
        for name, image in images(group).items():
            where = f"{path}/{name}".lstrip("/")
            if codec_in(image.encoding):
                log.warning("%s is compressed with TEC: a model learns what that made of it", where)
            array = cast("zarr.Array[Any]", root[where])  # dask would cost more than reading
            yield from _scene(where, _reader(array), image.shape, derived_options(image, {}))


def _reader(array: zarr.Array[Any]) -> Read:
    leading = array.shape[:-3]

    def read(frame: int, rows: slice, columns: slice) -> NDArray[Any]:
        index = np.unravel_index(frame, leading) if leading else ()
        place: Any = (*map(int, index), slice(None), rows, columns)
        return np.asarray(array[place])

    return read


def _array_scene(path: Path) -> Scene:
    bands: tuple[str, ...] | None = None
    if path.suffix == ".npy":
        values = np.load(path, mmap_mode="r")
    else:
        with np.load(path) as file:
            if "data" not in file:
                raise ConfigError(f"{path} has no array `data`, only {sorted(file)}")
            values = file["data"]
            bands = tuple(map(str, file["bands"])) if "bands" in file else None
    if values.ndim < 3 or values.dtype.kind not in "iuf":
        raise ConfigError(f"{path} holds {values.dtype} {values.shape}, not (..., band, y, x)")
    flat = values.reshape(-1, *values.shape[-3:])

    def read(frame: int, rows: slice, columns: slice) -> NDArray[Any]:
        return np.asarray(flat[frame, :, rows, columns])

    found = list(_scene(path.name, read, values.shape, {"bands": bands}))
    if not found:
        raise ConfigError(f"{path} has no bands of level 2A: {bands}")
    return found[0]


def _scene(
    name: str, read: Read, shape: Sequence[int], options: Mapping[str, Any]
) -> Iterator[Scene]:
    """One scene, or none if there are no pixels or no bands to learn from."""
    *leading, count, height, width = shape
    bands = resolve_bands(options.get("bands"), count)
    used = sorted((S2L2A.index(band), i) for i, band in enumerate(bands) if band in S2L2A)
    steps = math.prod(leading)
    if not used or not steps * height * width:
        log.warning("%s has nothing to learn from", name)
        return
    nodata = options.get("nodata", 0.0)
    units = Units(
        None if nodata is None else float(nodata), options.get("scale", 1), options.get("offset", 0)
    )
    order, places = np.array([i for _, i in used]), np.array([place for place, _ in used])
    frames = LazyFrames(read, order, units, range(steps), range(height), width)
    weight = float(steps * height * width) ** 0.6  # as of indexed scenes
    yield Scene(frames, places, _looks_replicated(frames, places), weight)


def _looks_replicated(frames: LazyFrames, places: NDArray[np.int64]) -> bool:
    """Whether the middle of some frame with data is replicated as `is_replicated` says."""
    steps, _, height, width = frames.shape
    y, x = (max(0, size - LOOK) // 2 // LOOK * LOOK for size in (height, width))
    for step in range(0, steps, max(1, steps // 4)):
        cut = frames[step, :, slice(y, min(y + LOOK, height)), slice(x, min(x + LOOK, width))]
        if (cut > 0).all() and cut.std(axis=(1, 2)).all():
            return is_replicated(cut, places)
    return False


def _held_out(scenes: list[Scene], crop: int) -> Split:
    if len(scenes) >= HELD_OUT:
        kept = [scene for i, scene in enumerate(scenes) if i % HELD_OUT]
        return Split(kept, scenes[::HELD_OUT])
    pairs = [_parts(scene, crop) for scene in scenes]
    return Split([first for first, _ in pairs], [last for _, last in pairs])


def _parts(scene: Scene, crop: int) -> tuple[Scene, Scene]:
    """What is kept of a scene, and what is held out; of a single small frame both are all of it."""
    steps, _, height, _ = scene.frames.shape
    rows = max(-(-height // HELD_OUT), crop)
    if height >= 4 * rows:
        cut = (height - rows) // LOOK * LOOK or height - rows
        return _part(scene, rows=slice(cut)), _part(scene, rows=slice(cut, None))
    count = -(-steps // HELD_OUT)
    if steps > 1:
        return _part(scene, slice(steps - count)), _part(scene, slice(steps - count, steps))
    log.warning("a single image of %d rows is too small to hold out a part of it", height)
    return scene, scene


def _part(scene: Scene, steps: slice = slice(None), rows: slice = slice(None)) -> Scene:
    frames = scene.frames
    if isinstance(frames, LazyFrames):
        return replace(scene, frames=frames.part(steps, rows))
    return replace(scene, frames=frames[steps, :, rows])
