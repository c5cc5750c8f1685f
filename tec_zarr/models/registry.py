"""From a name or a hash to a model in memory.

Where artifacts may lie is the business of `models.shelf`.
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from tec_zarr.cards import card, cards
from tec_zarr.errors import ModelMismatchError, ModelNotFoundError, TecError
from tec_zarr.models import artifact as artifacts
from tec_zarr.models import shelf
from tec_zarr.models.elic import Elic
from tec_zarr.models.elic_patch import PatchElic
from tec_zarr.models.factorized import Factorized
from tec_zarr.models.flex_patch import PatchFlex
from tec_zarr.models.temporal import Temporal
from tec_zarr.models.tt_patch import PatchTemporal
from tec_zarr.releases import releases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tec_zarr.models.model import Model

FAMILIES: dict[str, type[Model]] = {
    "fp": Factorized,
    "elic": Elic,
    "elic-patch": PatchElic,
    "tt": Temporal,
    "tt-patch": PatchTemporal,
    "flextec": Temporal,
    "flextec-patch": PatchFlex,
}

MISFITS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError)
"""What, beside ValueError, Python, NumPy and torch raise for sizes and names that do not fit."""

DIGITS = 32
"""Of an identity, that chunks hold: loaded by name or from a chunk, a model is there once."""

_guard = threading.Lock()


def add(path: Path) -> str:
    """Copy an artifact file into the cache after checking that it loads; returns its identity.

    A published checkpoint is converted first, see `official.add`. Raises ModelNotFoundError if
    there is no such file, ModelMismatchError if it is neither.
    """
    if path.is_file() and is_checkpoint(path):
        from tec_zarr.models import official

        return official.add(path)
    loaded = artifacts.load(path)
    build(loaded)
    identity = loaded.identity()
    shelf.write(shelf.cached_file(identity), path.read_bytes())
    return identity


def add_bytes(data: bytes, identity: str) -> None:
    """Put the content of an artifact file into the cache, after checking it and its hash.

    Raises ModelMismatchError if it is no artifact, or another than `identity`.
    """
    loaded = artifacts.loads(data)
    artifacts.check(loaded, identity)
    build(loaded)
    shelf.write(shelf.cached_file(identity), data)


def keep(artifact: artifacts.Artifact) -> str:
    """Write an artifact into the cache after checking that it builds; returns its identity."""
    build(artifact)
    with shelf.beside(shelf.cached_file(artifact.identity())) as partial:
        return artifact.save(partial)


def is_checkpoint(path: Path) -> bool:
    """Whether a file is one that PyTorch saves (a ZIP archive)."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def build(loaded: artifacts.Artifact, device: torch.device | None = None) -> Model:
    """The model of an artifact, on a device, by default the CPU.

    Raises ModelMismatchError if its fields and tensors make none.
    """
    family = loaded.fields.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ModelMismatchError(
            f"model family {family!r} is not known to this release of tec-zarr; upgrade it"
        )
    try:
        return FAMILIES[family].from_artifact(loaded, device)
    except TecError:
        raise
    except (ValueError, *MISFITS) as err:
        raise ModelMismatchError(f"the artifact makes no {family} model: {err!r}") from err


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
        return _load(identity_of(model, quality)[:DIGITS], str(device))


def content(model: str, quality: float = math.nan) -> tuple[str, bytes]:
    """Identity and file content of the artifact of a name or a hash. Raises as `load`."""
    with _opened(identity_of(model, quality)) as (path, loaded):
        return loaded.identity(), path.read_bytes()


def forget() -> None:
    """Drop all loaded models, e.g. after artifacts were changed on disk."""
    _load.cache_clear()


@lru_cache(maxsize=8)
def _load(identity: str, device: str) -> Model:
    with _opened(identity) as (_, loaded):
        return build(loaded, torch.device(device))


@contextmanager
def _opened(identity: str) -> Iterator[tuple[Path, artifacts.Artifact]]:
    """The artifact of a hash, or of its first digits, and its file."""
    for path, named in shelf.candidates(identity):
        loaded = artifacts.load(path)
        found = loaded.identity()
        if found.startswith(identity):
            yield path, loaded
            return
        if named:
            raise ModelMismatchError(
                f"{path} should be model {identity[:16]} but is {found[:16]}; the file was changed"
            )
    from tec_zarr.models import official

    if not official.recovered(identity):
        raise ModelNotFoundError(
            f"model {identity[:32]} is neither bundled nor in {shelf.cache_folder()}. If the"
            " archive carries its models, run: tec-zarr models add STORE; if you have its file:"
            f" tec-zarr models add FILE, or name it in {shelf.PATH_VARIABLE}. Or upgrade tec-zarr"
        )
    with _opened(identity) as found_now:
        yield found_now
