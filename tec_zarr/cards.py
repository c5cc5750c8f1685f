"""Names of models and the identities they stand for. No torch, no weights."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from tec_zarr.errors import ModelNotFoundError


@dataclass(frozen=True, kw_only=True)
class Card:
    """A model that a name stands for."""

    name: str
    family: str
    """One of "fp", "elic", "tt", "flextec"."""

    bands: str
    """Product order that the model codes: "s2l2a" or "s2l1c"."""

    identity: str
    """SHA-256 of the artifact, in hex."""

    file: str
    """File name among the bundled artifacts."""

    summary: str
    """One line for listings."""


@lru_cache(maxsize=1)
def cards() -> dict[str, Card]:
    """All named models."""
    text = (files("tec_zarr.models") / "bundled" / "cards.toml").read_text("utf-8")
    return {name: Card(name=name, **entry) for name, entry in tomllib.loads(text).items()}


def card(name: str) -> Card:
    """The model of a name; ModelNotFoundError if there is none."""
    try:
        return cards()[name]
    except KeyError:
        known = ", ".join(sorted(cards()))
        raise ModelNotFoundError(f"no model is named {name!r}; known names: {known}") from None


def name_of(identity: str) -> str | None:
    """The name of an artifact, given its identity or the first characters of it."""
    found = (card.name for card in cards().values() if card.identity.startswith(identity))
    return next(found, None)
