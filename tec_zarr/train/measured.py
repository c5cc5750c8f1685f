"""Entropy tables from what a model codes: measured, symmetric, mixed with Laplacians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.entropy.tables import Tables
from tec_zarr.errors import TecError
from tec_zarr.models.activity import FIRST_OCTAVE, ROW_UNIT
from tec_zarr.models.coding import Recorder
from tec_zarr.models.sparse import CHANCE_BITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from tec_zarr.models.coding import Ints
    from tec_zarr.models.model import Model
    from tec_zarr.train.data import Batches

ROWS = 64
"""Rows of scales, a quarter of an octave apart."""

WHOLE = (1 - 2.0**-12, 2.0**-12)
"""Masses of the first symbol of a tile: is it whole?"""

SUPPORT = 512
"""Largest magnitude in a table; larger symbols escape."""

PRIOR_WEIGHT = 400.0
"""Symbols' worth of the parametric distribution that is mixed into a measured one."""

CERTAIN = 3e-4
"""Rows whose symbols are rarer than this have no other symbol than zero."""

SPARSE = 0.12
"""Rows whose symbols are rarer than this are coded as runs of zeros: fewer steps, equal bits."""

MOST_RUNS = 512
"""Longer runs escape."""

MOST_SHIFT = 15
"""Bits of a run that are coded apart: a table has fewer than 65536 entries."""


@dataclass(eq=False)
class Histogram:
    """A coder that counts: how often each row met each symbol, clipped to the support."""

    counts: NDArray[np.int64]

    def __call__(self, symbols: Ints | None, rows: Ints) -> Ints:
        if symbols is None:
            raise TecError("a histogram cannot decode")
        values = np.clip(symbols, -SUPPORT, SUPPORT) + SUPPORT
        flat = np.ravel_multi_index((rows.ravel(), values.ravel()), self.counts.shape)
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)
        return symbols

    def guard(self, values: Tensor) -> Tensor:
        """Round values (tiles, ...) to the nearest integers; no reader has to repeat it."""
        return Recorder(len(values))(values)

    @property
    def above(self) -> tuple[()]:
        """Models are counted in one layer."""
        return ()


def counted(model: Model, batches: Batches, frames: int) -> NDArray[np.int64]:
    """(row, symbol): how often each row met each symbol in `frames` frames of any quality."""
    histogram = Histogram(np.zeros((ROWS + 1, 2 * SUPPORT + 1), np.int64))
    random = np.random.default_rng(0)
    for _ in range(frames):
        sample = batches.draw(1).frames[None]
        code = int(random.integers(len(model.qualities)))
        coded = model.analyse(sample, code)
        model.code(histogram, coded, model.grid(1, 1, (sample.shape[-2], sample.shape[-1])), code)
    return histogram.counts


def first_certain(counts: NDArray[np.int64]) -> int:
    """The first row whose symbols are not almost all zero, at least 1."""
    totals = counts[:ROWS].sum(1)
    others = totals - counts[:ROWS, SUPPORT]
    common = np.flatnonzero((others > CERTAIN * totals) & (totals > 0))
    return max(1, int(common[0])) if len(common) else ROWS


def sparse_rows(chances: NDArray[np.float64], most: int = MOST_SHIFT) -> dict[str, NDArray[Any]]:
    """The integers of `models.sparse` for rare rows with these chances of not being zero.

    At most `most` bits of a run are coded apart.
    """
    shifts = np.clip(np.floor(np.log2(1 / chances)) - 5, 0, most).astype(np.int32)
    runs = ROWS + 1
    rests = runs + len(chances)
    expected = 2.0 ** np.arange(25)
    scales = np.log2(np.sqrt(expected) / 2 + expected / 8) - FIRST_OCTAVE
    return {
        "prior.chances": np.round(chances * 2.0**CHANCE_BITS).astype(np.int32),
        "prior.shifts": shifts,
        "prior.sparse": np.array([runs, rests, rests + shifts.max(initial=0)], np.int32),
        "prior.counts": np.clip(scales * ROW_UNIT, 0, ROWS - 1).astype(np.int32),
    }


def tables_of(
    pmf: Sequence[NDArray[np.float64]],
    certain: int,
    integers: Mapping[str, NDArray[Any]],
    first: Sequence[float] = WHOLE,
) -> Tables:
    """Rows of symbols, then one with the masses `first`, then those of rare symbols."""
    rows = [(row, -(len(row) // 2)) for row in pmf]
    rows.append((np.array(first), 0))
    shifts = integers["prior.shifts"].tolist()
    rare = pmf[certain : certain + len(shifts)]
    for row, shift in zip(rare, shifts, strict=True):
        end = row[len(row) // 2] ** (2**shift)
        number = min(MOST_RUNS, int(np.ceil(np.log(2.0**-14) / np.log(end))))
        rows.append(((1 - end) * end ** np.arange(number), 0))
    rows += [(np.full(2**bits, 2.0**-bits), 0) for bits in range(1, max(shifts, default=0) + 1)]
    for row in rare:
        reach = len(row) // 2
        values = np.delete(row, reach)
        rows.append((values / values.sum() * (1 - 2.0**-14), -reach))
    return Tables.from_pmf(*zip(*rows, strict=True))


def pmf_of(counts: NDArray[np.int64], row: int, certain: int) -> NDArray[np.float64]:
    """Masses of -reach..reach: measured, symmetric, mixed with the Laplacian of the row."""
    if row < certain:
        return np.ones(1)
    scale = 2.0 ** (FIRST_OCTAVE + row / ROW_UNIT)
    reach = int(min(SUPPORT, np.ceil(14 * scale) + 1))
    values = np.arange(-SUPPORT, SUPPORT + 1)
    model = np.exp(-np.abs(values) / scale)
    model *= (1 - np.exp(-1 / scale)) / (1 + np.exp(-1 / scale))
    model[SUPPORT] = 1 - np.exp(-0.5 / scale)
    model /= model.sum()
    measured = counts + counts[::-1]
    mixed = (measured + PRIOR_WEIGHT * model) / (measured.sum() + PRIOR_WEIGHT)
    return mixed[SUPPORT - reach : SUPPORT + reach + 1]
