"""From a name or a hash to a model in memory: bundled, cached, or on a path of the process.

A path or an address is never taken from a chunk or from array metadata.
"""

from __future__ import annotations

import os
import threading
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
    """Copy an artifact file into the cache after checking that it loads; returns its identity."""
    loaded = artifacts.load(path)
    build(loaded)
    identity = loaded.identity()
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{identity}.{os.getpid()}.partial"
    partial.write_bytes(path.read_bytes())
    partial.replace(folder / f"{identity}{SUFFIX}")
    return identity


def build(loaded: artifacts.Artifact, device: torch.device | None = None) -> Model:
    """The model of an artifact, on a device, by default the CPU."""
    family = loaded.fields.get("family")
    if family not in FAMILIES:
        raise ModelMismatchError(
            f"model family {family!r} is not known to this release of tec-zarr; upgrade it"
        )
    return FAMILIES[family].from_artifact(loaded, device)


def identity_of(model: str) -> str:
    """The identity that a name stands for; a hash in hex (at least 16 digits) stands for itself."""
    if model in cards():
        return cards()[model].identity
    if len(model) >= 16 and all(digit in "0123456789abcdef" for digit in model):
        return model
    return card(model).identity


def load(model: str, device: torch.device) -> Model:
    """The model of a name or a hash (hex, at least 16 digits), kept for the life of the process.

    Raises ModelNotFoundError if no artifact is at hand, ModelMismatchError if one is not what it
    should be.
    """
    with _guard:
        return _load(identity_of(model), str(device))


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
