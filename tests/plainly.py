"""Another way to compute the same: without machine code."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tec_zarr.models import across_loops, block_loops, integer_loops, product_loops
from tec_zarr.models.integers import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

LOOPS = {
    integer_loops: ("split", "normalise"),
    product_loops: ("multiply",),
    block_loops: ("advance",),
    across_loops: ("context",),
}


@contextmanager
def plainly(*models: nn.Module) -> Iterator[None]:
    """Torch does everything of transformers, float64 the products; for these models."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in LOOPS.items():
            for name in names:
                patch.setattr(module, name, None)
        for model in models:
            prepare(model)
        yield
    for model in models:
        prepare(model)
