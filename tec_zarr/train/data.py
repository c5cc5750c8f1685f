"""Training frames: random crops of Sentinel-2 scenes, augmented. Values are digital numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tec_zarr.bands import S2L2A
from tec_zarr.errors import ConfigError
from tec_zarr.header import Replication
from tec_zarr.models.squares import smoothed
from tec_zarr.train.scenes import NATIVE, Scene
from tec_zarr.train.simulated import another_date

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tec_zarr.train.scenes import Source

SUBSETS = (
    ("B02", "B03", "B04", "B08"),
    ("B02", "B03", "B04"),
    ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
    ("B05", "B06", "B07", "B8A", "B11", "B12"),
    ("B04", "B08"),
)
"""Subsets of the bands that cubes commonly hold."""


KEPT = 32
"""Sources in memory at a time, of those that are read when they are drawn; 6 MB each, about."""

PERIOD = 512
"""Crops that are drawn of the same sources."""

PATIENCE = 1000
"""Crops that are looked at for one with enough pixels."""


class Sample(NamedTuple):
    """A batch of training frames."""

    frames: Tensor
    """(n, band, y, x) in normalised units; absent bands are zero."""

    counted: Tensor
    """Same shape, bool: the pixels whose error counts."""

    squared: Tensor
    """(n, band), bool: only the averages of 2x2 pixels count, as in replicated bands."""

    past: Tensor | None = None
    """(n, dates, band, y, x) in normalised units: earlier dates, zero where there are none."""

    @property
    def dates(self) -> tuple[Tensor, ...]:
        """What a temporal model sees beside frames and steps; nothing for others."""
        return () if self.past is None else (self.past,)

    def to(self, device: torch.device) -> Sample:
        """The same on a device."""
        frames, counted, squared = (part.to(device) for part in self[:3])
        past = None if self.past is None else self.past.to(device)
        return Sample(frames, counted, squared, past)

    def square_errors(self, frames: Tensor) -> Tensor:
        """Sum over each frame of squared errors of a reconstruction, (n,), as a codec has them."""
        errors = (frames.float() - self.frames) * self.counted
        coarse = 4 * functional.avg_pool2d(errors, 2).square().sum((2, 3))
        return torch.where(self.squared, coarse, errors.square().sum((2, 3))).sum(1)


class Crop(NamedTuple):
    """A training frame before it is normalised."""

    frame: NDArray[np.float32]
    """(12, y, x) in digital numbers, 0 where there are none."""

    bands: NDArray[np.bool_]
    """(12,): the bands that there are."""

    squared: NDArray[np.bool_]
    """(12,): the bands that were replicated and have been smoothed."""

    past: NDArray[np.float32]
    """(dates, 12, y, x): the same place on earlier dates, 0 where there are none."""


class Crops:
    """Draws random crops from sources; `smooth` of those with replicated bands are smoothed.

    Sources that are not in memory are read when they are drawn. Only `KEPT` of them take part at a
    time, so that each is read once for many crops; after `PERIOD` crops come others.
    """

    def __init__(
        self,
        scenes: Sequence[Source],
        size: int,
        seed: int,
        smooth: float = 0.8,
        earlier: int = 0,
    ) -> None:
        """`earlier` dates of a place are drawn with each crop."""
        self.scenes, self.size, self.smooth, self.seed = scenes, size, smooth, seed
        self.earlier = earlier
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
        """A crop of a random frame, and of earlier dates if there are some."""
        chances = self._chances(self.drawn // PERIOD)
        self.drawn += 1
        index = int(self.random.choice(len(self.scenes), p=chances))
        kept = self.scenes[index]
        scene = kept if isinstance(kept, Scene) else self._opened(index)
        frames = scene.frames[self._dates(len(scene.frames))]
        smooth = scene.replicated and self.random.random() < self.smooth
        cut = self._cut(frames, 6 if smooth else 1)
        squared = np.zeros(len(S2L2A), np.bool_)
        if smooth and cut.all():
            for index, place in enumerate(scene.places):
                factor = NATIVE[S2L2A[place]]
                if factor > 1:
                    block = Replication(factor, 0, 0)
                    for band in cut[:, index]:
                        band[...] = smoothed(torch.from_numpy(band), block).clamp_(min=1).numpy()
                    squared[place] = True
        full = np.zeros((1 + self.earlier, len(S2L2A), self.size, self.size), np.float32)
        cut = cut[..., : self.size, : self.size]
        full[: len(cut), scene.places, : cut.shape[2], : cut.shape[3]] = cut
        if len(frames) == 1:
            for date in full[1:]:
                date[...] = another_date(full[0], self.random)
        full = self._turned(full)
        bands = np.isin(np.arange(len(S2L2A)), scene.places)
        return Crop(full[0], bands, squared, full[1:])

    def _dates(self, count: int) -> NDArray[np.int64]:
        """Which of `count` frames are drawn, the one to be coded first."""
        if not self.earlier:
            return self.random.integers(count, size=1)
        if self.random.random() < 0.5:
            first = int(self.random.integers(max(1, count - self.earlier)))
            near = np.arange(first, min(count, first + self.earlier + 1))
            return near if self.random.random() < 0.5 else near[::-1]
        return self.random.permutation(count)[: self.earlier + 1]

    def _cut(self, frames: NDArray[Any], unit: int) -> NDArray[np.float32]:
        size = -(-self.size // unit) * unit
        spare = [max(n - size, 0) // unit for n in frames.shape[2:]]
        y, x = (int(self.random.integers(s + 1)) * unit for s in spare)
        cut = frames[..., y : y + size, x : x + size].astype(np.float32)
        height, width = (n // unit * unit for n in cut.shape[2:])
        return cut[..., :height, :width]

    def _turned(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        for axis in (2, 3):
            if self.random.random() < 0.5:
                frames = np.flip(frames, axis)
        if self.random.random() < 0.5:
            frames = frames.swapaxes(2, 3)
        light = np.exp(self.random.normal(0, 0.12))
        return np.ascontiguousarray(frames) * np.float32(light)


class Batches:
    """Draws batches in normalised units, with bands dropped at random."""

    def __init__(self, crops: Crops, mean: Tensor, std: Tensor, drop: float = 0.25) -> None:
        self.crops, self.drop = crops, drop
        self.mean, self.std = mean, std

    def draw(self, count: int) -> Sample:
        """`count` samples."""
        samples = [self._one() for _ in range(count)]
        return Sample(*(torch.stack(parts) for parts in zip(*samples, strict=True)))

    def _one(self) -> tuple[Tensor, ...]:
        for _ in range(PATIENCE):
            crop = self.crops.draw()
            values = torch.from_numpy(crop.frame)
            valid = values > 0
            share = valid.float().mean((1, 2)).numpy()
            present = self._kept(crop.bands & (share > 0.5))
            # Scenes smaller than a crop are mostly padding: take one in ten.
            if present.any() and (share[present].max() > 0.99 or self.crops.random.random() < 0.1):
                found = (*self._normalised(values, present), torch.from_numpy(crop.squared))
                if not self.crops.earlier:
                    return found
                return *found, self._normalised(torch.from_numpy(crop.past), present)[0]
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

    def _normalised(self, values: Tensor, present: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Frames (..., band, y, x) in normalised units, and which of their pixels count."""
        units = (values - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)
        counted = (values > 0) & torch.from_numpy(present).view(-1, 1, 1)
        number = counted.sum((-2, -1), keepdim=True)
        means = (units * counted).sum((-2, -1), keepdim=True) / number.clamp(min=1)
        return torch.where(counted, units, means), counted
