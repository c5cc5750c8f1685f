"""Other dates of a place that was seen once: other light, other crops, shadows of hills, clouds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

CLOUDY = 0.35
"""Share of dates with clouds."""


def another_date(frame: Floats, random: Generator) -> Floats:
    """A frame (band, y, x) of digital numbers as it could be on another date; 0 stays 0."""
    bands, *sides = frame.shape
    light = np.exp(random.normal(0, 0.12, (bands, 1, 1)) + random.normal(0, 0.1))
    values = frame * light.astype(np.float32)
    # Contrast changes from field to field.
    mean = values.mean((1, 2), keepdims=True)
    values = values + (values - mean) * (0.25 * random.random() * field(sides, 8, random))
    values = values * (1 + 0.04 * field(sides, 24, random))
    if random.random() < CLOUDY:
        thickness = field(sides, 7, random) + 0.4 * field(sides, 24, random)
        cover = random.uniform(0.3, 1) * _sigmoid((thickness - 1) * random.uniform(1, 6))
        white = random.uniform(2000, 8000) * np.exp(random.normal(0, 0.08, (bands, 1, 1)))
        values = values * (1 - cover) + cover * white * (1 + 0.15 * field(sides, 32, random))
    return np.where(frame > 0, np.clip(values, 1, 65535), 0).astype(np.float32)


def field(sides: list[int], most: int, random: Generator) -> Floats:
    """Smooth noise (y, x) of about unit variance, with up to `most` bumps along a side."""
    count = int(random.integers(2, most + 1))
    bumps = torch.from_numpy(random.normal(0, 1, (1, 1, count, count)).astype(np.float32))
    smooth = functional.interpolate(bumps, size=sides, mode="bicubic", align_corners=True)
    result: Floats = smooth[0, 0].numpy()
    return result


def _sigmoid(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-values))
