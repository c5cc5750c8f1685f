"""Bands that are constant in squares of pixels, as 20 m and 60 m bands on a 10 m grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.header import Replication

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tec_zarr.tiling import Tile

    Bools = NDArray[np.bool_]

FACTORS = (6, 3, 2)
"""Factors that are looked for: 60 m on 10 m, 60 m on 20 m, 20 m on 10 m."""

ALONE = Replication(1, 0, 0)
"""A band without replication."""

PROBES = 8
"""Rows that are looked at first: most bands are not replicated, and one row tells."""


def find(frames: NDArray[Any], nodata: Bools | None) -> tuple[Replication, ...] | None:
    """How each band of a chunk (frame, band, y, x) is replicated; None if no band is.

    Exact: all valid pixels of a square have the same value, in every frame. Nodata pixels do not
    count. `nodata` has the shape of `frames`.
    """
    bands = range(frames.shape[1])
    found = tuple(_find(frames[:, b], None if nodata is None else nodata[:, b]) for b in bands)
    return None if all(block == ALONE for block in found) else found


def within(blocks: Sequence[Replication], tile: Tile) -> tuple[Replication, ...]:
    """The same squares, with phases counted from the corner of a tile."""
    return tuple(
        Replication(factor, (y - tile.y) % factor, (x - tile.x) % factor) for factor, y, x in blocks
    )


def _find(band: NDArray[Any], nodata: Bools | None) -> Replication:
    if nodata is not None and not nodata.any():
        nodata = None
    step = max(1, band.shape[1] // PROBES)
    probe = _changes(band[:, ::step], None if nodata is None else nodata[:, ::step], 2)
    if not any(_agree(probe, factor) for factor in FACTORS):
        return ALONE
    rows, columns = _changes(band, nodata, 1), _changes(band, nodata, 2)
    for factor in FACTORS:
        if _agree(rows, factor) and _agree(columns, factor):
            block = Replication(factor, _phase(rows, factor), _phase(columns, factor))
            # Without gaps, no change inside a square says it all.
            if nodata is None or _is_constant(band, nodata, block):
                return block
    return ALONE


def _changes(band: NDArray[Any], nodata: Bools | None, axis: int) -> NDArray[np.intp]:
    """Places along an axis of (frame, y, x) whose value differs from the one before, anywhere."""
    later, earlier = (_cut(band, axis, part) for part in (slice(1, None), slice(None, -1)))
    differ = later != earlier
    if nodata is not None:
        differ &= ~_cut(nodata, axis, slice(1, None)) & ~_cut(nodata, axis, slice(None, -1))
    return np.flatnonzero(differ.any(axis=(0, 3 - axis))) + 1


def _cut(values: NDArray[Any], axis: int, part: slice) -> NDArray[Any]:
    return values[(slice(None),) * axis + (part,)]


def _agree(places: NDArray[np.intp], factor: int) -> bool:
    return len(places) == 0 or bool((places % factor == places[0] % factor).all())


def _phase(places: NDArray[np.intp], factor: int) -> int:
    return int(places[0] % factor) if len(places) else 0


def _is_constant(band: NDArray[Any], nodata: Bools, block: Replication) -> bool:
    """Whether the valid pixels of each square are alike, also across gaps within it."""
    whole = np.iinfo(band.dtype) if band.dtype.kind in "iu" else np.finfo(band.dtype)
    least = _reduced(np.minimum, np.where(nodata, whole.max, band), block)
    most = _reduced(np.maximum, np.where(nodata, whole.min, band), block)
    return bool((least >= most).all())  # squares without valid pixels have least > most


def _reduced(function: np.ufunc, band: NDArray[Any], block: Replication) -> NDArray[Any]:
    for axis, phase in ((1, block.phase_y), (2, block.phase_x)):
        starts = np.arange(phase, band.shape[axis], block.factor)
        if phase:
            starts = np.concatenate([[0], starts])
        band = function.reduceat(band, starts, axis=axis)
    return band
