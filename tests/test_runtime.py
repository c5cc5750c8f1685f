"""Work that is shared by threads."""

from __future__ import annotations

import threading

import pytest
import torch

from tec_zarr.runtime import side_by_side

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_parts(threads: int) -> None:
    torch.set_num_threads(threads)
    assert side_by_side(lambda part: part * part, range(9)) == [k * k for k in range(9)]
    assert side_by_side(lambda part: part, []) == []


def test_an_error_in_any_part_is_told() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 // part, [2, 1, 0])


def test_work_within_work_stays_in_its_thread() -> None:
    def inner(_: int) -> set[int]:
        return {threading.get_ident(), *side_by_side(lambda _: threading.get_ident(), range(8))}

    torch.set_num_threads(2)
    assert all(len(seen) == 1 for seen in side_by_side(inner, range(6)))
