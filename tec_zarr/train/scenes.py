"""Places that training frames are drawn from, in memory or not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tec_zarr.bands import S2L2A
from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NATIVE = dict(zip(S2L2A, (6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 2, 2), strict=True))
"""Native resolution of each band, in units of 10 m."""


class Source(Protocol):
    """Something to draw crops from."""

    @property
    def places(self) -> NDArray[np.int64]:
        """Place of each band in S2L2A."""

    @property
    def weight(self) -> float:
        """How often it is drawn, relative to others."""

    def opened(self) -> Scene:
        """Its pixels, which may have to be read."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One place, some dates; a source whose pixels are in memory."""

    frames: NDArray[Any]
    """(time, band, y, x) digital numbers, 0 is nodata."""

    places: NDArray[np.int64]
    """Place of each band in S2L2A."""

    replicated: bool
    """Whether the coarse bands are exactly replicated from phase 0."""

    weight: float
    """How often it is drawn, relative to others."""

    def opened(self) -> Scene:
        """Itself."""
        return self


def load_scenes(folder: Path, split: str = "train") -> list[Scene]:
    """Scenes of a folder with an `index.json` (samples: file, split, level, source, grid).

    Each file is an .npz with `data` uint16 [time, band, y, x] and `bands`. ConfigError: no scenes.
    """
    entries = json.loads((folder / "index.json").read_text())["samples"]
    scenes = [_scene(folder, entry) for entry in entries if entry["split"] == split]
    if not scenes:
        raise ConfigError(f"{folder} has no scenes of the split {split!r}")
    return scenes


def _scene(folder: Path, entry: dict[str, Any]) -> Scene:
    with np.load(folder / entry["file"]) as file:
        data, names = file["data"], [str(band) for band in file["bands"]]
    kept = sorted((S2L2A.index(name), i) for i, name in enumerate(names) if name in S2L2A)
    frames = np.ascontiguousarray(data[:, [i for _, i in kept]])
    places = np.array([place for place, _ in kept])
    pixels = frames.shape[0] * frames.shape[2] * frames.shape[3]
    rarity = 1.0 if entry["level"] == "L2A" else 0.35  # the bundled model is for L2A
    return Scene(frames, places, is_replicated(frames[0], places), rarity * pixels**0.6)


def is_replicated(frame: NDArray[Any], places: NDArray[np.int64]) -> bool:
    """Whether every coarse band of (band, y, x) is constant in blocks that begin at the corner."""
    coarse = [(band, NATIVE[S2L2A[place]]) for band, place in zip(frame, places, strict=True)]
    blocks = [_blocks(band, factor) for band, factor in coarse if factor > 1]
    return bool(blocks) and all((b == b[:, :1, :, :1]).all() for b in blocks)


def _blocks(band: NDArray[Any], factor: int) -> NDArray[Any]:
    height, width = (n // factor for n in band.shape)
    cut = band[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor)
