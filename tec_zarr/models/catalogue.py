"""What models are at hand: bundled, added to the cache, or named by the environment. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tec_zarr.cards import cards, name_of
from tec_zarr.errors import ModelNotFoundError, TecError
from tec_zarr.models import artifact as artifacts
from tec_zarr.models import shelf

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tec_zarr.models.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An artifact file on this machine."""

    name: str
    """What it is called by this release, by its card, or by its file, in this order."""

    place: str
    """Why it is found: "bundled", "cache" or "path"."""

    path: Path
    size: int
    """Bytes of the file."""

    identity: str
    """SHA-256 in hex; of the cache as the file's name says, which loading checks."""

    family: str = ""
    bands: tuple[str, ...] = ()
    """Bands of a frame, in the order of the network."""

    qualities: tuple[float, ...] = ()
    """What `quality` may be."""

    card: Mapping[str, Any] = field(default_factory=dict)
    """Prose of whoever made the model."""

    problem: str = ""
    """Why the file is of no use, if it is of none."""


def catalogue() -> list[Entry]:
    """All artifacts at hand, bundled ones first. Files that cannot be read are listed as such."""
    return list(_entries())


def find(name: str) -> Entry:
    """The model of a name, or of the first digits of its hash (at least 8).

    Its file is read as a whole. Raises ModelNotFoundError if there is none, or if several begin
    alike; ModelMismatchError if the file is damaged.
    """
    found = [entry for entry in catalogue() if entry.name == name]
    if not found and len(name) >= 8:
        found = [entry for entry in catalogue() if entry.identity.startswith(name)]
    if not found:
        raise ModelNotFoundError(f"no model at hand is {name!r}; `tec-zarr models` lists them")
    if len({entry.identity for entry in found}) > 1:
        hashes = ", ".join(sorted(entry.identity[:16] for entry in found))
        raise ModelNotFoundError(f"several models are {name!r}: say which by its hash, {hashes}")
    artifacts.check(artifacts.load(found[0].path), found[0].identity)
    return found[0]


def _entries() -> Iterator[Entry]:
    for card in cards().values():
        with shelf.bundled(card.file) as path:
            yield _entry("bundled", path, card.identity)
    for path in sorted(shelf.cache_folder().glob(f"*{shelf.SUFFIX}")):
        yield _entry("cache", path, path.name.removesuffix(shelf.SUFFIX))
    for path in shelf.given():
        yield _entry("path", path, None)


def _entry(place: str, path: Path, identity: str | None) -> Entry:
    stem = path.name.removesuffix(shelf.SUFFIX)
    try:
        size = path.stat().st_size
        found = artifacts.load(path) if identity is None else artifacts.head(path)
        identity = found.identity() if identity is None else identity
        return Entry(
            name=name_of(identity) or _card_name(found) or stem,
            place=place,
            path=path,
            size=size,
            identity=identity,
            card=found.card,
            **_described(found),
        )
    except (TecError, OSError) as err:
        return Entry(
            name=stem, place=place, path=path, size=0, identity=identity or "", problem=str(err)
        )


def _card_name(found: Artifact) -> str:
    """As converters write it: a published name, and its lambda."""
    parts = [found.card.get(key) for key in ("name", "lambda")]
    return "-".join(str(part) for part in parts if part)


def _described(found: Artifact) -> dict[str, Any]:
    """What the fields say of a model; whatever they lack is left out."""
    config = found.fields.get("config")
    config = config if isinstance(config, dict) else {}
    bands = [band for band in _listed(config, "bands") if isinstance(band, str)]
    numbers = [value for value in _listed(config, "qualities") if isinstance(value, int | float)]
    family = str(found.fields.get("family", ""))
    return {"family": family, "bands": tuple(bands), "qualities": tuple(numbers)}


def _listed(config: Mapping[str, Any], key: str) -> list[Any]:
    value = config.get(key)
    return value if isinstance(value, list) else []
