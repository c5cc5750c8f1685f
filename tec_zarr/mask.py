"""Pixels without data: finding them, keeping them exact in few bits, hiding them from a network."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.errors import ConfigError, FormatError
from tec_zarr.header import stored_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float32]

NONE, ALL, BEFORE, SHARED, PER_BAND = range(5)
"""How the mask of a frame is stored: False, True, as in the frame before, one for all bands, one
for each band."""

LARGEST = float(np.finfo(np.float32).max)  # networks see single precision
MARGIN = 16  # pixels around what is masked that `fill` looks at
RAW_DEFLATE = -15  # RFC 1951 without header and checksum: the chunk has its own


def nodata_mask(chunk: NDArray[Any], nodata: float | None) -> Bools:
    """Return where `chunk` has no data, in the chunk's shape.

    ConfigError: `nodata` is no value of the dtype, or other pixels are NaN, infinite, or beyond
    the range of single precision.
    """
    absent = np.zeros(chunk.shape, np.bool_)
    if nodata is not None:
        value = stored_value(nodata, chunk.dtype.str)
        np.equal(chunk, value, out=absent)
        if np.isnan(value):
            np.isnan(chunk, out=absent)
    if chunk.dtype.kind == "f":
        odd = ~(np.abs(chunk) <= LARGEST)
        if odd.any() and (odd & ~absent).any():
            raise ConfigError(
                f"valid pixels of the chunk are NaN or infinite, or beyond {LARGEST:.1e}, and "
                f"nodata is {nodata}: name the value that stands for no data "
                '(nodata="NaN"), or replace these pixels'
            )
    return absent


def pack_mask(mask: Bools) -> bytes:
    """Return a mask (frame, band, y, x) in few bytes: none if it is False everywhere."""
    if not mask.any():
        return b""
    befores = [None, *mask[:-1]]
    modes = bytes(_mode(frame, before) for frame, before in zip(mask, befores, strict=True))
    planes = [_pack_planes(frame, mode) for frame, mode in zip(mask, modes, strict=True)]
    deflate = zlib.compressobj(wbits=RAW_DEFLATE)
    return deflate.compress(modes + b"".join(planes)) + deflate.flush()


def unpack_mask(data: bytes, shape: tuple[int, int, int, int]) -> Bools:
    """Inverse of `pack_mask` for a mask of `shape`; FormatError for anything else.

    However little data inflate to, no more memory is used than the mask itself needs.
    """
    mask = np.zeros(shape, np.bool_)
    if not data:
        return mask
    frames, bands, height, width = shape
    plane = height * -(-width // 8)
    raw = _inflate(data, frames * (1 + (bands + 1) * plane))
    modes, position = raw[:frames], frames
    if len(modes) < frames or max(modes) > PER_BAND or modes[0] == BEFORE:
        raise FormatError("a nodata mask does not say how its frames are stored")
    counts = [{SHARED: 1, PER_BAND: bands + 1}.get(mode, 0) for mode in modes]
    if len(raw) != frames + sum(counts) * plane:
        raise FormatError(f"a nodata mask of {len(raw)} bytes does not fit its shape {shape}")
    for index, (mode, count) in enumerate(zip(modes, counts, strict=True)):
        rows = np.frombuffer(raw, np.uint8, count * plane, position)
        position += len(rows)
        if mode in (SHARED, PER_BAND):
            mask[index] = _unpack_planes(rows.reshape(count, height, -1), width)
        else:
            mask[index] = mask[index - 1] if mode == BEFORE else mode == ALL
    return mask


def fill(values: Floats, mask: Bools) -> Floats:
    """Replace values (frame, band, y, x) under a mask by something smooth that costs few bits.

    Push-pull (Gortler et al. 1996, "The Lumigraph"): means of the valid pixels over ever larger
    squares, interpolated back from coarse to fine, for each frame and band on its own. Valid
    pixels stay exactly as they are; a band without any becomes 0. What stands under the mask is
    never looked at, be it NaN. Returns `values` itself if nothing is masked.
    """
    touched = np.flatnonzero(mask.any(axis=(1, 2, 3)))
    if not len(touched):
        return values
    filled = values.copy()
    for frame in touched:
        window = (slice(None), *_surroundings(mask[frame].any(axis=0)))
        absent, seen = mask[frame][window], filled[frame][window]
        shared = absent[:1] if (absent == absent[:1]).all() else absent
        known = np.where(shared, np.float32(0), seen)
        np.copyto(seen, _smooth(known, shared), where=shared)
    return filled


def keep_valid(values: NDArray[Any], mask: Bools, nodata: float | None) -> None:
    """Make decoded values, in their stored dtype, agree with the mask: in place.

    Masked pixels become exactly nodata. Valid pixels that happen to equal nodata move to the next
    value of the dtype towards zero, or above it if nodata is zero. FormatError: a floating-point
    reconstruction of valid pixels is NaN.
    """
    if values.dtype.kind == "f" and (np.isnan(values) & ~mask).any():
        raise FormatError("the chunk decodes to values that are no numbers")
    if nodata is None:
        return
    value = stored_value(nodata, values.dtype.str)
    np.copyto(values, _neighbour(value), where=values == value)
    np.copyto(values, value, where=mask)


def _neighbour(value: NDArray[Any]) -> NDArray[Any]:
    if value.dtype.kind == "f":
        return np.nextafter(value, np.asarray(value == 0, value.dtype))
    return np.asarray(value.item() + (1 if value <= 0 else -1), value.dtype)


def _mode(frame: Bools, before: Bools | None) -> int:
    if not frame.any():
        return NONE
    if frame.all():
        return ALL
    if before is not None and (frame == before).all():
        return BEFORE
    return SHARED if (frame == frame[:1]).all() else PER_BAND


def _pack_planes(frame: Bools, mode: int) -> bytes:
    """Rows of bits, each as its difference from the row above.

    Bands of their own mask are stored as the mask that all bands share, then the differences.
    """
    if mode not in (SHARED, PER_BAND):
        return b""
    common = frame.all(axis=0, keepdims=True)
    planes = common if mode == SHARED else np.concatenate([common, frame ^ common])
    rows = np.packbits(planes, axis=-1)
    rows[:, 1:] ^= rows[:, :-1].copy()
    return rows.tobytes()


def _unpack_planes(rows: NDArray[np.uint8], width: int) -> Bools:
    """Inverse of `_pack_planes`: (band, y, x), one band for the masks that all bands share."""
    rows = np.bitwise_xor.accumulate(rows, axis=1)
    if width % 8 and (rows[..., -1] << width % 8 & 255).any():
        raise FormatError("a nodata mask goes on beyond the end of its rows")
    planes = np.unpackbits(rows, axis=-1, count=width).view(np.bool_)
    return planes if len(planes) == 1 else planes[1:] ^ planes[:1]


def _inflate(data: bytes, most: int) -> bytes:
    inflate = zlib.decompressobj(wbits=RAW_DEFLATE)
    try:
        raw = inflate.decompress(data, most + 1)
    except zlib.error as err:
        raise FormatError(f"a nodata mask cannot be inflated: {err}") from err
    if not inflate.eof or inflate.unused_data:
        raise FormatError("a nodata mask is cut off or goes on after its end")
    return raw


def _surroundings(mask: Bools) -> tuple[slice, slice]:
    """Return a window of (y, x) that holds all that is masked and some valid pixels around it."""
    y, x = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, at[0] - MARGIN), at[-1] + 1 + MARGIN) for at in (y, x))
    return rows, columns


def _smooth(values: Floats, absent: Bools) -> Floats:
    """Estimate values (band, y, x), which are 0 where absent (1 or band, y, x), from the others."""
    count = _sum2((~absent).astype(np.float32))
    means: Floats = np.divide(_sum2(values), np.maximum(count, 1), dtype=np.float32)
    unknown = count == 0
    if unknown.any() and unknown.shape[-2:] != (1, 1):
        np.copyto(means, _smooth(means, unknown), where=unknown)
    return _double(means)[:, : values.shape[1], : values.shape[2]]


def _sum2(values: Floats) -> Floats:
    """Sum squares of 2 x 2 along y and x; what lies outside counts as 0."""
    rows = values[:, 0::2].copy()
    rows[:, : values.shape[1] // 2] += values[:, 1::2]
    sums = rows[:, :, 0::2].copy()
    sums[:, :, : values.shape[2] // 2] += rows[:, :, 1::2]
    return sums


def _double(values: Floats) -> Floats:
    """Twice as many pixels along y and x, interpolated linearly, edges repeated."""
    bands, height, width = values.shape
    wide = _double_middle(values.reshape(bands * height, width, 1))
    return _double_middle(wide.reshape(bands, height, 2 * width))


def _double_middle(values: Floats) -> Floats:
    outer, size, inner = values.shape
    near, far = values * np.float32(0.75), values * np.float32(0.25)
    doubled = np.empty((outer, size, 2, inner), np.float32)
    np.add(near[:, 1:], far[:, :-1], out=doubled[:, 1:, 0])
    np.add(near[:, :-1], far[:, 1:], out=doubled[:, :-1, 1])
    doubled[:, 0, 0], doubled[:, -1, 1] = values[:, 0], values[:, -1]
    return doubled.reshape(outer, 2 * size, inner)
