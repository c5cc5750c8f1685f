"""Whether the integers of an artifact's prior are integers, and have shapes that fit the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.errors import ModelMismatchError
from tec_zarr.models.activity import LOG_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Integers = Mapping[str, NDArray[Any]]
    Shape = tuple[int, ...]


GAIN, MOST_GAIN = "prior.0.0.gain", 32767
"""Products of larger gains and of sums of symbols need not fit 64 bits."""


def check_prior(integers: Integers, groups: Sequence[Sequence[int]], codes: int, side: int) -> None:
    """Raise ModelMismatchError for integers that do not fit.

    `groups` are the channels of each context group of the coarse and of the fine map, `codes` the
    number of qualities, `side` the pixels of the fine map along one of the coarse.
    """
    sizes = [sum(channels) for channels in groups]
    if len(sizes) != 2 or not min(sizes):
        raise ModelMismatchError(f"a prior has the groups of two maps, not {groups}")
    for name, shape in _shapes(integers, groups, codes, side):
        found = _of(integers, name)
        if found.dtype.kind not in "iu" or found.shape != shape:
            raise ModelMismatchError(
                f"the artifact's {name} is {found.dtype} {found.shape}, not integers {shape}"
            )
    if np.abs(_of(integers, GAIN).astype(np.float64)).max(initial=0) > MOST_GAIN:
        raise ModelMismatchError(f"the artifact's {GAIN} is larger than {MOST_GAIN}")
    extents = _of(integers, "prior.extents")
    if (extents < [groups[0][0], 0]).any() or (extents > sizes).any():
        raise ModelMismatchError("the artifact's prior.extents do not fit the channels there are")


def check_order(name: str, order: NDArray[Any]) -> None:
    """Raise ModelMismatchError unless channels are put in an order that has each of them once."""
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ModelMismatchError(f"the artifact's {name} is no order of {len(order)} channels")


def _shapes(
    integers: Integers, groups: Sequence[Sequence[int]], codes: int, side: int
) -> Iterator[tuple[str, Shape]]:
    maps = len(_of(integers, "prior.upward_bias")) // side**2
    rare = _of(integers, "prior.chances").size
    yield "prior.logs", (LOG_ENTRIES,)
    yield "prior.last", (1,) * min(1, _of(integers, "prior.last").ndim)
    yield "prior.extents", (codes, 2)
    yield "prior.upward", (maps * side**2, sum(groups[0]))
    yield "prior.upward_bias", (maps * side**2,)
    yield from (("prior.chances", (rare,)), ("prior.shifts", (rare,)), ("prior.sparse", (3,)))
    yield "prior.counts", (max(1, _of(integers, "prior.counts").size),)
    for level, channels in enumerate(groups):
        for index, count in enumerate(channels):
            prefix, inside = f"prior.{level}.{index}.", sum(channels[:index]) + maps * level
            yield from _network(integers, prefix, (codes, count, inside))


def _network(
    integers: Integers, prefix: str, sizes: tuple[int, int, int]
) -> Iterator[tuple[str, Shape]]:
    """Shapes of a group's network; `sizes` are quality codes, channels and context channels."""
    codes, count, inside = sizes
    hidden = len(np.atleast_1d(_of(integers, f"{prefix}weight")))
    kinds: Shape = () if inside else (3,)
    if not inside:
        yield GAIN, (2, 4, count)
    yield f"{prefix}weight", (hidden, inside, 3, 3) if inside else (hidden, 2 * count)
    yield f"{prefix}bias", (*kinds, codes, count)
    yield f"{prefix}hidden_bias", (*kinds, codes, hidden)
    yield f"{prefix}out", (count, hidden)


def _of(integers: Integers, name: str) -> NDArray[Any]:
    try:
        return integers[name]
    except KeyError:
        raise ModelMismatchError(f"the artifact lacks the tensor {name}") from None
