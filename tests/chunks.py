"""Headers and tiles for tests, drawn at random or picked by hand; chunks taken apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tec_zarr import container, tiling
from tec_zarr.bands import S2L1C, S2L2A
from tec_zarr.container import DTYPES, Achieved, Header, Replication, TileData

CHECKSUMS = st.integers(0, 2**32 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ERRORS = st.floats(0, 1e300)
BANDS = st.sampled_from([S2L2A, S2L1C]) | st.lists(
    st.sampled_from(S2L1C), min_size=1, max_size=13, unique=True
).map(tuple)


def values(dtype: str) -> st.SearchStrategy[float]:
    """Draw values that `dtype` can hold, NaN and infinities included."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return st.floats(width=32 if kind.itemsize == 4 else 64)
    info = np.iinfo(kind)
    return st.integers(info.min, info.max)


@st.composite
def replications(draw: st.DrawFn) -> Replication:
    factor = draw(st.integers(1, 64) | st.sampled_from([1, 2, 6]))
    phases = st.integers(0, factor - 1)
    return Replication(factor, draw(phases), draw(phases))


@st.composite
def headers(draw: st.DrawFn) -> Header:
    dtype, bands = draw(st.sampled_from(DTYPES)), draw(BANDS)
    leading = draw(st.lists(st.integers(1, 3), max_size=3))
    quality = draw(st.integers(0, 65535))
    codes = st.tuples(*[st.integers(0, quality)] * math.prod(leading[-1:]))
    lower = draw(codes.filter(lambda drawn: 0 in drawn and any(drawn)) | st.just(()))
    size = st.integers(1, 200)
    count = len(bands)
    return Header(
        dtype=dtype,
        order=draw(st.sampled_from("CF")),
        shape=(*leading, count, draw(size), draw(size)),
        bands=bands,
        nodata=draw(st.none() | values(dtype)),
        scale=draw(st.just(1.0) | FINITE.filter(bool)),
        offset=draw(st.just(0.0) | FINITE),
        replication=draw(st.none() | st.tuples(*[replications()] * count)),
        max_error=draw(st.none() | ERRORS),
        achieved=draw(st.none() | st.builds(Achieved, ERRORS, ERRORS)),
        tile=draw(st.sampled_from([64, 128, 256, 64 * 65535])),
        quality=quality,
        lower=lower,
        artifact=draw(st.binary(min_size=16, max_size=16)),
    )


def tiles_of(header: Header) -> st.SearchStrategy[list[TileData]]:
    """Draw as many tiles as a chunk has; some sections are empty in all of them."""

    def some(present: tuple[bool, ...], layers: int) -> st.SearchStrategy[list[TileData]]:
        names = ("side", "overrides", "mask", "residual")
        sections = {n: st.binary(max_size=9) for n, on in zip(names, present, strict=True) if on}
        tile = st.builds(
            TileData,
            layers=st.tuples(*[st.binary(max_size=300)] * layers),
            checksums=st.tuples(*[CHECKSUMS] * layers),
            **sections,
        )
        height, width = header.shape[-2:]
        count = tiling.count(height, width, header.tile)
        return st.lists(tile, min_size=count, max_size=count)

    maskable = st.just(False) if header.nodata is None else st.booleans()
    present = st.tuples(st.booleans(), st.booleans(), maskable, st.booleans())
    return st.tuples(present, st.integers(1, 3)).flatmap(lambda drawn: some(*drawn))


def usual_header(**changes: object) -> Header:
    """One time step of 12 bands, 512 x 512 pixels in four tiles."""
    options: dict[str, Any] = {
        "dtype": "<u2",
        "shape": (1, 12, 512, 512),
        "bands": S2L2A,
        "nodata": 0,
        "quality": 64,
        "artifact": bytes(range(16)),
    }
    return Header(**(options | changes))


def full_header() -> Header:
    """Use every optional part."""
    return usual_header(
        order="F",
        shape=(1, 2, 3, 64, 130),
        bands=("B12", "B8A", "B01"),
        scale=1e-4,
        offset=-0.1,
        replication=(Replication(2, 1, 0), Replication(1, 0, 0), Replication(6, 3, 5)),
        max_error=5.0,
        achieved=Achieved(4.5, 1.25),
        tile=64,
        lower=(0, 64),
    )


def full_tiles() -> list[TileData]:
    """Two tiles of two layers with every section."""
    return [
        TileData(
            layers=(b"layer 0" * size, b"layer 1 is longer" * size),
            side=b"side" * size,
            overrides=b"o" * size,
            mask=b"mask",
            residual=b"residual" * size,
            checksums=(size, 0xFFFFFFFF - size),
        )
        for size in (1, 2)
    ]


def plain(header: Header) -> dict[str, Any]:
    """Fields to compare: NaN equals NaN."""
    fields = vars(header).copy()
    if isinstance(header.nodata, float) and math.isnan(header.nodata):
        fields["nodata"] = "NaN"
    return fields


def changed(data: bytes, bit: int) -> bytes:
    """Flip one bit."""
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def front_of(chunk: bytes) -> container.Front:
    return container.parse_front(chunk[: container.front_size(chunk)])


def parts_of(chunk: bytes, layers: int | None = None) -> dict[int, bytes]:
    """The bytes of all tiles, or of their first layers."""
    front = front_of(chunk)
    extents = [front.extent(tile, layers) for tile in range(len(front.segments))]
    return {tile: chunk[start : start + size] for tile, (start, size) in enumerate(extents)}
