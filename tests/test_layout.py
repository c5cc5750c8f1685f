from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr.errors import ConfigError
from tec_zarr.layout import check_aligned, is_aligned, plan_layout

DIMS: Any = {"time": 5, "band": 12, "y": 1000, "x": 300}
PIECES = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def test_default_chunks_of_temporal_models_hold_some_steps_of_one_series() -> None:
    assert plan_layout(DIMS, steps=8).chunks == (5, 12, 512, 300)
    assert plan_layout({"tile": 3, **DIMS, "time": 20}, steps=8).chunks == (1, 8, 12, 512, 300)
    assert plan_layout({"band": 12, "y": 64, "x": 64}, steps=8).chunks == (12, 64, 64)


def test_default_chunks_are_one_step_and_a_square() -> None:
    assert plan_layout(DIMS).chunks == (1, 12, 512, 300)
    assert plan_layout(DIMS).unit == (1, 12, 512, 300)
    assert plan_layout({"tile": 3, **DIMS}).chunks == (1, 1, 12, 512, 300)


def test_sizes_are_given_by_dimension_or_in_order() -> None:
    assert plan_layout(DIMS, {"time": -1, "x": 64}).chunks == (5, 12, 512, 64)
    assert plan_layout(DIMS, (2, -1, 100, 1024)).chunks == (2, 12, 100, 1024)
    layout = plan_layout(DIMS, {"y": 64, "x": 64}, {"time": 2, "y": 128})
    assert tuple(layout) == ((1, 12, 64, 64), (2, 12, 128, 64))
    assert layout.unit == layout.shards


@given(PIECES, st.integers(1, 9))
def test_aligned_pieces_never_share_a_chunk(pieces: list[int], step: int) -> None:
    owners: dict[int, set[int]] = {}
    start = 0
    for piece, size in enumerate(pieces):
        for pixel in range(start, start + size):
            owners.setdefault(pixel // step, set()).add(piece)
        start += size
    if is_aligned([pieces], (step,)):
        assert all(len(pieces) == 1 for pieces in owners.values())


@given(st.integers(1, 30), st.integers(1, 9), st.data())
def test_an_aligned_region_covers_what_it_touches(
    size: int, step: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    covered = set(range(start, stop))
    touched = {pixel for pixel in range(size) if {p // step for p in covered} & {pixel // step}}
    try:
        check_aligned("a", {"y": size}, {"y": slice(start, stop)}, (step,))
    except ConfigError:
        assert touched > covered
    else:
        assert touched == covered


def test_dimensions_without_a_slice_are_whole() -> None:
    check_aligned("a", DIMS, {"y": slice(512, None)}, (2, 12, 512, 128))
    with pytest.raises(ConfigError, match=r"'a' from 0 to 511 along 'y'.*multiples of 512"):
        check_aligned("a", DIMS, {"y": slice(0, 511)}, (2, 12, 512, 128))
