"""From a name or a hash to a model in memory: bundled, cached, or on a path of the process.

A path or an address is never taken from a chunk or from array metadata.
"""

from __future__ import annotations

import math
import os
import threading
from contextlib import contextmanager
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tec_zarr.cards import card, cards
from tec_zarr.errors import ModelMismatchError, ModelNotFoundError
from tec_zarr.models import artifact as artifacts
from tec_zarr.models.elic import Elic
from tec_zarr.models.factorized import Factorized
from tec_zarr.releases import releases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tec_zarr.models.model import Model

CACHE_VARIABLE = "TEC_ZARR_CACHE"
"""Environment variable: folder of artifacts that were added or downloaded."""

PATH_VARIABLE = "TEC_ZARR_MODELS"
"""Environment variable: further artifact files or folders of them, separated like PATH."""

SUFFIX = ".tec.safetensors"

FAMILIES: dict[str, type[Model]] = {"fp": Factorized, "elic": Elic}

_guard = threading.Lock()


def cache_folder() -> Path:
    """Folder of the artifacts that this user added."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tec_zarr"
    return Path(os.environ.get(CACHE_VARIABLE) or default)


def add(path: Path) -> str:
    """Copy an artifact file into the cache after checking that it loads; returns its identity.

    A published checkpoint is converted first, see `official.add`.
    """
    if path.is_file() and is_checkpoint(path):
        from tec_zarr.models import official

        return official.add(path)
    loaded = artifacts.load(path)
    build(loaded)
    identity = loaded.identity()
    write(cached_file(identity), path.read_bytes())
    return identity


def keep(artifact: artifacts.Artifact) -> str:
    """Write an artifact into the cache after checking that it builds; returns its identity."""
    build(artifact)
    target = cached_file(artifact.identity())
    with _beside(target) as partial:
        return artifact.save(partial)


def write(target: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all."""
    with _beside(target) as partial:
        partial.write_bytes(data)


def cached_file(identity: str) -> Path:
    """Where the cache keeps, or would keep, an artifact."""
    return cache_folder() / f"{identity}{SUFFIX}"


def cached(identity: str) -> bool:
    """Whether an artifact is in the cache."""
    return cached_file(identity).is_file()


def is_checkpoint(path: Path) -> bool:
    """Whether a file is one that PyTorch saves (a ZIP archive)."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A file that takes the target's place when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def build(loaded: artifacts.Artifact, device: torch.device | None = None) -> Model:
    """The model of an artifact, on a device, by default the CPU."""
    family = loaded.fields.get("family")
    if family not in FAMILIES:
        raise ModelMismatchError(
            f"model family {family!r} is not known to this release of tec-zarr; upgrade it"
        )
    return FAMILIES[family].from_artifact(loaded, device)


def identity_of(model: str, quality: float = math.nan) -> str:
    """The identity that a name stands for; a hash in hex (at least 16 digits) stands for itself.

    Published models are one artifact a quality; they are fetched if they are not at hand.
    """
    if model in releases():
        from tec_zarr.models import official

        return official.identity(model, quality)
    if model in cards():
        return cards()[model].identity
    if len(model) >= 16 and all(digit in "0123456789abcdef" for digit in model):
        return model
    return card(model).identity


def load(model: str, device: torch.device, quality: float = math.nan) -> Model:
    """The model of a name or a hash (hex, at least 16 digits), kept for the life of the process.

    `quality` chooses among the artifacts of a published model. Raises ModelNotFoundError if no
    artifact is at hand, ModelMismatchError if one is not what it should be.
    """
    with _guard:
        return _load(identity_of(model, quality), str(device))


def forget() -> None:
    """Drop all loaded models, e.g. after artifacts were changed on disk."""
    _load.cache_clear()


@lru_cache(maxsize=8)
def _load(identity: str, device: str) -> Model:
    for path, named in _candidates(identity):
        loaded = artifacts.load(path)
        found = loaded.identity()
        if found.startswith(identity):
            return build(loaded, torch.device(device))
        if named:
            raise ModelMismatchError(
                f"{path} should be model {identity[:16]} but is {found[:16]}; the file was changed"
            )
    from tec_zarr.models import official

    if official.recovered(identity):
        return _load(identity, device)
    raise ModelNotFoundError(
        f"model {identity[:32]} is neither bundled nor in {cache_folder()}. Upgrade tec-zarr, or "
        f"get the artifact and name it, or its folder, in the environment variable {PATH_VARIABLE}"
    )


def _candidates(identity: str) -> Iterator[tuple[Path, bool]]:
    """Files to look at, and whether each is known to hold this model."""
    for entry in cards().values():
        if entry.identity.startswith(identity):
            with as_file(files("tec_zarr.models") / "bundled" / entry.file) as path:
                if not path.exists():
                    raise ModelNotFoundError(f"the installation lacks its bundled model {path}")
                yield path, True
    for path in sorted(cache_folder().glob(f"{identity}*{SUFFIX}")):
        yield path, True
    for place in filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep)):
        given = Path(place)
        for path in sorted(given.glob(f"*{SUFFIX}")) if given.is_dir() else [given]:
            yield path, False
