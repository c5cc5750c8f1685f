from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr.bands import MEANS, ORDERS, S2L1C, S2L2A, STDS, resolve_bands
from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBSETS = st.lists(st.sampled_from(S2L1C), min_size=1, unique=True)


def test_orders_and_statistics_are_of_one_length() -> None:
    assert (len(S2L2A), len(S2L1C)) == (12, 13)
    assert S2L1C.index("B10") == S2L1C.index("B09") + 1 == S2L1C.index("B11") - 1
    for name, order in ORDERS.items():
        assert len(MEANS[name]) == len(STDS[name]) == len(order) == len(set(order))


def test_statistics_belong_to_their_bands() -> None:
    l1c = dict(zip(S2L1C, zip(MEANS["s2l1c"], STDS["s2l1c"], strict=True), strict=True))
    l2a = dict(zip(S2L2A, zip(MEANS["s2l2a"], STDS["s2l2a"], strict=True), strict=True))
    assert l1c["B10"] == (21.753, 45.626)
    assert l1c["B12"] == (1545.798, 1145.036)
    assert l2a["B8A"] == (2627.704, 1447.836)
    assert l2a["B12"] == (1849.625, 1365.307)


def test_no_names_mean_a_whole_product() -> None:
    assert resolve_bands(None, 12) == S2L2A
    assert resolve_bands(None, 13) == S2L1C


@pytest.mark.parametrize("count", [1, 3, 10, 14])
def test_other_counts_need_names(count: int) -> None:
    with pytest.raises(ConfigError, match=rf"length {count};.*bands="):
        resolve_bands(None, count)


@given(SUBSETS, st.data())
def test_names_may_be_spelled_in_common_ways(bands: list[str], data: st.DataObject) -> None:
    ways = [str.lower, str.upper, lambda name: name.replace("B0", "B"), lambda name: f" {name} "]
    spelled = [data.draw(st.sampled_from(ways))(band) for band in bands]
    assert resolve_bands(spelled, len(bands)) == tuple(bands)


@pytest.mark.parametrize(
    ("bands", "complaint"),
    [
        (["B02", "B13"], "'B13' is no Sentinel-2 band; the bands are B01"),
        (["B02", "B0"], "no Sentinel-2 band"),
        (["B02", ""], "no Sentinel-2 band"),
        (["B02", "B9A"], "no Sentinel-2 band"),
        (["B02", "red"], "no Sentinel-2 band"),
        (["B02", "b2"], "B02 more than once"),
        (["B02"], "1 names, but the band axis .* has length 2"),
        ("B02", r"bands=\['B02'\]"),
    ],
)
def test_names_that_make_no_sense_are_refused(bands: Sequence[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        resolve_bands(bands, 2)
