"""A file with all that decoding needs of a model, and its identity.

The file is safetensors: float16/float32 weights, integer tables, and two JSON texts in its
metadata: `fields` (what decoding reads) and `card` (prose). The identity is a SHA-256 over `fields`
and the tensors; the prose is outside it. Loading runs no code.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tec_zarr.errors import ModelMismatchError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

VERSION = 1
"""Version of the artifact format; readers refuse a newer one."""

UNREADABLE = (SafetensorError, OSError, KeyError, TypeError, AttributeError, RecursionError)
"""What is raised for files that are no artifacts, by safetensors, NumPy and the JSON in them."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """The content of an artifact file."""

    fields: Mapping[str, Any]
    """What decoding reads besides tensors: family, sizes, bands, qualities. Plain JSON."""

    tensors: Mapping[str, NDArray[Any]]
    """Weights and integer tables by name."""

    card: Mapping[str, Any] = field(default_factory=dict)
    """Prose: data, licence, measured rate and distortion. No part of the identity."""

    def identity(self) -> str:
        """SHA-256, in hex, of the fields and tensors."""
        digest = hashlib.sha256(_canonical(self.fields))
        for name in sorted(self.tensors):
            value = np.ascontiguousarray(self.tensors[name])
            value = value.astype(value.dtype.newbyteorder("<"), copy=False)
            digest.update(_canonical([name, value.dtype.str, list(value.shape)]))
            digest.update(value.tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> str:
        """Write the file and return its identity."""
        metadata = {"fields": _text(self.fields), "card": _text(self.card)}
        tensors = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
        save_file(tensors, path, metadata=metadata)
        return self.identity()


def load(path: Path) -> Artifact:
    """Read an artifact file.

    Takes as much memory as the file is large. Raises ModelNotFoundError if there is no such file,
    ModelMismatchError if it is no artifact, or of a version that this release does not read.
    """
    with _described(path) as (file, fields, card):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    return Artifact(fields, tensors, card)


def loads(data: bytes) -> Artifact:
    """Read the content of an artifact file. Raises as `load`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "artifact"
        path.write_bytes(data)
        return load(path)


def head(path: Path) -> Artifact:
    """Fields and card of an artifact file; its tensors are not read. Raises as `load`."""
    with _described(path) as (_, fields, card):
        return Artifact(fields, {}, card)


def check(loaded: Artifact, identity: str) -> None:
    """Raise ModelMismatchError if an artifact has another hash."""
    found = loaded.identity()
    if found != identity:
        raise ModelMismatchError(
            f"it should be model {identity[:16]} but is {found[:16]}: it was changed"
        )


@contextmanager
def _described(path: Path) -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """An open file of tensors, and the fields and the card in its metadata."""
    if not path.is_file():
        raise ModelNotFoundError(f"there is no artifact file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            fields, card = json.loads(metadata["fields"]), json.loads(metadata["card"])
            if not isinstance(fields, dict) or not isinstance(card, dict):
                raise TypeError("fields and card are no JSON objects")
            if fields.get("version") == VERSION:
                yield file, fields, card
                return
    except (*UNREADABLE, json.JSONDecodeError) as err:
        raise ModelMismatchError(f"{path} is no TEC artifact: {err}") from err
    raise ModelMismatchError(
        f"{path} has artifact version {fields.get('version')}; this release reads {VERSION}"
    )


def _canonical(value: object) -> bytes:
    return _text(value).encode()


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
