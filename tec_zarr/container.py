"""The bytes of one chunk, format version 1 (docs/format.md). No pixels are decoded here."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr import tiling
from tec_zarr.errors import ChecksumError, ConfigError, FormatError
from tec_zarr.header import (
    DTYPES,
    Achieved,
    Flags,
    Header,
    Replication,
    pack_header,
    parse_header,
    stored_value,
    take_value,
)
from tec_zarr.sections import (
    SHARED,
    Index,
    TileData,
    no_tiles,
    pack_tiles,
    parse_index,
    split_tile,
)
from tec_zarr.wire import CHECKSUM, Reader, crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "DTYPES",
    "PREFIX",
    "Achieved",
    "Front",
    "Header",
    "Replication",
    "TileData",
    "front_size",
    "pack_chunk",
    "parse_chunk",
    "parse_front",
    "parse_tile",
]

MAGIC = b"TEC1"
VERSION = 1
PREAMBLE = struct.Struct("<4sBHI")  # magic, version, flags, size of the front in bytes

PREFIX = 4096
"""How much of a chunk to read first: its whole front, if it has at most some 400 tiles."""


@dataclass(frozen=True, eq=False)
class Front:
    """All of a chunk that stands before its tiles."""

    header: Header
    constant: np.generic | None
    """The value of every pixel; such a chunk has no tiles."""

    sections: NDArray[np.int64]
    segments: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    """As in `sections.Index`; one row a tile."""

    offsets: NDArray[np.int64]
    """(tiles + 1): first byte of each tile, from the start of the chunk; the last is the end."""

    @property
    def total(self) -> int:
        """Bytes of the whole chunk."""
        return int(self.offsets[-1])

    @property
    def layers(self) -> int:
        """How many layers each tile has."""
        return self.sections.shape[1] - SHARED - 1

    def extent(self, index: int, layers: int | None = None) -> tuple[int, int]:
        """Offset in the chunk and length of a tile, in bytes.

        With `layers`, of its first so many layers, without the residual. ConfigError: no such
        tile or layer.
        """
        if not 0 <= index < len(self.segments):
            raise ConfigError(f"tile {index} of a chunk that has {len(self.segments)}")
        if layers is not None and not 1 <= layers <= self.layers:
            raise ConfigError(f"{layers} layers of a chunk that has {self.layers}")
        return int(self.offsets[index]), int(self.segments[index, :layers].sum())


def pack_chunk(
    header: Header,
    tiles: Sequence[TileData] | None,
    constant: float | np.integer | np.floating | None = None,
) -> bytes:
    """Return the bytes of a chunk: its tiles in the order of `tiling.plan`, or a constant value.

    ConfigError: not just one of the two, a number of tiles that does not fit the header, tiles
    with unlike numbers of layers, masks without `header.nodata`.
    """
    if tiles is not None:
        _check_tiles(header, tiles)
        flags, fields = pack_header(header, constant=False)
        index, bodies = pack_tiles(tiles)
        return b"".join([_seal(flags, fields + index), *bodies])
    if constant is None:
        raise ConfigError("a chunk has tiles or a constant value")
    flags, fields = pack_header(header, constant=True)
    return _seal(flags, fields + stored_value(constant, header.dtype).tobytes())


def front_size(prefix: bytes) -> int:
    """Return the size of the front of a chunk, in bytes, from its first bytes (11 are enough).

    FormatError: no chunk, or one of another version.
    """
    if len(prefix) < PREAMBLE.size:
        raise FormatError(f"a chunk has at least {PREAMBLE.size} bytes, here are {len(prefix)}")
    magic, version, _, size = PREAMBLE.unpack_from(prefix)
    if magic != MAGIC:
        raise FormatError(f"a TEC chunk begins with {MAGIC!r}, not with {magic!r}")
    if version != VERSION:
        raise FormatError(
            f"chunk format version {version}; this release reads version {VERSION}: "
            "if the chunk is not damaged, upgrade tec-zarr"
        )
    return int(size)


def parse_front(front: bytes) -> Front:
    """Parse the first `front_size` bytes of a chunk, no more and no fewer.

    Nothing is believed before the checksum is right, and nothing is allocated that the bytes do
    not pay for. FormatError: damage, or parts that this release does not know.
    """
    size = front_size(front)
    if len(front) != size or size < PREAMBLE.size + CHECKSUM.size:
        raise FormatError(f"a chunk header of {len(front)} bytes where {size} are promised")
    body = front[: -CHECKSUM.size]
    if CHECKSUM.pack(crc32c(body)) != front[len(body) :]:
        raise ChecksumError("the header of the chunk is damaged: its checksum is wrong")
    flags, reader = _flags(PREAMBLE.unpack_from(front)[2]), Reader(body[PREAMBLE.size :])
    header = parse_header(reader, flags)
    constant = take_value(reader, header.dtype) if flags & Flags.CONSTANT else None
    index = _parse_index(reader, header) if constant is None else no_tiles()
    if reader.left:
        raise FormatError(f"{reader.left} unknown bytes at the end of the chunk header")
    ends = size + np.cumsum(index.segments.sum(axis=1))
    return Front(header, constant, *index, np.concatenate([[size], ends]))


def parse_tile(front: Front, index: int, data: bytes, layers: int | None = None) -> TileData:
    """Take a tile apart: `data` is the part of the chunk that `front.extent(index, layers)` names.

    Every checksum is compared before anything is handed out. FormatError: another length;
    ChecksumError: damage; ConfigError: no such tile or layer.
    """
    expected = front.extent(index, layers)[1]
    if len(data) != expected:
        raise FormatError(f"tile {index} has {len(data)} bytes, the index says {expected}")
    ends = accumulate(front.segments[index, :layers].tolist(), initial=0)
    for segment, (start, end) in enumerate(pairwise(ends)):
        if crc32c(data[start:end]) != front.checksums[index, segment]:
            raise ChecksumError(f"tile {index} of the chunk is damaged: its checksum is wrong")
    return split_tile(data, front.sections[index].tolist(), layers or front.layers)


def parse_chunk(data: bytes | bytearray | memoryview) -> tuple[Front, tuple[TileData, ...]]:
    """Inverse of `pack_chunk`: the errors of its parts, and FormatError for another length."""
    data = bytes(data)
    front = parse_front(data[: front_size(data)])
    if len(data) != front.total:
        raise FormatError(f"the chunk has {len(data)} bytes, its index says {front.total}")
    extents = pairwise(front.offsets.tolist())
    return front, tuple(parse_tile(front, i, data[a:b]) for i, (a, b) in enumerate(extents))


def _seal(flags: Flags, fields: bytes) -> bytes:
    size = PREAMBLE.size + len(fields) + CHECKSUM.size
    front = PREAMBLE.pack(MAGIC, VERSION, flags, size) + fields
    return front + CHECKSUM.pack(crc32c(front))


def _flags(flags: int) -> Flags:
    unknown = flags & ~sum(Flags)
    if unknown:
        raise FormatError(
            f"flags {unknown:#06x} of a chunk of format version {VERSION} are unknown to this "
            "release: a newer one wrote the chunk, upgrade tec-zarr to read it"
        )
    return Flags(flags)


def _tile_count(header: Header) -> int:
    height, width = header.shape[-2:]
    return tiling.count(height, width, header.tile)


def _check_tiles(header: Header, tiles: Sequence[TileData]) -> None:
    if len(tiles) != _tile_count(header):
        raise ConfigError(f"{len(tiles)} tiles for a chunk of {_tile_count(header)}")
    if header.nodata is None and any(tile.mask for tile in tiles):
        raise ConfigError("a tile has a nodata mask, but the header no nodata value")


def _parse_index(reader: Reader, header: Header) -> Index:
    index = parse_index(reader, _tile_count(header))
    if header.nodata is None and index.sections[:, 0].any():
        raise FormatError("the chunk has nodata masks, but no nodata value")
    return index
