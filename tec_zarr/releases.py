"""Names of the published models, and the checkpoints that they stand for. No torch, no network."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

from tec_zarr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published family of checkpoints."""

    name: str
    family: str
    """One of "fp", "elic", "tt", "flextec"."""

    bands: str
    """Product order that the models code: "s2l2a" or "s2l1c"."""

    repository: str
    """Where the hub keeps it."""

    revision: str = "main"
    """The commit of that repository."""

    pattern: str
    """File name of a checkpoint, {} standing for its lambda."""

    lambdas: tuple[str, ...]
    """Weight of the distortion of each checkpoint, as it is spelled in file names."""

    identities: dict[str, str] = field(default_factory=dict)
    """SHA-256, in hex, of the artifacts that are known, by lambda."""

    def trained_at(self, quality: float) -> str:
        """The lambda of the checkpoint for a quality; ConfigError if there is none.

        Quality is lambda itself; FlexTEC has one checkpoint and counts tokens, 1 to 16.
        """
        if self.family == "flextec":
            if quality in range(1, 17):
                return self.lambdas[0]
            raise ConfigError(f"{self.name} has the qualities 1 to 16 (tokens), not {quality:g}")
        for text in self.lambdas:
            if float(text) == quality:
                return text
        raise ConfigError(
            f"{self.name} has the qualities (lambda) {', '.join(self.lambdas)}, not {quality:g}"
        )

    def file(self, trained_at: str) -> str:
        """File name of the checkpoint with that lambda."""
        return self.pattern.format(trained_at)


@lru_cache(maxsize=1)
def releases() -> dict[str, Release]:
    """All published families by name."""
    text = (files("tec_zarr.models") / "bundled" / "releases.toml").read_text("utf-8")
    entries = tomllib.loads(text).items()
    return {
        name: Release(name=name, **entry | {"lambdas": tuple(entry["lambdas"])})
        for name, entry in entries
    }
