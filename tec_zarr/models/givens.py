"""Loops over Givens rotations, to be compiled; `spectral` does the same by NumPy, all at once."""

from __future__ import annotations

from math import atan2, cos, pi, sin
from typing import TYPE_CHECKING, Any

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]


def _rotate(matrix: Numbers, row: int, angle: float) -> None:
    """Rotate the rows row - 1 and row of a matrix."""
    cosine, sine = cos(angle), sin(angle)
    for column in range(matrix.shape[1]):
        above, below = matrix[row - 1, column], matrix[row, column]
        matrix[row - 1, column] = cosine * above + sine * below
        matrix[row, column] = cosine * below - sine * above


rotate = compiled(_rotate) or _rotate


def _find(matrices: Numbers, angles: Numbers, counts: Numbers, pairs: Numbers, most: int) -> None:
    """Set `angles` (m, pair) of matrices (m, band, band), which are turned; see `spectral._angles`.

    A full turn has `most` steps.
    """
    steps = most / (2 * pi)
    for matrix in range(len(matrices)):
        rest = matrices[matrix]
        for index in range(len(pairs)):
            row, column = pairs[index]
            if column >= counts[matrix]:
                break
            whole = round(atan2(rest[row, column], rest[row - 1, column]) * steps)
            angles[matrix, index] = whole % most
            rotate(rest, row, angles[matrix, index] / steps)


def _turn(matrices: Numbers, angles: Numbers, pairs: Numbers, most: int) -> None:
    """Turn matrices (m, band, band) back by `angles` (m, pair); see `spectral._rotated`."""
    steps = most / (2 * pi)
    for matrix in range(len(matrices)):
        for index in range(len(pairs) - 1, -1, -1):
            if angles[matrix, index]:
                rotate(matrices[matrix], pairs[index, 0], -angles[matrix, index] / steps)


find, turn = compiled(_find), compiled(_turn)
