"""Other ways to compute the same: without machine code, and without products of int8."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tec_zarr.models import integer_loops, integers

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPS = ("split", "settle", "normalise", "bend", "weigh")


@contextmanager
def plainly() -> Iterator[None]:
    """Torch's float32 and float64 do everything in `models.integers`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LOOPS:
            patch.setattr(integer_loops, name, None)
        patch.setattr(integers, "_has_products", bool)
        yield
