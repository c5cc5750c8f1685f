"""Opening stores for reading and making new ones that exist whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
import zarr
from packaging.version import Version
from zarr.errors import BaseZarrError

from tec_zarr.carried import is_carried
from tec_zarr.errors import ConfigError, TecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Location = Any  # a path, an address or any store of zarr
    Progress = Callable[[int, int], None]
    """Called with how much is done and how much there is to do, from any thread."""

NEEDED = "xarray 2025.6"
OPENS_FILL_VALUES = Version(xr.__version__) >= Version("2025.6")
"""Older releases cannot open format 3 with a `_FillValue` under zarr 3.1."""

UNREADABLE = (BaseZarrError, OSError, ValueError, KeyError, TypeError, AttributeError)
"""What xarray and zarr raise for stores that they cannot open."""


def local(place: Location) -> Path | None:
    """The path of a store in the file system, or None for addresses and other stores."""
    if isinstance(place, str) and "://" not in place:
        return Path(place)
    return place if isinstance(place, Path) else None


def open_group(place: Location) -> zarr.Group:
    """Open a store for reading; TecError if it is none."""
    path = local(place)
    if path is not None and not path.exists():
        raise TecError(f"{path} does not exist")
    try:
        found = zarr.open(place, mode="r")
    except UNREADABLE as err:
        detail = "" if isinstance(err, FileNotFoundError) else f": {err}"
        raise TecError(f"{place} is no Zarr store{detail}") from err
    if isinstance(found, zarr.Array):
        raise TecError(f"{place} is a single array; name the group that it belongs to")
    return found


def arrays_of(group: zarr.Group) -> dict[str, zarr.Array[Any]]:
    """All arrays below a group, by path from it, but for models that it carries."""
    members = group.members(max_depth=None)
    found = {
        name: member
        for name, member in members
        if isinstance(member, zarr.Array) and not is_carried(name)
    }
    return dict(sorted(found.items()))


def open_datasets(place: Location) -> dict[str, xr.Dataset]:
    """All groups of a store with data as lazy datasets, by path; the root is "".

    Values are as stored and attributes as written: nothing is scaled, masked or turned into times.
    Raises TecError if a group cannot be opened, ConfigError without dask.
    """
    root = open_group(place)
    members = root.members(max_depth=None)
    groups = {name for name, member in members if isinstance(member, zarr.Group)}
    paths = ["", *sorted(name for name in groups if not is_carried(name))]
    return {path: _open_dataset(place, path) for path in paths}


def _open_dataset(place: Location, path: str) -> xr.Dataset:
    if not find_spec("dask"):
        raise ConfigError("whole stores need dask: pip install 'tec-zarr[cli]'")
    try:
        with warnings.catch_warnings():
            # Of xarray, on stores without consolidated metadata, which are fine.
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated")
            found = xr.open_zarr(place, group=path or None, chunks={}, decode_cf=False)
    except UNREADABLE as err:
        where = f"the group {path!r} of {place}" if path else f"{place}"
        old = "" if OPENS_FILL_VALUES else f"; a _FillValue in format 3 needs {NEEDED} or later"
        raise TecError(f"xarray {xr.__version__} cannot open {where}: {err}{old}") from err
    for variable in found.variables.values():
        if variable.dtype.kind == "O":  # text, whose type xarray would look for at every write
            variable.load()
    return found


@contextmanager
def new_store(target: Location, *, overwrite: bool) -> Iterator[Location]:
    """Where to write what shall become `target`; it gets its name when all of it is there.

    If writing fails, nothing is left behind, and what was there before stays. That holds for
    paths; elsewhere the store is written in place, and the error says that it is incomplete.
    Raises ConfigError if `target` exists, unless `overwrite` is set.
    """
    path = local(target)
    if path is None:
        with _in_place(target, overwrite=overwrite):
            yield target
        return
    _check_free(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    try:
        yield partial
        _replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def consolidate(place: Location) -> None:
    """Gather the metadata of a finished store in one place, as xarray does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        zarr.consolidate_metadata(place)


def check_apart(source: Location, target: Location) -> None:
    """Raise ConfigError if writing `target` would touch `source`."""
    here, there = local(source), local(target)
    if here is None or there is None:
        return
    old, new = here.resolve(), there.resolve()
    if old == new or old in new.parents or new in old.parents:
        raise ConfigError(f"{there} and {here} must not lie in each other: choose another target")


@contextmanager
def _in_place(target: Location, *, overwrite: bool) -> Iterator[None]:
    if not overwrite and _is_store(target):
        raise ConfigError(f"{target} exists; choose another name, or overwrite it")
    try:
        zarr.open_group(target, mode="w")
        yield
    except BaseException as err:
        err.add_note(f"{target} is incomplete: delete it")
        raise


def _is_store(place: Location) -> bool:
    try:
        zarr.open(place, mode="r")
    except UNREADABLE:
        return False
    return True


def _check_free(path: Path, *, overwrite: bool) -> None:
    """Only stores and empty folders are ever replaced: a slip must not cost somebody's folder."""
    if not path.exists():
        return
    if not overwrite:
        raise ConfigError(f"{path} exists; choose another name, or overwrite it")
    if not path.is_dir() or (any(path.iterdir()) and not _is_store(path)):
        raise ConfigError(f"{path} is no Zarr store, so it is not overwritten; delete it yourself")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:6]}.partial")


def _replace(new: Path, path: Path) -> None:
    """Give a finished store its name; a directory cannot replace another in one step."""
    old = _beside(path)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)
