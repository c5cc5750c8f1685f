"""Sentinel-2 bands: names, the orders of the products, statistics. No pixels in here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

S2L1C = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10"),
    *("B11", "B12"),
)
"""The 13 bands of level 1C in product order. The place of a band here is its code in a chunk."""

S2L2A = tuple(band for band in S2L1C if band != "B10")
"""The 12 bands of level 2A: the cirrus band B10 sees no ground and is left out."""

ORDERS = {"s2l2a": S2L2A, "s2l1c": S2L1C}
"""The band orders that have a name."""

# SSL4EO-S12 v1.1, which the official TerraCodec models were trained on, in digital numbers
# without the offset of baseline 04.00; in the order of `ORDERS`.
MEANS = {
    "s2l2a": (
        *(793.243, 924.863, 1184.553, 1340.936, 1671.402, 2240.082, 2468.412, 2563.243),
        *(2627.704, 2711.071, 2416.714, 1849.625),
    ),
    "s2l1c": (
        *(1607.345, 1393.068, 1320.225, 1373.963, 1562.536, 2110.071, 2392.832, 2321.154),
        *(2583.77, 838.712, 21.753, 2205.112, 1545.798),
    ),
}
"""Mean of each band, in digital numbers (SSL4EO-S12 v1.1)."""

STDS = {
    "s2l2a": (
        *(1160.144, 1201.092, 1219.943, 1397.225, 1400.035, 1373.136, 1429.170, 1485.025),
        *(1447.836, 1652.703, 1471.002, 1365.307),
    ),
    "s2l1c": (
        *(786.523, 849.702, 875.318, 1143.578, 1126.248, 1161.98, 1273.505, 1246.79),
        *(1342.755, 576.795, 45.626, 1340.347, 1145.036),
    ),
}
"""Standard deviation of each band, in digital numbers (SSL4EO-S12 v1.1)."""

BASELINE_0400_OFFSET = 1000
"""What products of processing baseline 04.00 and later (from January 2022) add to every digital
number: subtract it to get reflectance * 10000."""

_SPELLING = re.compile(r"b0?(\d{1,2}a?)", re.IGNORECASE)


def resolve_bands(bands: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Names of the bands of a chunk, in the order of its band axis.

    `bands` are names in any common spelling ("b02", "B2", "B8a"), `count` is the length of the
    band axis; None stands for the whole of level 2A (12) or 1C (13).
    ConfigError: unknown or repeated names, another count than `bands` has, or None for a count
    that no product has.

    >>> resolve_bands(["b4", "B08", "b8a"], 3)
    ('B04', 'B08', 'B8A')
    """
    if bands is None:
        return _order_of(count)
    if isinstance(bands, str):
        raise ConfigError(f"bands is one string; give a sequence of names: bands=[{bands!r}]")
    names = tuple(_name(band) for band in bands)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"bands names {', '.join(repeated)} more than once")
    if len(names) != count:
        raise ConfigError(
            f"bands has {len(names)} names, but the band axis (the third from the end) has "
            f"length {count}: name each band once, in the order of the axis"
        )
    return names


def _order_of(count: int) -> tuple[str, ...]:
    for order in ORDERS.values():
        if len(order) == count:
            return order
    raise ConfigError(
        f"the band axis (the third from the end) has length {count}; without names only 12 "
        "(Sentinel-2 L2A) or 13 (L1C) are understood: name the bands in order, "
        'such as bands=["B02", "B03", "B04", "B08"]'
    )


def _name(spelling: str) -> str:
    match = _SPELLING.fullmatch(str(spelling).strip())
    if match:
        name = "B" + match[1].upper().zfill(2)
        if name in S2L1C:
            return name
    raise ConfigError(f"{spelling!r} is no Sentinel-2 band; the bands are {', '.join(S2L1C)}")
