"""What the command line prints, as text and tables of rich."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from tec_zarr.bands import ORDERS
from tec_zarr.cards import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tec_zarr.archive import ArrayInfo, ArrayReport, ChunkInfo, Report, StoreInfo
    from tec_zarr.container import Header
    from tec_zarr.models.catalogue import Entry

    Line = str | Table

LISTED = 20
"""Problems that are shown; the rest is counted."""

HASH_DIGITS = 12


def size_line(place: str, found: StoreInfo | ChunkInfo) -> str:
    """One line on how big something is."""
    ratio = found.raw_bytes / max(1, found.stored_bytes)
    sizes = f"{_size(found.raw_bytes)} of values in {_size(found.stored_bytes)}"
    carried = sum(model.stored_bytes for model in getattr(found, "models", ()))
    models = f"; {_size(carried)} of it are models" if carried else ""
    return f"{place}: {sizes}, {ratio:.1f} times smaller{models}"


def store(found: StoreInfo) -> Iterator[Line]:
    """The arrays of a store, and what their chunks say."""
    yield size_line(f"Zarr format {found.zarr_format}", found)
    table = _table("array", "shape", "chunks", "dtype", "stored", "ratio")
    for array in found.arrays:
        sizes = _size(array.stored_bytes), f"{array.ratio:.1f}"
        table.add_row(array.name, _times(array.shape), _times(array.chunks), array.dtype, *sizes)
    yield table
    for array in found.arrays:
        yield from _codec(array)
    for model in found.models:
        known = f"{model.name}, " if model.name else ""
        digits = model.identity[:HASH_DIGITS]
        yield f"{model.place}: {known}hash {digits}, {_size(model.stored_bytes)}"


def _codec(array: ArrayInfo) -> Iterator[str]:
    codec, contents = array.codec, array.contents
    if codec is None:
        return
    bands = "all bands" if codec.bands is None else " ".join(codec.bands)
    quality = ", ".join(f"{quality:g}" for quality in codec.qualities)
    yield f"{array.name}: {codec.model} at quality {quality}, tiles of {codec.tile}"
    yield f"  nodata {codec.nodata}, DN = stored * {codec.scale:g} + {codec.offset:g}, {bands}"
    if contents is None:
        yield "  its chunks are wrapped in other codecs"
        return
    missing = contents.chunks - contents.stored
    counts = {"all fill value, not stored": missing, "constant": contents.constant}
    counts |= {"DAMAGED": contents.damaged}
    shown = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    shards = f" in shards of {_times(array.shards)}" if array.shards else ""
    layout = f"{contents.chunks} chunks of {_times(array.chunks)}{shards}"
    yield f"  {layout}" + (f": {shown}" if shown else "")
    models = (f"{digits[:HASH_DIGITS]} ({name_of(digits) or '?'})" for digits in contents.models)
    yield f"  model hash {', '.join(models)}" if contents.models else "  no model needed"
    if contents.max_error is not None:
        yield f"  no error above {contents.max_error:g}"
    if contents.achieved:
        worst, mse = contents.achieved
        yield f"  recorded errors: at most {worst:g}, root mean square {math.sqrt(mse):.3g}"


def chunk(found: ChunkInfo) -> Iterator[Line]:
    """The header of a chunk."""
    header = found.header
    yield size_line("TEC chunk, format version 1", found)
    table = _table("field", "value")
    for name, value in _fields(header).items():
        table.add_row(name, value)
    if found.constant:
        table.add_row("pixels", "all of one value")
    else:
        table.add_row("tiles", f"{found.tiles} of side {header.tile}")
        table.add_row("model", f"{found.model or 'unknown here'}, hash {header.artifact.hex()}")
        codes = [header.quality - lower for lower in header.lower or (0,)]
        table.add_row("quality code", ", ".join(map(str, codes)))
    yield table


def _fields(header: Header) -> dict[str, str]:
    fields = {
        "shape": _times(header.shape),
        "dtype": f"{header.dtype}, order {header.order}",
        "bands": " ".join(header.bands),
        "nodata": str(header.nodata),
        "digital number": f"stored * {header.scale:g} + {header.offset:g}",
    }
    if header.max_error is not None:
        fields["bound"] = f"no error above {header.max_error:g}"
    if header.achieved:
        worst, mse = header.achieved
        fields["errors"] = f"at most {worst:g}, root mean square {math.sqrt(mse):.3g}"
    return fields


def report(found: Report) -> Iterator[Line]:
    """What was verified, and what is wrong."""
    columns = ("chunks", "not stored", "problems", "max error", "RMSE", "PSNR")
    table = _table("array", *columns)
    for array in found.arrays:
        counts = (str(array.read), str(array.missing or ""), str(len(array.problems) or ""))
        table.add_row(array.name, *counts, *_errors(array))
    yield table
    if any(array.distortion for array in found.arrays):
        yield "Errors in digital numbers (reflectance * 10000); PSNR in dB at peak 10000."
    problems = found.problems
    yield from (str(problem) for problem in problems[:LISTED])
    if len(problems) > LISTED:
        yield f"... and {len(problems) - LISTED} more"
    yield f"{len(problems) or 'no'} problem" + "s" * (len(problems) != 1)


def _errors(array: ArrayReport) -> tuple[str, ...]:
    errors = array.distortion
    if errors is None or not errors.count:
        return ("", "", "")
    return f"{errors.max_error:g}", f"{errors.rmse:.2f}", f"{errors.psnr:.2f}"


def models(known: Iterable[Entry]) -> Table:
    """Models that are at hand."""
    table = _table("name", "family", "bands", "qualities", "size", "hash", "where", "")
    for entry in known:
        what = (entry.name, entry.family, _bands(entry.bands), _range(entry.qualities))
        where = (_size(entry.size), entry.identity[:HASH_DIGITS], entry.place)
        table.add_row(*map(_plain, (*what, *where, entry.problem or _summary(entry))))
    return table


def model(entry: Entry) -> Table:
    """A model and its card."""
    fields = {
        "name": entry.name,
        "family": entry.family,
        "bands": " ".join(map(str, entry.bands)),
        "qualities": _range(entry.qualities),
        "hash": entry.identity,
        "file": f"{entry.path}, {_size(entry.size)}",
    }
    table = _table("", "")
    for name, value in (fields | {key: _prose(value) for key, value in entry.card.items()}).items():
        table.add_row(_plain(name), _plain(value))
    return table


def _summary(entry: Entry) -> str:
    return str(entry.card.get("summary", ""))


def _prose(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=1)


def _plain(text: str) -> Text:
    """Text of others, which must not talk to the terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else "?" for c in text))


def _bands(bands: tuple[str, ...]) -> str:
    return next((name for name, order in ORDERS.items() if order == bands), " ".join(bands))


def _range(qualities: tuple[float, ...]) -> str:
    shown = [f"{quality:g}" for quality in qualities]
    return ", ".join(shown) if len(shown) < 8 else f"{shown[0]} to {shown[-1]} ({len(shown)})"


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes)) or "scalar"


def _size(count: int) -> str:
    """Bytes in a unit that leaves a number to read."""
    value, units = float(count), iter(("bytes", "kB", "MB", "GB"))
    for unit in units:
        if value < 1000:
            return f"{value:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        value /= 1000
    return f"{value:.3g} TB"
