"""The specification must say what the code does."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tec_zarr import container, header, wire
from tec_zarr.bands import S2L1C
from tec_zarr.container import DTYPES, pack_chunk, parse_chunk
from tec_zarr.models import spectral
from tests.chunks import usual_header

if TYPE_CHECKING:
    import struct

PAGE = Path(__file__).parents[1] / "docs" / "format.md"


def section(heading: str) -> str:
    return PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table rows of a section."""
    lines = re.findall(r"^\| (.*) \|$", section(heading), re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def test_the_dissected_constant_chunk_is_a_chunk() -> None:
    parts = [
        (int(row[0]), bytes.fromhex(row[1].strip("`")))
        for row in rows("A constant chunk, byte by byte")[1:]
    ]
    chunk = b"".join(part for _, part in parts)
    assert [offset for offset, _ in parts] == [
        sum(len(part) for _, part in parts[:index]) for index in range(len(parts))
    ]
    front, tiles = parse_chunk(chunk)
    assert front.header == usual_header(quality=0, artifact=bytes(16))
    assert front.constant == np.uint16(0)
    assert not tiles
    assert pack_chunk(usual_header(), None, constant=0) == chunk


def test_codes_are_those_of_the_page() -> None:
    cells = [cell.strip("`").replace("\\", "") for row in rows("Header") for cell in row]
    for code, dtype in enumerate(DTYPES):
        assert (str(code), dtype) in pairwise(cells)
    bands = next(row for row in rows("Header") if row[0] == "band")
    assert tuple(bands[1:]) == S2L1C


def test_flags_are_those_of_the_page() -> None:
    table = {row[0]: row[1] for row in rows("Preamble")}
    for flag in header.Flags:
        assert table[str(flag.name)] == str(flag.bit_length() - 1)
    assert f"Bits {len(header.Flags)} to 15 are 0" in section("Preamble")


@pytest.mark.parametrize(
    ("layout", "heading"),
    [
        (container.PREAMBLE, "Preamble"),
        (header.SCALING, "Header"),
        (header.BOUND, "Header"),
        (header.ACHIEVED, "Header"),
        (header.MODEL, "Header"),
        (wire.CHECKSUM, "Segments and sections"),
    ],
)
def test_layouts_are_those_of_the_page(layout: struct.Struct, heading: str) -> None:
    assert f"`{layout.format}`" in section(heading)
    if heading == "Header":
        sizes = [row[0] for row in rows(heading) if f"`{layout.format}`" in row[-1]]
        assert sizes
        assert set(sizes) == {str(layout.size)}


def test_the_preamble_is_as_long_as_its_fields() -> None:
    fields = [row for row in rows("Preamble") if row[0].isdigit()]
    assert sum(int(row[1]) for row in fields) == container.PREAMBLE.size
    assert f"{container.PREAMBLE.size} bytes" in section("Preamble")
    assert str(container.PREFIX) in section("Preamble")


def test_rotations_are_those_of_the_page() -> None:
    table = rows("Segments and sections")
    octaves = next(row for row in table if row[0] == "m")[1:]
    starts = (0, *spectral.EDGES[:-1])
    assert [octave.replace(",", " to").split(" to ") for octave in octaves] == [
        [str(start), str(edge - 1)] if edge - start > 1 else [str(start)]
        for start, edge in zip(starts, spectral.EDGES, strict=True)
    ]
    fields = {row[1]: row[0] for row in table}
    assert fields["count"] == str(spectral.COUNT_BITS)
    assert fields["width"] == str(spectral.WIDTH_BITS)
    assert fields["angles"] == "4 + 2 w each"
    assert tuple(4 + 2 * w for w in range(2**spectral.WIDTH_BITS)) == spectral.WIDTHS
    assert f"4^(3 - w) / {2**spectral.ANGLE_BITS} of a full turn" in section(
        "Segments and sections"
    )


def test_the_dissected_chunk_is_the_golden_one() -> None:
    golden = Path(__file__).parent / "golden" / "v1" / "patch-one-frame" / "chunk.tec"
    chunk = golden.read_bytes()
    table = rows("A chunk with tiles, byte by byte")[1:]
    shown = [(int(row[0]), bytes.fromhex(row[1].strip("`. "))) for row in table]
    assert len(shown) > 20
    for offset, part in shown:
        assert chunk[offset : offset + len(part)] == part
    assert f"{len(chunk):,} bytes" in section("A chunk with tiles, byte by byte")
