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


def _owners(borders: Places) -> Places:
    """The square of each pixel along an axis."""
    owners = np.empty(borders[-1], np.int64)
    for square in range(len(borders) - 1):
        owners[borders[square] : borders[square + 1]] = square
    return owners


means_of, owners_of = compiled(_means) or _means, compiled(_owners) or _owners


def _average(band: Band, valid: Band, factor: int, top: int, left: int) -> None:
    """Replace pixels of a band (y, x) by the mean of their square.

    Pixels that are not `valid` (y, x) do not count; if `valid` is empty, all do.
    """
    rows, columns = borders(len(band), factor, top), borders(band.shape[1], factor, left)
    means = means_of(band, valid, rows, columns)
    row_of, column_of = owners_of(rows), owners_of(columns)
    for y in range(len(band)):
        for x in range(band.shape[1]):
            band[y, x] = means[row_of[y], column_of[x]]


def _smooth(band: Band, factor: int, top: int, left: int) -> None:
    """Replace the steps of a band (y, x) by slopes, along y and then along x."""
    rows, columns = borders(len(band), factor, top), borders(band.shape[1], factor, left)
    means = means_of(band, np.zeros((0, 0), np.bool_), rows, columns)
    row_of, column_of = owners_of(rows), owners_of(columns)
    line, slopes = np.empty((2, means.shape[1]), band.dtype)
    for y in range(len(band)):
        row, most = row_of[y], len(means) - 1
        before, after = max(row - 1, 0), min(row + 1, most)
        # Positions are doubled: then the centres of squares are integers.
        apart = rows[after] + rows[after + 1] - rows[before] - rows[before + 1]
        part = (2 * y + 1 - rows[row] - rows[row + 1]) / max(2, apart)
        for column in range(means.shape[1]):
            rise = means[after, column] - means[before, column]
            line[column] = means[row, column] + part * rise
        most = means.shape[1] - 1
        for column in range(most + 1):
            before, after = max(column - 1, 0), min(column + 1, most)
            apart = columns[after] + columns[after + 1] - columns[before] - columns[before + 1]
            slopes[column] = (line[after] - line[before]) / max(2, apart)
        for x in range(band.shape[1]):
            column = column_of[x]
            place = 2 * x + 1 - columns[column] - columns[column + 1]
            band[y, x] = line[column] + slopes[column] * place


average, smooth = compiled(_average), compiled(_smooth)
