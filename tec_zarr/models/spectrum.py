"""Bands that a chunk lacks, estimated from those that it has."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIDGE = 1e-4
"""Added to the variances of present bands, relative to their mean, so that no estimate blows up."""


def completed(frames: Tensor, present: NDArray[np.bool_], covariance: Tensor) -> Tensor:
    """Put the expectation of absent bands, given the present ones, in their place.

    `frames` is (tiles, frames, band, y, x) in normalised units, zero where absent; `present` is
    (tiles, frames, band). Bands are taken as jointly Gaussian with mean zero and `covariance`.
    """
    if present.all():
        return frames
    table = covariance.double().cpu().numpy()
    key = table.tobytes()
    weights = np.stack([_weights(key, row.tobytes()) for row in present.reshape(-1, len(table))])
    mixing = torch.from_numpy(weights).to(frames)
    flat = frames.flatten(0, 1).flatten(2)
    return (mixing @ flat).view_as(frames)


@lru_cache(maxsize=1024)
def _weights(covariance: bytes, present: bytes) -> NDArray[np.float32]:
    """(band, band) matrix: the identity on present bands, regression onto them for the others."""
    here = np.frombuffer(present, np.bool_)
    table = np.frombuffer(covariance, np.float64).reshape(len(here), len(here))
    result = np.diag(here).astype(np.float64)
    if here.any() and not here.all():
        inner = table[np.ix_(here, here)]
        inner = inner + RIDGE * np.trace(inner) / len(inner) * np.eye(len(inner))
        result[np.ix_(~here, here)] = np.linalg.solve(inner, table[np.ix_(here, ~here)]).T
    return result.astype(np.float32)
