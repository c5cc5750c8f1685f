"""How an image variable is cut into chunks and shards, and which writes keep to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    Sizes = Mapping[str, int] | Sequence[int] | None
    Shape = tuple[int, ...]
    Region = Mapping[Hashable, slice]

SIDE = 512
"""Pixels of a chunk along y and x, unless something else is asked for."""


class Layout(NamedTuple):
    """The chunks of an array with the axes (..., band, y, x)."""

    chunks: Shape
    """What the codec gets at once."""

    shards: Shape | None
    """What is one object in the store, in pixels as well; None if every chunk is one."""

    @property
    def unit(self) -> Shape:
        """What must be written at once."""
        return self.shards or self.chunks


STEPS = 8
"""Steps of time in a chunk of a temporal model, unless something else is asked for."""


def plan_layout(
    dims: Mapping[Hashable, int], chunks: Sizes = None, shards: Sizes = None, steps: int = 1
) -> Layout:
    """Choose chunks for an array of these dimensions (ordered; the last three are band, y, x).

    The default is `steps` of time (the axis before the bands; fewer if there are fewer), one of the
    axes before it, all bands, 512 x 512 pixels. `chunks` and `shards`
    give sizes by dimension (-1 for all of it) or for all dimensions in order.
    `ConfigError`: sizes that do not fit, chunks that split the bands, shards that cut a chunk.
    """
    shape = tuple(dims.values())
    leading = (*(1 for _ in shape[:-4]), *(min(steps, size) for size in shape[-4:-3]))
    usual = (*leading, shape[-3], *(min(SIDE, size) for size in shape[-2:]))
    chosen = _sizes(dims, chunks, usual)
    if chosen[-3] != shape[-3]:
        raise ConfigError(
            f"a chunk must hold all {shape[-3]} bands, got {chosen[-3]}: leave it out"
        )
    if shards is None:
        return Layout(chosen, None)
    outer = _sizes(dims, shards, chosen)
    if any(shard % chunk for shard, chunk in zip(outer, chosen, strict=True)):
        raise ConfigError(f"shards {outer} must be multiples of the chunks {chosen}")
    return Layout(chosen, outer)


def check_aligned(name: str, dims: Mapping[Hashable, int], region: Region, unit: Shape) -> None:
    """Raise `ConfigError` if writing a region would rewrite a part of a chunk (or shard).

    `dims` are those of the array in the store once the region is written, `unit` its chunks or
    shards; dimensions without a slice are written as a whole.
    """
    for (dim, size), step in zip(dims.items(), unit, strict=True):
        start, stop, _ = region.get(dim, slice(None)).indices(size)
        if start % step or (stop % step and stop != size):
            raise ConfigError(
                f"writing {name!r} from {start} to {stop} along {dim!r} would decode and encode"
                f" again chunks that it covers in part, and they lose quality every time; "
                + _way_out(str(dim), start, step, appended=stop == size)
            )


def _way_out(dim: str, start: int, step: int, *, appended: bool) -> str:
    if not (appended and start % step):
        return f"start and end at multiples of {step}, or rewrite the array with other chunks"
    return (
        f"one of {step} is filled up to {start % step}: write this part to a store of its own and"
        " join them on reading (xr.concat), or write all of it anew from its source (with"
        f" chunks={{{dim!r}: {math.gcd(start, step)}}}, such parts can be appended)"
    )


def is_aligned(pieces: Sequence[Sequence[int]], unit: Shape) -> bool:
    """Whether the sizes of dask chunks, by axis, never put two of them into one chunk."""
    return not any(
        size % step for sizes, step in zip(pieces, unit, strict=True) for size in sizes[:-1]
    )


def _sizes(dims: Mapping[Hashable, int], given: Sizes, usual: Shape) -> Shape:
    if given is None:
        return usual
    if not isinstance(given, Mapping):
        if len(given) != len(dims):
            raise ConfigError(f"{given} has not one size for each of the axes {list(dims)}")
        given = dict(zip(map(str, dims), given, strict=True))
    sizes = [given.get(str(dim), size) for dim, size in zip(dims, usual, strict=True)]
    sizes = [full if size == -1 else size for size, full in zip(sizes, dims.values(), strict=True)]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(f"sizes of chunks and shards must be positive whole numbers, got {given}")
    return tuple(sizes)
