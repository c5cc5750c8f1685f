"""The header of a chunk: what a reader must know of it, as fields and as bytes (docs/format.md)."""

from __future__ import annotations

import enum
import math
import os
import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.bands import ORDERS, S2L1C
from tec_zarr.errors import ConfigError, FormatError
from tec_zarr.wire import Reader, varint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SCALING = struct.Struct("<2d")  # scale, offset
BOUND = struct.Struct("<d")  # max_error
ACHIEVED = struct.Struct("<2d")  # max_abs, mse
MODEL = struct.Struct("<HH16s")  # tile side / 64, quality code, artifact

# Codes are places in these tables, for ever: append, never reorder.
DTYPES = ("|u1", "<u2", "<i2", "<i4", "<f4", "<f8", ">u2", ">i2", ">i4", ">f4", ">f8")
BAND_ORDERS = (None, *ORDERS.values())  # None: a list of bands follows

# Code of the first phase of each replication factor: 1 for factor 1, 4 for 2, 9 for 3, ...
BLOCK_CODES = tuple(n * (n + 1) * (2 * n + 1) // 6 for n in range(65))


class Flags(enum.IntFlag):
    """What a chunk is and which optional parts it has. In version 1 all other bits are 0."""

    CONSTANT = 1
    FORTRAN = 2
    NODATA = 4
    SCALING = 8
    REPLICATION = 16
    BOUND = 32
    ACHIEVED = 64
    FRAMES = 128


class Replication(NamedTuple):
    """A band that is constant in blocks of factor x factor pixels; phases are 0 to factor - 1."""

    factor: int
    phase_y: int
    """First row of the chunk where a block begins."""
    phase_x: int
    """First such column."""


class Achieved(NamedTuple):
    """Measured errors over the valid pixels of a chunk, in stored units (mse: squared)."""

    max_abs: float
    mse: float


@dataclass(frozen=True, kw_only=True)
class Header:
    """What decoding needs to know of a chunk beside its artifact; ConfigError if impossible."""

    dtype: str
    """NumPy's string of the stored type, byte order included, e.g. "<u2"."""

    order: str = "C"
    """Memory order, "C" or "F"."""

    shape: tuple[int, ...]
    """(..., band, y, x)."""

    bands: tuple[str, ...]
    """Names as `resolve_bands` gives them, in the order of the band axis."""

    nodata: float | None = None
    """The value of pixels without data, NaN allowed; becomes what the dtype makes of it."""

    scale: float = 1.0
    offset: float = 0.0
    """Digital number = stored * scale + offset."""

    replication: tuple[Replication, ...] | None = None
    """One a band, factor 1 for a band without; None if no band is replicated."""

    max_error: float | None = None
    """Bound on the error of every valid pixel, in stored units; None for no bound."""

    achieved: Achieved | None = None
    """Measured errors, if somebody measured them."""

    tile: int = 256
    """Side of a tile, in pixels."""

    quality: int = 0
    """Quality code, 0 to 65535; the artifact gives it a meaning."""

    lower: tuple[int, ...] = ()
    """How many codes each step (of axis -4) lies below the quality code; empty: none does."""

    artifact: bytes = bytes(16)
    """The first 16 bytes of the artifact's hash."""

    def __post_init__(self) -> None:
        for fine, complaint in self._checks():
            if not fine:
                raise ConfigError(complaint)
        _check_size(math.prod(self.shape) * np.dtype(self.dtype).itemsize)
        if self.nodata is not None:
            object.__setattr__(self, "nodata", stored_value(self.nodata, self.dtype).item())

    def _checks(self) -> list[tuple[bool, str]]:
        names, blocks = self.bands, self.replication or ()
        errors = (self.max_error or 0.0, *(self.achieved or ()))
        return [
            (self.dtype in DTYPES, f"dtype {self.dtype!r} is none of {', '.join(DTYPES)}"),
            (self.order in ("C", "F"), f"order must be C or F, got {self.order!r}"),
            (3 <= len(self.shape) <= 32, f"shape {self.shape} must be (..., band, y, x)"),
            (min(self.shape, default=0) > 0, f"shape {self.shape} has an empty axis"),
            (self.shape[-3:-2] == (len(names),), f"bands {names} for shape {self.shape}"),
            (set(names) <= set(S2L1C), f"an unknown band among {names}"),
            (len(set(names)) == len(names), f"a repeated band among {names}"),
            (len(blocks) in (0, len(names)), f"replication {blocks} for bands {names}"),
            (all(map(_is_block, blocks)), f"impossible replication {blocks}"),
            (math.isfinite(self.scale) and self.scale != 0, f"impossible scale {self.scale}"),
            (math.isfinite(self.offset), f"impossible offset {self.offset}"),
            (all(0 <= error < math.inf for error in errors), f"impossible errors {errors}"),
            (self.tile in range(64, 64 << 16, 64), f"tile {self.tile} is no multiple of 64"),
            (0 <= self.quality < 1 << 16, f"quality code {self.quality} is not in 0..65535"),
            (self._is_by_step(), f"codes {self.lower} below {self.quality} for shape {self.shape}"),
            (len(self.artifact) == 16, f"an artifact of {len(self.artifact)} bytes, not 16"),
        ]

    def _is_by_step(self) -> bool:
        """Whether there is one code for each step, the highest among them, and not all alike."""
        low = self.lower
        return not low or (
            len(low) == steps_in(self.shape) and 0 == min(low) < max(low) <= self.quality
        )


def steps_in(shape: Sequence[int]) -> int:
    """How many steps of time a chunk (..., step, band, y, x) has; one without such an axis."""
    return math.prod(shape[-4:-3])


def stored_value(value: float | np.integer | np.floating, dtype: str) -> NDArray[Any]:
    """Return `value` as a 0-d array of `dtype`; ConfigError if the dtype cannot hold it.

    Floating-point types round; integer types take whole numbers in their range only.
    """
    kind, number = np.dtype(dtype), float(value)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        if info.min <= number <= info.max and number.is_integer():
            return np.array(int(number), kind)
        raise ConfigError(f"{value} is no value of {kind.name}")
    with np.errstate(over="ignore"):
        rounded = np.asarray(value).astype(kind)
    if np.isinf(rounded) and not math.isinf(number):
        raise ConfigError(f"{value} is no value of {kind.name}")
    return rounded


def pack_header(header: Header, *, constant: bool) -> tuple[Flags, bytes]:
    """Return the flags and the bytes of a header; a constant chunk stores nothing of a model."""
    listed = BAND_ORDERS.index(header.bands) if header.bands in BAND_ORDERS else 0
    names = b"" if listed else bytes(map(S2L1C.index, header.bands))
    array = bytes([DTYPES.index(header.dtype), len(header.shape)])
    array += b"".join(map(varint, header.shape)) + bytes([listed]) + names
    parts = _value_parts(header) | ({} if constant else _model_parts(header))
    flags = Flags.CONSTANT * constant | Flags.FORTRAN * (header.order == "F")
    for flag, part in parts.items():
        flags |= flag if part else 0
    return Flags(flags), array + b"".join(parts.values())


def parse_header(reader: Reader, flags: Flags) -> Header:
    """Inverse of `pack_header`; FormatError if the fields are impossible or end early."""
    fields = _array_fields(reader)
    fields["order"] = "F" if flags & Flags.FORTRAN else "C"
    if flags & Flags.NODATA:
        fields["nodata"] = take_value(reader, fields["dtype"]).item()
    if flags & Flags.SCALING:
        fields["scale"], fields["offset"] = reader.unpack(SCALING)
    if not flags & Flags.CONSTANT:
        fields |= _model_fields(reader, flags, len(fields["bands"]))
        if flags & Flags.FRAMES:
            steps = steps_in(fields["shape"])
            fields["lower"] = tuple(reader.varint() for _ in range(steps))
    elif flags & (Flags.REPLICATION | Flags.BOUND | Flags.ACHIEVED | Flags.FRAMES):
        raise FormatError("a constant chunk has fields of a model")
    try:
        return Header(**fields)
    except ConfigError as err:
        raise FormatError(f"the header is impossible: {err}") from err


def take_value(reader: Reader, dtype: str) -> np.generic:
    """Return the next value of `dtype`, every bit of it."""
    kind = np.dtype(dtype)
    value: np.generic = np.frombuffer(reader.take(kind.itemsize), kind)[0]
    return value


def _value_parts(header: Header) -> dict[Flags, bytes]:
    scaling = SCALING.pack(header.scale, header.offset)
    value = header.nodata
    return {
        Flags.NODATA: b"" if value is None else stored_value(value, header.dtype).tobytes(),
        Flags.SCALING: b"" if (header.scale, header.offset) == (1, 0) else scaling,
    }


def _model_parts(header: Header) -> dict[Flags, bytes]:
    blocks = (varint(_block_code(block)) for block in header.replication or ())
    return {
        Flags.REPLICATION: b"".join(blocks),
        Flags.BOUND: b"" if header.max_error is None else BOUND.pack(header.max_error),
        Flags.ACHIEVED: b"" if header.achieved is None else ACHIEVED.pack(*header.achieved),
        Flags(0): MODEL.pack(header.tile // 64, header.quality, header.artifact),
        Flags.FRAMES: b"".join(map(varint, header.lower)),
    }


def _array_fields(reader: Reader) -> dict[str, Any]:
    dtype, ndim = reader.take(2)
    if dtype >= len(DTYPES) or not 3 <= ndim <= 32:
        raise FormatError(f"dtype code {dtype} or {ndim} axes: unknown to version 1")
    shape = tuple(reader.varint() for _ in range(ndim))
    order = reader.take(1)[0]
    if order >= len(BAND_ORDERS):
        raise FormatError(f"band order code {order}: unknown to version 1")
    codes = b"" if order else reader.take(shape[-3])
    if codes and max(codes) >= len(S2L1C):
        raise FormatError(f"band code {max(codes)}: unknown to version 1")
    names = BAND_ORDERS[order] or tuple(S2L1C[code] for code in codes)
    return {"dtype": DTYPES[dtype], "shape": shape, "bands": names}


def _model_fields(reader: Reader, flags: Flags, count: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if flags & Flags.REPLICATION:
        fields["replication"] = tuple(_block(reader.varint()) for _ in range(count))
    if flags & Flags.BOUND:
        fields["max_error"] = reader.unpack(BOUND)[0]
    if flags & Flags.ACHIEVED:
        fields["achieved"] = Achieved(*reader.unpack(ACHIEVED))
    side, fields["quality"], fields["artifact"] = reader.unpack(MODEL)
    return fields | {"tile": 64 * side}


def _check_size(size: int) -> None:
    limit = os.environ.get("TEC_ZARR_MAX_CHUNK_BYTES", str(2 << 30))
    if not limit.isdecimal():
        raise ConfigError(f"TEC_ZARR_MAX_CHUNK_BYTES is {limit!r}, expected a number of bytes")
    if size > int(limit):
        raise ConfigError(
            f"a decoded chunk of {size} bytes is over the limit of {limit}: make chunks smaller, "
            "or raise TEC_ZARR_MAX_CHUNK_BYTES if you trust where the data come from"
        )


def _is_block(block: Replication) -> bool:
    factor, *phases = block
    return 1 <= factor < len(BLOCK_CODES) and all(0 <= phase < factor for phase in phases)


def _block_code(block: Replication) -> int:
    factor, phase_y, phase_x = block
    return BLOCK_CODES[factor - 1] + factor * phase_y + phase_x


def _block(code: int) -> Replication:
    factor = bisect_right(BLOCK_CODES, code)
    return Replication(factor, *divmod(code - BLOCK_CODES[factor - 1], factor))
