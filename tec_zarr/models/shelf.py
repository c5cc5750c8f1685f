"""Artifact files at hand: bundled, in this user's cache, or on a path of the process. No torch.

A path or an address is never taken from a chunk or from array metadata.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from tec_zarr.cards import cards
from tec_zarr.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE_VARIABLE = "TEC_ZARR_CACHE"
"""Environment variable: folder of artifacts that were added or downloaded."""

PATH_VARIABLE = "TEC_ZARR_MODELS"
"""Environment variable: further artifact files or folders of them, separated like PATH."""

SUFFIX = ".tec.safetensors"


def cache_folder() -> Path:
    """Folder of the artifacts that this user added."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tec_zarr"
    return Path(os.environ.get(CACHE_VARIABLE) or default)


def cached_file(identity: str) -> Path:
    """Where the cache keeps, or would keep, an artifact."""
    return cache_folder() / f"{identity}{SUFFIX}"


def cached(identity: str) -> bool:
    """Whether an artifact is in the cache."""
    return cached_file(identity).is_file()


def write(target: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all."""
    with beside(target) as partial:
        partial.write_bytes(data)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A file that takes the target's place when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def candidates(identity: str) -> Iterator[tuple[Path, bool]]:
    """Files to look at for the first digits of a hash, and whether each is known to be the one."""
    for entry in cards().values():
        if entry.identity.startswith(identity):
            with bundled(entry.file) as path:
                yield path, True
    for path in sorted(cache_folder().glob(f"{identity}*{SUFFIX}")):
        yield path, True
    for path in given():
        yield path, False


@contextmanager
def bundled(name: str) -> Iterator[Path]:
    """A file that ships with the package; ModelNotFoundError if it does not."""
    with as_file(files("tec_zarr.models") / "bundled" / name) as path:
        if not path.exists():
            raise ModelNotFoundError(f"the installation lacks its bundled model {path}")
        yield path


def given() -> Iterator[Path]:
    """The files that the environment names."""
    for place in filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep)):
        path = Path(place)
        yield from sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
