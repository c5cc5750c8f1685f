"""The sections of a tile and the index over them, as bytes (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tec_zarr.errors import ConfigError, FormatError
from tec_zarr.wire import CHECKSUM, Reader, crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SHARED = 3  # mask, side information and overrides: what all layers of a tile need


@dataclass(frozen=True, kw_only=True)
class TileData:
    """The sections of a tile. One that is empty in every tile of a chunk costs a byte a chunk."""

    layers: tuple[bytes, ...]
    """Symbol streams, one a layer; image models have one layer."""

    side: bytes = b""
    overrides: bytes = b""
    mask: bytes = b""
    residual: bytes = b""

    checksums: tuple[int, ...]
    """CRC-32C of the integers that each of `layers` decodes to."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= 255:
            raise ConfigError(f"a tile has 1 to 255 layers, got {len(self.layers)}")
        if len(self.checksums) != len(self.layers):
            raise ConfigError(f"{len(self.checksums)} checksums of {len(self.layers)} layers")


class Index(NamedTuple):
    """Sizes and checksums of the tiles of a chunk, in bytes; one row a tile."""

    sections: NDArray[np.int64]
    """(tiles, 4 + layers): mask, side, overrides, each layer, residual."""

    segments: NDArray[np.int64]
    """(tiles, segments): where a reader may stop: after each layer, and after the residual if the
    chunk has residuals."""

    checksums: NDArray[np.uint32]
    """(tiles, segments): CRC-32C of each segment."""


def no_tiles() -> Index:
    """Return the index of a chunk without tiles."""
    empty = np.zeros((0, SHARED + 2), np.int64)
    return Index(empty, empty[:, :1], empty[:, :1].astype(np.uint32))


def pack_tiles(tiles: Sequence[TileData]) -> tuple[bytes, list[bytes]]:
    """Return the index and the bytes of each tile; ConfigError if the tiles differ in layers."""
    layers = {len(tile.layers) for tile in tiles}
    if len(layers) != 1:
        raise ConfigError(f"the tiles of a chunk have {sorted(layers)} layers; expected one number")
    residuals = any(tile.residual for tile in tiles)
    bodies = [_segments(tile, residuals) for tile in tiles]
    checksums = np.array([[crc32c(segment) for segment in body] for body in bodies], "<u4")
    widths, columns = zip(*map(_pack_column, _sizes(tiles).T), strict=True)
    index = [bytes([*layers, *widths]), *columns, checksums.tobytes()]
    return b"".join(index), [b"".join(body) for body in bodies]


def parse_index(reader: Reader, count: int) -> Index:
    """Read the index of `count` tiles, which is all that is left; FormatError if it is not."""
    layers = reader.take(1)[0]
    widths = reader.take(SHARED + layers + 1)
    parts = layers + (widths[-1] > 0)
    # Nothing is allocated before this, for `count` comes from a header that may be hostile.
    if not layers or max(widths) > 4 or count * (sum(widths) + 4 * parts) != reader.left:
        raise FormatError(f"the tile index of the chunk does not fit its {count} tiles")
    sections = np.stack([_parse_column(reader, count, width) for width in widths], axis=1)
    segments = sections[:, SHARED : SHARED + parts].copy()
    segments[:, :layers] += CHECKSUM.size
    segments[:, 0] += sections[:, :SHARED].sum(axis=1)
    checksums = np.frombuffer(reader.take(4 * count * parts), "<u4").reshape(count, parts)
    return Index(sections, segments, checksums)


def split_tile(data: bytes, sizes: Sequence[int], layers: int) -> TileData:
    """Cut the bytes of a tile into its sections: `layers` of them and what follows.

    `sizes` is the tile's row of `Index.sections`; the checksums of the segments must be right.
    """
    reader = Reader(data)
    checksums = [reader.unpack(CHECKSUM)[0]]
    mask, side, overrides = map(reader.take, sizes[:SHARED])
    streams = [reader.take(sizes[SHARED])]
    for size in sizes[SHARED + 1 : SHARED + layers]:
        checksums += reader.unpack(CHECKSUM)
        streams.append(reader.take(size))
    return TileData(
        layers=tuple(streams),
        side=side,
        overrides=overrides,
        mask=mask,
        residual=reader.take(reader.left),
        checksums=tuple(checksums),
    )


def _segments(tile: TileData, residuals: bool) -> list[bytes]:
    streams = [tile.mask + tile.side + tile.overrides + tile.layers[0], *tile.layers[1:]]
    checksums = map(CHECKSUM.pack, tile.checksums)
    segments = [checksum + stream for checksum, stream in zip(checksums, streams, strict=True)]
    return [*segments, tile.residual] if residuals else segments


def _sizes(tiles: Sequence[TileData]) -> NDArray[np.int64]:
    sections = ((t.mask, t.side, t.overrides, *t.layers, t.residual) for t in tiles)
    return np.array([[len(section) for section in tile] for tile in sections], np.int64)


def _pack_column(sizes: NDArray[np.int64]) -> tuple[int, bytes]:
    """Return how many bytes the largest of some sizes needs, and all in that many bytes each."""
    width = (int(sizes.max()).bit_length() + 7) // 8
    if width > 4:
        raise ConfigError(f"a section of {sizes.max()} bytes; the limit is 4 GiB")
    return width, sizes.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


def _parse_column(reader: Reader, count: int, width: int) -> NDArray[np.int64]:
    digits = np.frombuffer(reader.take(count * width), np.uint8).reshape(count, width)
    sizes: NDArray[np.int64] = digits.astype(np.int64) @ (1 << 8 * np.arange(width))
    return sizes
