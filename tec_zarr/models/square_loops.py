"""Loops over the squares of replicated bands, to be compiled; `squares` does the same by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Band = NDArray[Any]
    Places = NDArray[np.int64]


def _borders(size: int, factor: int, phase: int) -> Places:
    """Where the squares along an axis of `size` pixels begin, and where the last one ends."""
    front = (factor - phase) % factor
    return np.minimum(np.maximum(np.arange(-front, size + factor, factor), 0), size)


borders = compiled(_borders) or _borders


def _means(band: Band, valid: Band, rows: Places, columns: Places) -> Band:
    """Mean of each square; see `_average`. `rows` and `columns` are its borders."""
    means = np.zeros((len(rows) - 1, len(columns) - 1), band.dtype)
    sums, counts = np.empty((2, band.shape[1]), band.dtype)
    for row in range(len(rows) - 1):
        sums[:] = 0
        counts[:] = 0 if valid.size else rows[row + 1] - rows[row]
        for y in range(rows[row], rows[row + 1]):
            if not valid.size:
                for x in range(band.shape[1]):
                    sums[x] += band[y, x]
            else:
                for x in range(band.shape[1]):
                    if valid[y, x]:
                        sums[x] += band[y, x]
                        counts[x] += 1
        for column in range(len(columns) - 1):
            total, count = 0.0, 0.0
            for x in range(columns[column], columns[column + 1]):
                total += sums[x]
                count += counts[x]
            means[row, column] = total / max(1.0, count)
    return means


def _distances(borders: Places) -> NDArray[np.float64]:
    """Twice the distance between the centres of the neighbours of each square, at least 2."""
    count = len(borders) - 1
    found = np.empty(count)
    for square in range(count):
        before, after = max(square - 1, 0), min(square + 1, count - 1)
        apart = borders[after] + borders[after + 1] - borders[before] - borders[before + 1]
        found[square] = max(2, apart)
    return found


def _expand(line: Band, slopes: Band, columns: Places, factor: int, target: Band) -> None:
    """Spread the values (column,) of squares over the pixels (x,) of a line, sloped.

    `slopes` (column,) are halves of what it rises from one pixel to the next.
    """
    most = len(line) - 1
    for column in (0, most):  # these may be narrower than the others
        centre = columns[column] + columns[column + 1]
        for x in range(columns[column], columns[column + 1]):
            target[x] = line[column] + slopes[column] * (2 * x + 1 - centre)
    for k in range(factor):
        pixels = target[columns[1] + k : columns[most] : factor]
        for column in range(len(pixels)):
            rise = slopes[column + 1] * (2 * k + 1 - factor)
            pixels[column] = line[column + 1] + rise


means_of, distances = compiled(_means) or _means, compiled(_distances) or _distances
expand = compiled(_expand) or _expand


def _average(band: Band, valid: Band, factor: int, top: int, left: int) -> None:
    """Replace pixels of a band (y, x) by the mean of their square.

    Pixels that are not `valid` (y, x) do not count; if `valid` is empty, all do.
    """
    rows, columns = borders(len(band), factor, top), borders(band.shape[1], factor, left)
    means = means_of(band, valid, rows, columns)
    flat = np.zeros(means.shape[1], band.dtype)
    for row in range(len(means)):
        first = rows[row]
        expand(means[row], flat, columns, factor, band[first])
        for y in range(first + 1, rows[row + 1]):
            band[y] = band[first]


def _smooth(band: Band, factor: int, top: int, left: int) -> None:
    """Replace the steps of a band (y, x) by slopes, along y and then along x."""
    rows, columns = borders(len(band), factor, top), borders(band.shape[1], factor, left)
    means = means_of(band, np.zeros((0, 0), np.bool_), rows, columns)
    heights, widths = distances(rows), distances(columns)
    line, slopes = np.zeros((2, means.shape[1]), band.dtype)
    last, most = len(means) - 1, means.shape[1] - 1
    for row in range(last + 1):
        here, before, after = means[row], means[max(row - 1, 0)], means[min(row + 1, last)]
        for y in range(rows[row], rows[row + 1]):
            # Positions are doubled: then the centres of squares are integers.
            part = (2 * y + 1 - rows[row] - rows[row + 1]) / heights[row]
            for column in range(most + 1):
                line[column] = here[column] + part * (after[column] - before[column])
            for column in range(1, most):
                slopes[column] = (line[column + 1] - line[column - 1]) / widths[column]
            slopes[0] = (line[min(1, most)] - line[0]) / widths[0]
            slopes[most] = (line[most] - line[max(most - 1, 0)]) / widths[most]
            expand(line, slopes, columns, factor, band[y])


average, smooth = compiled(_average), compiled(_smooth)
