"""Probability masses that come out alike on every machine, for the integer tables of artifacts.

Distribution functions are rounded to a grid. Floats tell which point is the nearest one, except
next to the middle between two; there, numbers with more digits decide. For making artifacts only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.entropy.tables import FURTHEST, Tables
from tec_zarr.errors import TecError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpmath import mpf
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Wide = NDArray[np.int64]

GRID = 32
"""Binary digits of the grid: far finer than frequencies, far coarser than float64."""

DOUBT = 0.002
"""How near to the middle between two points floats are not trusted, in steps of the grid.

Thousands of times what the last digits of a distribution function's logit can change."""

HUNDREDTHS = (1, 2, 4, 5, 10, 20, 25, 50, 100)
"""Widths of the parts of a step that means may fall in: those that divide it."""

WIDEST = 10
"""Hundredths of a step that a part may be wide, for a deviation of 1: under 1e-3 bits a symbol."""

DIGITS = 40
"""Decimal digits of the numbers that decide."""


def on_grid(values: Floats, exactly: Callable[[int], mpf]) -> Wide:
    """Nearest points of the grid, as integers, of values (n,) between 0 and 1.

    `exactly(i)` is value i as a number of mpmath, asked for where `values` leave a doubt.
    """
    import mpmath

    if not np.isfinite(values).all():
        raise TecError("a distribution function that is not finite")
    steps = values * 2.0**GRID
    nearest = np.floor(steps + 0.5).astype(np.int64)
    doubtful = np.abs(steps - np.floor(steps) - 0.5) < DOUBT
    with mpmath.workdps(DIGITS):
        for index in doubtful.nonzero()[0].tolist():
            nearest[index] = int(mpmath.floor(exactly(index) * 2**GRID + 0.5))
    return nearest


def masses(borders: Wide) -> Floats:
    """Probability masses (n,) between borders (n + 1,) on the grid."""
    return np.diff(borders) * 2.0**-GRID


def gaussian(first: float, last: float, rows: int, tail: float = 2.0**-16) -> Tables:
    """Rounded normal distributions, standard deviations at equal ratios from `first` to `last`.

    The same tables on every machine. Symbols that are together less likely than `tail` have no
    entry.
    """
    pmf = [_normal(scale, tail) for scale in deviations(first, last, rows)]
    return Tables.from_pmf(pmf, [-(len(row) // 2) for row in pmf])


def deviations(first: float, last: float, rows: int) -> list[float]:
    """Numbers at equal ratios from `first` to `last`, correctly rounded."""
    import mpmath

    with mpmath.workdps(DIGITS):
        low, ratio = mpmath.mpf(first), mpmath.mpf(last) / mpmath.mpf(first)
        return [float(low * ratio ** (mpmath.mpf(row) / (rows - 1))) for row in range(rows)]


def _normal(scale: float, tail: float) -> Floats:
    """Masses of one row, symmetric around 0."""
    import mpmath

    reach = next(
        (k for k in range(1, FURTHEST) if math.erfc((k + 0.5) / scale / math.sqrt(2)) < tail / 2),
        FURTHEST,
    )
    beyond = [math.erfc((k + 0.5) / scale / math.sqrt(2)) / 2 for k in range(reach + 1)]
    borders = on_grid(
        np.array(beyond),
        lambda k: mpmath.erfc((k + mpmath.mpf(0.5)) / mpmath.mpf(scale) / mpmath.sqrt(2)) / 2,
    )
    inside = borders * 2.0 ** (1 - GRID) > tail
    kept = borders[: max(1, int(inside.sum())) + 1]
    side = -np.diff(kept) * 2.0**-GRID
    return np.concatenate([side[::-1], [1 - kept[0] * 2.0 ** (1 - GRID)], side])


def bins(scales: Sequence[float]) -> tuple[int, ...]:
    """Into how many parts a step is divided for means, for each deviation."""
    return tuple(
        100 // max(width for width in HUNDREDTHS if width <= max(1, WIDEST * scale))
        for scale in scales
    )


def shifted(scales: Sequence[float], parts: Sequence[int], tail: float = 2.0**-16) -> Tables:
    """Rounded normal distributions whose means are fractions, the same tables on every machine.

    Each deviation has as many rows as `parts` says: row i of b stands for means of i * 100 / b to
    (i + 1) * 100 / b hundredths, by the middle of these. For `tail` see `gaussian`. No row is
    certain but the last one, which is added behind them: zero.
    """
    rows = [
        _normal_at(scale, (i + 0.5) / count, tail)
        for scale, count in zip(scales, parts, strict=True)
        for i in range(count)
    ]
    return stacked([*rows, (np.ones(1), 0)])


def _normal_at(scale: float, mean: float, tail: float) -> tuple[Floats, int]:
    """Masses of one row, and the symbol of the first one."""
    import mpmath

    reach = min(FURTHEST, math.ceil(5 * scale) + 1)
    places = np.arange(-reach, reach + 2) + 0.5
    below = [math.erfc((mean - place) / scale / math.sqrt(2)) / 2 for place in places.tolist()]
    points = on_grid(
        np.array(below),
        lambda i: mpmath.erfc((mpmath.mpf(mean) - places[i]) / scale / mpmath.sqrt(2)) / 2,
    )
    edge = int(tail / 2 * 2**GRID)
    first = max(0, int((points <= edge).sum()) - 1)
    last = min(len(points) - 1, int((points < 2**GRID - edge).sum()))
    return np.minimum(masses(points[first : last + 1]), 1 - tail), int(places[first] + 0.5)


def joined(first: Tables, second: Tables) -> Tables:
    """The rows of one, and behind them those of another."""
    width = max(first.cdf.shape[1], second.cdf.shape[1])
    pads = [
        np.pad(t.cdf, ((0, 0), (0, width - t.cdf.shape[1])), mode="edge") for t in (first, second)
    ]
    return Tables(
        np.concatenate(pads),
        np.concatenate([first.sizes, second.sizes]),
        np.concatenate([first.offsets, second.offsets]),
    )


def stacked(rows: Sequence[tuple[Floats, int]]) -> Tables:
    """Tables of (masses, symbol of the first one), a pair a row."""
    return Tables.from_pmf([row for row, _ in rows], [offset for _, offset in rows])
