"""How Sentinel-2 bands go together, for published models whose checkpoints do not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.bands import S2L2A

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Of the data that the bundled models were trained on; each row is one band of S2L2A against those
# before it.
THOUSANDTHS = (
    (982,),
    (958, 989),
    (918, 963, 987),
    (909, 947, 973, 987),
    (847, 875, 901, 894, 930),
    (780, 802, 826, 810, 854, 983),
    (774, 812, 841, 831, 861, 977, 985),
    (740, 760, 785, 770, 820, 969, 996, 980),
    (496, 456, 439, 391, 441, 475, 462, 446, 469),
    (-316, -257, -166, -64, 5, 40, 55, 64, 101, 118),
    (-224, -155, -62, 57, 111, 68, 48, 62, 78, 95, 963),
)
"""1000 times the correlation of the bands of level 2A."""


def correlation(bands: Sequence[str]) -> NDArray[np.float32]:
    """(band, band) correlation; the cirrus band of level 1C goes with no other."""
    table = np.eye(len(S2L2A) + 1)
    for row, values in enumerate(THOUSANDTHS, 1):
        table[row, :row] = table[:row, row] = np.array(values) / 1000
    places = [S2L2A.index(band) if band in S2L2A else len(S2L2A) for band in bands]
    return table[np.ix_(places, places)].astype(np.float32)
