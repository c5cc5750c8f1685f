"""What models ask of an entropy coder, and the one place where floats become integers on the way.

Everything that a reader must repeat exactly (a table row, a code of a mean, the forecast of a token
that is not sent) passes a `Guard`; what comes out of it is the same integer on every machine:

    networks in float64 -> guard -> integers -> coder -> symbols
                             |
                     overrides of the tile

A reader's float64 differs from the writer's in its last bits. Only where a value lies next to a
border between two integers can that matter. There the writer takes the lower integer and puts the
place on the tile's list of overrides (docs/format.md).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray

from tec_zarr.errors import FormatError, TecError
from tec_zarr.models import loops
from tec_zarr.wire import Reader, parse_varints, varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from tec_zarr.entropy.tables import Tables

Ints = NDArray[np.int32]
Wide = NDArray[np.int64]

BAND = 1e-6
"""Half the width of the guard band around a border, in steps between integers.

Thousands of times what float64 networks differ by; see benchmarks/portability.py."""

LIMIT = 2.0**30
"""Larger values are cut to it, so that integers fit; NaN becomes 0."""

NOWHERE = -1.0
"""No band at all."""


class Coder(Protocol):
    """Turns symbols into bytes or bytes into symbols; the caller need not know which.

    Symbols and table rows are (tiles, n). Returned are the symbols as every reader will see them.
    """

    def __call__(self, symbols: Ints | None, rows: Ints) -> Ints: ...


class Guard(Protocol):
    """Rounds float64 values (tiles, ...) to the nearest integers, int32, alike on all machines.

    May be called many times; a tile's values are numbered through, in C order, call by call.
    """

    def __call__(self, values: Tensor) -> Tensor: ...


class GuardedCoder(Coder, Protocol):
    """What models with predicted rows need: a coder, and a guard for all that a reader repeats."""

    @property
    def guard(self) -> Guard: ...

    @property
    def above(self) -> Sequence[GuardedCoder]:
        """Of the layers above this one, as far as they are written or read."""


class Recorder:
    """The writer's guard: notes where a value lies within the band of a border."""

    def __init__(self, tiles: int) -> None:
        self.seen = 0
        """Values of each tile so far."""
        self._places: list[list[Wide]] = [[] for _ in range(tiles)]

    def __call__(self, values: Tensor) -> Tensor:
        flat = _flat(values, len(self._places))
        whole, near = _nearest(flat, BAND)
        tiles, places = np.divmod(near, max(1, flat.shape[1]))
        for tile in np.unique(tiles):
            self._places[tile].append(self.seen + places[tiles == tile])
        self.seen += flat.shape[1]
        return whole.view(values.shape)

    @property
    def counts(self) -> Wide:
        """(tiles,): overrides so far."""
        return np.array([sum(map(len, places)) for places in self._places], np.int64)

    @property
    def share(self) -> float:
        """Overrides of the tile that has most, as a share of its values."""
        return float(self.counts.max(initial=0)) / max(1, self.seen)

    def finish(self) -> list[bytes]:
        """Return the section of overrides of each tile; it is empty if there are none."""
        return [pack_places(np.concatenate([*found, NONE])) for found in self._places]


class Replay:
    """The reader's guard: takes the lower integer where the writer did."""

    def __init__(self, sections: Sequence[bytes]) -> None:
        """`sections` are the overrides of each tile; FormatError if they are none."""
        parsed = [parse_places(section) for section in sections]
        tiles = np.repeat(np.arange(len(parsed)), [len(places) for places in parsed])
        places = np.concatenate([*parsed, NONE])
        order = places.argsort(kind="stable")
        self._count, self._tiles, self._places = len(parsed), tiles[order], places[order]
        self._seen = self._used = 0

    def __call__(self, values: Tensor) -> Tensor:
        flat = _flat(values, self._count)
        end = self._seen + flat.shape[1]
        upto = int(self._places.searchsorted(end))
        whole, _ = _nearest(flat, NOWHERE)
        # Borders lie between integers: on either side of one, the lower integer is the floor.
        own = slice(self._used, upto)
        places = self._tiles[own], self._places[own] - self._seen
        lower = tuple(torch.from_numpy(part).to(flat.device) for part in places)
        whole[lower] = torch.floor(_cut(flat[lower])).to(torch.int32)
        self._seen, self._used = end, upto
        return whole.view(values.shape)

    def finish(self) -> None:
        """Raise FormatError unless every override was met."""
        if self._used < len(self._places):
            raise FormatError(
                f"a tile has an override for value {self._places[-1]}, its model has {self._seen}"
            )


class Checked:
    """A guarded coder that keeps the CRC-32C of each tile's integers, little-endian int32.

    They are what the coder and the guard return, in the order of the calls. Symbols in certain rows
    do not count: how many there are may depend on the other tiles of a batch.
    """

    def __init__(
        self,
        coder: Coder,
        guard: Guard,
        tables: Tables,
        tiles: int,
        above: Sequence[GuardedCoder] = (),
    ) -> None:
        self.coder, self.above = coder, above
        self._guard, self._tables = guard, tables
        self.checksums = [0] * tiles

    def __call__(self, symbols: Ints | None, rows: Ints) -> Ints:
        known = self.coder(symbols, rows)
        places, ends = self._tables.uncertain_places(rows)
        counted = known.ravel().take(places)
        self._note(counted[start:end] for start, end in pairwise([0, *ends.tolist()]))
        return known

    def guard(self, values: Tensor) -> Tensor:
        """Round values (tiles, ...) to the nearest integers, alike on all machines."""
        known = self._guard(values)
        self._note(known.flatten(1).cpu().numpy())
        return known

    def _note(self, integers: Iterable[Ints]) -> None:
        for tile, values in enumerate(integers):
            data = values.astype("<i4", copy=False).tobytes()
            self.checksums[tile] = google_crc32c.extend(self.checksums[tile], data)


NONE = np.zeros(0, np.int64)


def pack_places(places: Wide) -> bytes:
    """Bytes of rising places (n,): the first one, then how many others lie between two."""
    return b"".join(map(varint, (np.diff(places, prepend=-1) - 1).tolist()))


def parse_places(section: bytes) -> Wide:
    """Inverse of `pack_places`; FormatError if it does not write such bytes."""
    gaps = parse_varints(section)
    if gaps.astype(np.float64).sum() > 2.0**40:
        raise FormatError("an override lies beyond the values of any tile")
    places: Wide = np.cumsum(gaps + 1) - 1
    return places


def pack_lists(lists: Sequence[bytes]) -> bytes:
    """The overrides of a tile: the list of its only layer, or those of all, each with its length.

    >>> pack_lists([b"ab", b""]).hex()
    '02616200'
    """
    if len(lists) == 1:
        return lists[0]
    return b"".join(varint(len(own)) + own for own in lists) if any(lists) else b""


def parse_lists(section: bytes, layers: int) -> list[bytes]:
    """Inverse of `pack_lists`; FormatError if it does not write such bytes."""
    if layers == 1 or not section:
        return [section, *[b""] * (layers - 1)]
    reader = Reader(section)
    lists = [reader.take(reader.varint()) for _ in range(layers)]
    if reader.left or not any(lists):
        raise FormatError(f"overrides of a tile that are no lists for its {layers} layers")
    return lists


def _flat(values: Tensor, tiles: int) -> Tensor:
    """Values (tiles, n)."""
    if values.dtype != torch.float64 or len(values) != tiles:
        raise TecError(f"{values.dtype} values {tuple(values.shape)} for {tiles} tiles")
    return values.reshape(tiles, -1)


def _nearest(flat: Tensor, band: float) -> tuple[Tensor, Wide]:
    """The nearest integers, or the lower ones next to a border; and the places of these, (n,)."""
    if loops.nearest and flat.device.type == "cpu":
        whole, places = torch.empty(flat.shape, dtype=torch.int32), np.empty(flat.numel(), np.int64)
        values, found = (part.view(-1).numpy() for part in (flat.contiguous(), whole))
        return whole, places[: loops.nearest(values, band, LIMIT, found, places)]
    flat = _cut(flat)
    lower = torch.floor(flat)
    near = (flat - lower - 0.5).abs_() <= band
    above = (flat - lower >= 0.5) & ~near
    return (lower + above).to(torch.int32), near.view(-1).nonzero()[:, 0].cpu().numpy()


def _cut(flat: Tensor) -> Tensor:
    """Values that are finite and within the limit."""
    return torch.nan_to_num(flat).clamp_(-LIMIT, LIMIT)
