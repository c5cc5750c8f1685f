"""Training frames: random crops of Sentinel-2 scenes, augmented. Values are digital numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tec_zarr.bands import S2L2A
from tec_zarr.errors import ConfigError
from tec_zarr.header import Replication
from tec_zarr.models.squares import smoothed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NATIVE = dict(zip(S2L2A, (6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 2, 2), strict=True))
"""Native resolution of each band, in units of 10 m."""

SUBSETS = (
    ("B02", "B03", "B04", "B08"),
    ("B02", "B03", "B04"),
    ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
    ("B05", "B06", "B07", "B8A", "B11", "B12"),
    ("B04", "B08"),
)
"""Subsets of the bands that cubes commonly hold."""


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


KEPT = 32
"""Sources in memory at a time, of those that are read when they are drawn; 6 MB each, about."""

PERIOD = 512
"""Crops that are drawn of the same sources."""

PATIENCE = 1000
"""Crops that are looked at for one with enough pixels."""


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


class Sample(NamedTuple):
    """A batch of training frames."""

    frames: Tensor
    """(n, band, y, x) in normalised units; absent bands are zero."""

    counted: Tensor
    """Same shape, bool: the pixels whose error counts."""

    squared: Tensor
    """(n, band), bool: only the averages of 2x2 pixels count, as in replicated bands."""

    def to(self, device: torch.device) -> Sample:
        """The same on a device."""
        return Sample(*(part.to(device) for part in self))

    def square_errors(self, frames: Tensor) -> Tensor:
        """Sum over each frame of squared errors of a reconstruction, (n,), as a codec has them."""
        errors = (frames.float() - self.frames) * self.counted
        coarse = 4 * functional.avg_pool2d(errors, 2).square().sum((2, 3))
        return torch.where(self.squared, coarse, errors.square().sum((2, 3))).sum(1)


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


class Crop(NamedTuple):
    """A training frame before it is normalised."""

    frame: NDArray[np.float32]
    """(12, y, x) in digital numbers, 0 where there are none."""

    bands: NDArray[np.bool_]
    """(12,): the bands that there are."""

    squared: NDArray[np.bool_]
    """(12,): the bands that were replicated and have been smoothed."""


class Crops:
    """Draws random crops from sources; `smooth` of those with replicated bands are smoothed.

    Sources that are not in memory are read when they are drawn. Only `KEPT` of them take part at a
    time, so that each is read once for many crops; after `PERIOD` crops come others.
    """

    def __init__(self, scenes: Sequence[Source], size: int, seed: int, smooth: float = 0.8) -> None:
        self.scenes, self.size, self.smooth, self.seed = scenes, size, smooth, seed
        self.random = np.random.default_rng(seed)
        self.drawn = 0
        self._opened = lru_cache(KEPT)(lambda index: scenes[index].opened())
        self._chances = lru_cache(1)(self._chances_in)

    def go_to(self, drawn: int) -> None:
        """Go on as after that many crops, whatever was drawn before: a run can be resumed."""
        self.random, self.drawn = np.random.default_rng((self.seed, drawn)), drawn

    def _chances_in(self, period: int) -> NDArray[np.float64]:
        """Of each source to be drawn in a period."""
        weights = np.array([scene.weight for scene in self.scenes])
        lazy = [i for i, scene in enumerate(self.scenes) if not isinstance(scene, Scene)]
        if len(lazy) > KEPT:
            random = np.random.default_rng((self.seed, period, KEPT))
            shares = weights[lazy] / weights[lazy].sum()
            taken = random.choice(lazy, KEPT, replace=False, p=shares)
            weights[np.setdiff1d(lazy, taken)] = 0
        return weights / weights.sum()

    def draw(self) -> Crop:
        """A crop of a random frame."""
        chances = self._chances(self.drawn // PERIOD)
        self.drawn += 1
        index = int(self.random.choice(len(self.scenes), p=chances))
        kept = self.scenes[index]
        scene = kept if isinstance(kept, Scene) else self._opened(index)
        frame = scene.frames[self.random.integers(len(scene.frames))]
        smooth = scene.replicated and self.random.random() < self.smooth
        cut = self._cut(frame, 6 if smooth else 1)
        squared = np.zeros(len(S2L2A), np.bool_)
        if smooth and cut.all():
            for band, place in zip(cut, scene.places, strict=True):
                factor = NATIVE[S2L2A[place]]
                if factor > 1:
                    block = Replication(factor, 0, 0)
                    band[...] = smoothed(torch.from_numpy(band), block).clamp_(min=1).numpy()
                    squared[place] = True
        full = np.zeros((len(S2L2A), self.size, self.size), np.float32)
        cut = cut[:, : self.size, : self.size]
        full[scene.places, : cut.shape[1], : cut.shape[2]] = cut
        return Crop(self._turned(full), np.isin(np.arange(len(S2L2A)), scene.places), squared)

    def _cut(self, frame: NDArray[Any], unit: int) -> NDArray[np.float32]:
        size = -(-self.size // unit) * unit
        spare = [max(n - size, 0) // unit for n in frame.shape[1:]]
        y, x = (int(self.random.integers(s + 1)) * unit for s in spare)
        cut = frame[:, y : y + size, x : x + size].astype(np.float32)
        height, width = (n // unit * unit for n in cut.shape[1:])
        return cut[:, :height, :width]

    def _turned(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        for axis in (1, 2):
            if self.random.random() < 0.5:
                frame = np.flip(frame, axis)
        if self.random.random() < 0.5:
            frame = frame.swapaxes(1, 2)
        light = np.exp(self.random.normal(0, 0.12))
        return np.ascontiguousarray(frame) * np.float32(light)


class Batches:
    """Draws batches in normalised units, with bands dropped at random."""

    def __init__(self, crops: Crops, mean: Tensor, std: Tensor, drop: float = 0.25) -> None:
        self.crops, self.drop = crops, drop
        self.mean, self.std = mean, std

    def draw(self, count: int) -> Sample:
        """`count` samples."""
        samples = [self._one() for _ in range(count)]
        return Sample(*(torch.stack(parts) for parts in zip(*samples, strict=True)))

    def _one(self) -> tuple[Tensor, Tensor, Tensor]:
        for _ in range(PATIENCE):
            frame, bands, squared = self.crops.draw()
            values = torch.from_numpy(frame)
            valid = values > 0
            share = valid.float().mean((1, 2)).numpy()
            present = self._kept(bands & (share > 0.5))
            # Scenes smaller than a crop are mostly padding: take one in ten.
            if present.any() and (share[present].max() > 0.99 or self.crops.random.random() < 0.1):
                return *self._normalised(values, valid, present), torch.from_numpy(squared)
        raise ConfigError(f"{PATIENCE} crops in a row hold hardly anything but nodata")

    def _kept(self, bands: NDArray[np.bool_]) -> NDArray[np.bool_]:
        random = self.crops.random
        if random.random() >= self.drop:
            return bands
        choice = random.integers(len(SUBSETS) + 1)
        if choice < len(SUBSETS):
            chosen = np.isin(S2L2A, SUBSETS[choice])
        else:
            chosen = random.random(len(S2L2A)) < random.uniform(0.2, 1)
        return bands & chosen if (bands & chosen).any() else bands

    def _normalised(
        self, values: Tensor, valid: Tensor, present: NDArray[np.bool_]
    ) -> tuple[Tensor, Tensor]:
        units = (values - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)
        counted = valid & torch.from_numpy(present).view(-1, 1, 1)
        means = (units * counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)
        units = torch.where(counted, units, means.view(-1, 1, 1))
        return units * torch.from_numpy(present).view(-1, 1, 1), counted
