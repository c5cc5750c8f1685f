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


def _apart(borders: Places, square: int, last: int) -> int:
    """How far the centres of a square's neighbours are apart, doubled: then they are integers."""
    before, after = max(square - 1, 0), min(square + 1, last)
    return max(2, borders[after] + borders[after + 1] - borders[before] - borders[before + 1])


def _offsets(borders: Places) -> Places:
    """How far each pixel along an axis is from the centre of its square, doubled."""
    offsets = np.empty(borders[-1], np.int64)
    for square in range(len(borders) - 1):
        for x in range(borders[square], borders[square + 1]):
            offsets[x] = 2 * x + 1 - borders[square] - borders[square + 1]
    return offsets


apart_of, offsets_of = compiled(_apart) or _apart, compiled(_offsets) or _offsets


def _smooth(band: Band, factor: int, top: int, left: int) -> None:
    """Replace the steps of a band (y, x) by slopes, along y and then along x."""
    rows, columns = borders(len(band), factor, top), borders(band.shape[1], factor, left)
    means = means_of(band, np.zeros((0, 0), np.bool_), rows, columns)
    row_of, column_of, down = owners_of(rows), owners_of(columns), offsets_of(rows)
    right = offsets_of(columns).astype(band.dtype)
    last, most = len(means) - 1, means.shape[1] - 1
    # All of the band's own type, so that the loops over a line take several pixels at a time.
    line, slopes, shares = np.empty((3, most + 1), band.dtype)
    for column in range(most + 1):
        shares[column] = 1 / apart_of(columns, column, most)
    for y in range(len(band)):
        row = row_of[y]
        part = band.dtype.type(down[y] / apart_of(rows, row, last))
        before, after = max(row - 1, 0), min(row + 1, last)
        for column in range(most + 1):
            rise = means[after, column] - means[before, column]
            line[column] = means[row, column] + part * rise
        for column in range(1, most):
            slopes[column] = (line[column + 1] - line[column - 1]) * shares[column]
        slopes[0] = (line[min(1, most)] - line[0]) * shares[0]
        slopes[most] = (line[most] - line[max(most - 1, 0)]) * shares[most]
        for x in range(band.shape[1]):
            band[y, x] = line[column_of[x]] + slopes[column_of[x]] * right[x]


average, smooth = compiled(_average), compiled(_smooth)
