"""Training data: a folder of scenes, a folder of arrays, or any Zarr archive, read as it is needed.

Values become digital numbers by the same rules as in encoding (`tec_zarr.images`).
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from tec_zarr.archive.stores import local, open_datasets
from tec_zarr.config import TecConfig
from tec_zarr.cube import codec_in
from tec_zarr.errors import ConfigError
from tec_zarr.images import derived_options, images
from tec_zarr.train.blocks import HELD_OUT, Array, Block, block, blocks
from tec_zarr.train.scenes import load_scenes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import xarray as xr
    from numpy.typing import NDArray

    from tec_zarr.archive.stores import Location
    from tec_zarr.config import TecOptions
    from tec_zarr.train.scenes import Scene, Source

    Values = NDArray[Any]

log = logging.getLogger(__name__)

MOST_BLOCKS = 20_000
"""Blocks that a run looks at; of larger archives so many are drawn at random."""


def open_sources(
    place: Location, reading: TecOptions, crop: int, seed: int
) -> tuple[list[Source], list[Source]]:
    """Sources for training and for validation; the latter may be none.

    `place` is a folder with an `index.json` (see `data.load_scenes`), a folder of .npy and .npz
    files with arrays (..., band, y, x), or any store that xarray opens, whose images are meant (see
    `tec_zarr.encoding`). `reading` says what data do not say of themselves: bands, nodata, scale,
    offset. Validation is by place, file or span of time, never by neighbouring pixels.

    Raises ConfigError if there is no image or if values cannot be understood.
    """
    path = local(place)
    if path is not None and (path / "index.json").is_file():
        return list(load_scenes(path)), list(_validation_scenes(path))
    files = array_files(place)
    found = _of_files(files, reading, crop) if files else _of_archive(place, reading, crop)
    if len(found) > MOST_BLOCKS:
        chosen = np.random.default_rng(seed).choice(len(found), MOST_BLOCKS, replace=False)
        found = [found[index] for index in sorted(chosen)]
    return held_out(found, seed)


def fitting_crop(sources: Sequence[Source], crop: int, multiple: int) -> int:
    """The side of crops: `crop`, or less, a multiple of `multiple`, if the median block is smaller.

    Raises ConfigError for blocks that are too small.
    """
    sides = [min(source.size) for source in sources if isinstance(source, Block)]
    if not sides or (side := int(np.median(sides))) >= crop:
        return crop
    if side < multiple:
        raise ConfigError(f"images of {side} pixels are too small; {multiple} are needed")
    return side // multiple * multiple


def held_out(parts: Sequence[Block], seed: int) -> tuple[list[Source], list[Source]]:
    """Split by group; with a single one all is for training."""
    groups = sorted({part.group for part in parts})
    if len(groups) < 2:
        log.warning("too little data to hold some out for validation")
        return list(parts), []
    count = max(1, round(len(groups) / HELD_OUT))
    chosen = set(np.random.default_rng(seed).choice(groups, count, replace=False).tolist())
    kept = [part for part in parts if part.group not in chosen]
    return list(kept), [part for part in parts if part.group in chosen]


def _validation_scenes(folder: Path) -> list[Scene]:
    try:
        return load_scenes(folder, "validation")
    except ConfigError:
        return []


# Archives


def _of_archive(place: Location, reading: TecOptions, crop: int) -> list[Block]:
    found = [
        part
        for path, group in open_datasets(place).items()
        for name, image in images(group).items()
        for part in _of_image(f"{path}/{name}", image, reading, crop)
    ]
    if not found:
        raise ConfigError(
            f"{place} has no image with the axes (..., band, y, x); tec_zarr.stack_bands makes one"
            " of variables for single bands"
        )
    return found


def _of_image(name: str, image: xr.DataArray, reading: TecOptions, crop: int) -> Iterator[Block]:
    stored = codec_in(image.encoding)
    if stored is not None:
        log.warning("%s was compressed with TEC: what it lost, training cannot know", name)
        codec = replace(stored, **reading)
    else:
        codec = TecConfig(**derived_options(image, reading))
    chunks = image.chunks or tuple((size,) for size in image.shape)
    unit = (chunks[-2][0], chunks[-1][0])

    def read(index: tuple[Any, ...]) -> Values:
        return np.asarray(image[index].values)

    yield from blocks(Array(name, image.shape, unit, read), codec, crop)


# Folders of arrays


def array_files(place: Location) -> list[Path]:
    """The files of a folder of arrays; none if it is no such folder."""
    path = local(place)
    found = path.iterdir() if path is not None and path.is_dir() else ()
    return sorted(file for file in found if file.suffix in (".npy", ".npz"))


def _of_files(files: Sequence[Path], reading: TecOptions, crop: int) -> list[Block]:
    found = [part for path in files for part in _of_file(path, reading, crop)]
    if len(files) < 2:
        return found
    return [replace(part, group=part.group.split("#")[0]) for part in found]


def _of_file(path: Path, reading: TecOptions, crop: int) -> Iterator[Block]:
    values, bands = _opened(path)
    if values.ndim < 3 or values.dtype.kind not in "iuf":
        raise ConfigError(f"{path} holds {values.dtype} {values.shape}, no (..., band, y, x)")
    codec = _codec_of_values(path, values.dtype, bands, reading)

    def read(index: tuple[Any, ...]) -> Values:
        return np.array(_opened(path)[0][index])

    array = Array(path.name, values.shape, values.shape[-2:], read)
    if path.suffix == ".npy":
        yield from blocks(array, codec, crop)
    else:  # reading a part of it costs as much as reading all
        yield block(array, codec, (Ellipsis,), array.name)


def _opened(path: Path) -> tuple[Values, Sequence[str] | None]:
    """The images in a file, mapped into memory if it is .npy, and the names of their bands."""
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r"), None
        with np.load(path) as file:
            return _members(file, path)
    except (OSError, ValueError, EOFError, BadZipFile) as err:
        if isinstance(err, ConfigError):
            raise
        raise ConfigError(f"{path} is no file of NumPy arrays: {err}") from err


def _members(file: Mapping[str, Values], path: Path) -> tuple[Values, Sequence[str] | None]:
    """The images in an .npz file, and the names of their bands if it has them."""
    names = [name for name in file if name != "bands"]
    chosen = "data" if "data" in names else names[0] if len(names) == 1 else None
    if chosen is None:
        raise ConfigError(f"{path} holds {names}: call the images 'data'")
    bands = [str(name) for name in file["bands"]] if "bands" in file else None
    return file[chosen], bands


def _codec_of_values(
    path: Path, dtype: np.dtype[Any], bands: Sequence[str] | None, reading: TecOptions
) -> TecConfig:
    if dtype.kind == "f" and "scale" not in reading:
        raise ConfigError(
            f"{path} holds {dtype} without saying of what: give scale=10000 if the values are"
            " reflectances (0..1), scale=1 if they are digital numbers"
        )
    own: TecOptions = {"nodata": math.nan if dtype.kind == "f" else 0, "bands": bands}
    return TecConfig(**own | reading)
