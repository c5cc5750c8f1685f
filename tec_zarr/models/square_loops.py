"""Loops over the squares of replicated bands, to be compiled; `squares` does the same by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Band = NDArray[Any]


def _borders(size: int, factor: int, phase: int) -> NDArray[np.int64]:
    """Where the squares along an axis of `size` pixels begin, and where the last one ends."""
    front = (factor - phase) % factor
    return np.minimum(np.maximum(np.arange(-front, size + factor, factor), 0), size)


borders = compiled(_borders) or _borders


def _average(band: Band, valid: Band, factor: int, top: int, left: int) -> Band:
    """Replace pixels of a band (y, x) by the mean of their square; returns the means.

    Pixels that are not `valid` (y, x) do not count; if `valid` is empty, all do.
    """
    rows, columns = borders(len(band), factor, top), borders(band.shape[1], factor, left)
    means = np.zeros((len(rows) - 1, len(columns) - 1), band.dtype)
    for row in range(len(rows) - 1):
        for column in range(len(columns) - 1):
            total, count = 0.0, 0
            for y in range(rows[row], rows[row + 1]):
                for x in range(columns[column], columns[column + 1]):
                    if not valid.size or valid[y, x]:
                        total += band[y, x]
                        count += 1
            means[row, column] = total / max(1, count)
            for y in range(rows[row], rows[row + 1]):
                for x in range(columns[column], columns[column + 1]):
                    band[y, x] = means[row, column]
    return means


average = compiled(_average)
own_average = average or _average


def _smooth(band: Band, factor: int, top: int, left: int) -> None:
    """Replace the steps of a band (y, x) by slopes, along y and then along x."""
    rows, columns = borders(len(band), factor, top), borders(band.shape[1], factor, left)
    means = own_average(band, np.zeros((0, 0), np.bool_), factor, top, left)
    lines = np.empty((len(band), means.shape[1]), band.dtype)
    for row in range(len(means)):
        before, after = max(row - 1, 0), min(row + 1, len(means) - 1)
        # Positions are doubled: then the centres of squares are integers.
        apart = rows[after] + rows[after + 1] - rows[before] - rows[before + 1]
        for y in range(rows[row], rows[row + 1]):
            part = (2 * y + 1 - rows[row] - rows[row + 1]) / max(2, apart)
            for column in range(means.shape[1]):
                rise = means[after, column] - means[before, column]
                lines[y, column] = means[row, column] + part * rise
    most = means.shape[1] - 1
    slopes = np.empty(most + 1, band.dtype)
    for y in range(len(band)):
        for column in range(most + 1):
            before, after = max(column - 1, 0), min(column + 1, most)
            apart = columns[after] + columns[after + 1] - columns[before] - columns[before + 1]
            slopes[column] = (lines[y, after] - lines[y, before]) / max(2, apart)
        for column in range(most + 1):
            centre = columns[column] + columns[column + 1] - 1
            for x in range(columns[column], columns[column + 1]):
                band[y, x] = lines[y, column] + slopes[column] * (2 * x - centre)


smooth = compiled(_smooth)
