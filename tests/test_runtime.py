"""Work that is shared by threads."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
import torch

from tec_zarr.runtime import in_shares, side_by_side

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("threads", "count", "most", "parts"),
    [(1, 9, 9, 1), (2, 9, 9, 2), (4, 9, 3, 3), (4, 2, 9, 2), (4, 9, 0, 1), (4, 0, 9, 1)],
)
def test_shares_cover_everything_once(threads: int, count: int, most: int, parts: int) -> None:
    torch.set_num_threads(threads)
    borders: list[tuple[int, int]] = []
    in_shares(lambda begin, end: borders.append((begin, end)), count, most)
    borders.sort()
    assert len(borders) == parts
    assert (borders[0][0], borders[-1][1]) == (0, count)
    assert all(own[1] == following[0] for own, following in pairwise(borders))


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_error_in_any_share_is_told(wrong: int) -> None:
    def fail(begin: int, _: int) -> None:
        if begin == wrong:
            raise KeyError(begin)

    torch.set_num_threads(2)
    with pytest.raises(KeyError, match=str(wrong)):
        in_shares(fail, 2, 2)


def test_work_within_work_stays_in_its_thread() -> None:
    def inner(_: int) -> set[int]:
        seen: set[int] = set()
        in_shares(lambda *_: seen.add(threading.get_ident()), 8, 8)
        return seen | {threading.get_ident()}

    torch.set_num_threads(2)
    assert all(len(seen) == 1 for seen in side_by_side(inner, range(6)))
