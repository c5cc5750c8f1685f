"""What a result of the rate benchmark says, as tables. A result is the JSON of `result`.

Nothing is measured here: tables can be made again from a stored result.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.errors import TecError
from tec_zarr.evaluate import curves, sweep
from tec_zarr.evaluate.landcover import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tec_zarr.evaluate.curves import Curve

    Record = Mapping[str, Any]
    Result = dict[str, Any]
    Cell = float | None

POINTS = (30.0, 33.0, 36.0, 40.0, 44.0, 48.0, 52.0, 56.0)
"""PSNR in dB at which sizes are compared, and the qualities of most tables."""

TARGETS = {"JPEG 2000": {33.0: 5.0, 36.0: 3.5, 40.0: 2.3, 44.0: 1.5, 48.0: 1.15}}
AHEAD = {33.0: 1.0, 36.0: 1.0, 40.0: 1.0, 44.0: 1.0}

SMALL = 500
"""Bytes of a frame below which headers decide: such points are marked."""

RANGES = {"bd_rate": (30.0, 56.0), "bd_rate_middle": (33.0, 46.0)}
"""PSNR in dB that a BD-rate covers at most, by its name in a result."""

SCARCE = 0.01
"""A kind of land cover counts for a source if it is at least this part of it."""


class Table(NamedTuple):
    """Rows of cells under a head, ready to be shown."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def text(self) -> str:
        """For a terminal."""
        rows = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        return "\n".join([f"\n{self.title}", *lines])

    def markdown(self) -> str:
        """For a page."""
        rule = ("---",) * len(self.head)
        lines = ["| " + " | ".join(row) + " |" for row in [self.head, rule, *self.rows]]
        return "\n".join([f"{self.title}\n", *lines])


def result(records: Sequence[Record], subsets: Mapping[str, Sequence[Record]]) -> Result:
    """One JSON of all that was measured; the first record is the model's, the others baselines.

    `subsets` holds such records of cubes of fewer bands, by the name of the subset.
    """
    found: Result = {"codecs": [*records], "subsets": dict(subsets)}
    return found | {"comparisons": {one["name"]: compare(records[0], one) for one in records[1:]}}


def compare(own: Record, baseline: Record) -> Result:
    """Times smaller at each PSNR and BD-rate, by source, and the medians over sources."""
    mine, theirs = sweep.curves_of(own), sweep.curves_of(baseline)
    rows = {source: curves.times_smaller(mine[source], theirs[source], POINTS) for source in mine}
    found: Result = {"times_smaller": _named({**rows, "median": curves.medians(rows.values())})}
    for name, ends in RANGES.items():
        rates = {source: curves.bd_rate(mine[source], theirs[source], *ends) for source in mine}
        found[name] = {**rates, "median": _median(rates.values())}
    return found


def save(path: Path, found: Result) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", "utf-8")


def load(path: Path) -> Result:
    """Read a result, and compare anew; TecError if there is none."""
    if not path.is_file():
        raise TecError(f"no {path}: run benchmarks/rate.py first")
    found = json.loads(path.read_text("utf-8"))
    return result(found["codecs"], found["subsets"])


def write_page(path: Path, found: Result) -> None:
    """Replace what stands between the two marks of the model in a page by the tables.

    The marks are comments, `<!-- tables of NAME -->` and `<!-- end of tables of NAME -->`; TecError
    if the page does not have them.
    """
    name = found["codecs"][0]["name"]
    start, end = f"<!-- tables of {name} -->", f"<!-- end of tables of {name} -->"
    before, first, rest = path.read_text("utf-8").partition(start)
    _, second, after = rest.partition(end)
    if not first or not second:
        raise TecError(f"{path} has no lines {start} and {end}")
    made = "\n\n".join(table.markdown() for table in tables(found).values())
    path.write_text(f"{before}{start}\n\n{made}\n\n{end}{after}", "utf-8")


def tables(found: Result) -> dict[str, Table]:
    """All tables of a result, by a short name."""
    mine = sweep.curves_of(found["codecs"][0])
    made = {f"rate, {name}": _rates(found, name) for name in found["comparisons"]}
    made |= {name: _bd_rates(found, name) for name in RANGES}
    made |= {"quality": _by_quality(mine)}
    made |= {"calibration": _calibration(mine), "bands": _bands(mine), "kinds": _kinds(mine)}
    made |= {f"borders, {one['name']}": _borders(one) for one in found["codecs"][:2]}
    return made | ({"subsets": _subsets(found)} if found["subsets"] else {})


def _rates(found: Result, name: str) -> Table:
    own = found["codecs"][0]
    rows = {
        source: [
            _cell(row[f"{psnr:g}"]) + ("*" if _is_small(own, source, psnr) else "")
            for psnr in POINTS
        ]
        for source, row in found["comparisons"][name]["times_smaller"].items()
    }
    targets = TARGETS.get(name, AHEAD if name.startswith("KLT") else {})
    if targets:
        rows["target"] = [_cell(targets.get(psnr)) for psnr in POINTS]
    title = f"Bytes of {name} over bytes of {own['name']} at equal PSNR (* below 500 bytes a frame)"
    return _table(title, [f"{psnr:g} dB" for psnr in POINTS], rows)


def _is_small(own: Record, source: str, psnr: float) -> bool:
    curve = sweep.curves_of(own).get(source)
    size = curves.bytes_at(curve, psnr) if curve else None
    return bool(curve and size and size < SMALL * curve.frames)


def _bd_rates(found: Result, kind: str) -> Table:
    rates = {name: one[kind] for name, one in found["comparisons"].items()}
    sources = list(next(iter(rates.values())))
    rows = {
        source: [_cell(own[source], 100, 1) for own in rates.values()] for source in sources
    }  # fmt: skip
    own, ends = found["codecs"][0]["name"], " to ".join(f"{end:g}" for end in RANGES[kind])
    title = f"BD-rate of {own} in percent of each baseline's bytes, {ends} dB (below 0: smaller)"
    return _table(title, [*rates], rows)


def _by_quality(mine: Mapping[str, Curve]) -> Table:
    heads = {
        "bits": ("bpppb", 1, 4), "psnr": ("PSNR dB", 1, 2), "ssim": ("SSIM", 1, 4),
        "spectral_angle": ("angle deg", 1, 3), "ndvi_error": ("NDVI MAE", 1, 4),
        "ndvi_rmse": ("NDVI RMSE", 1, 4), "edge": ("border", 1, 3), "seam": ("seam", 1, 3),
    }  # fmt: skip
    first = next(iter(mine.values()))
    rows = {
        f"{quality:g}": [
            _cell(_median(getattr(curve, name)[place] for curve in mine.values()), factor, digits)
            for name, (_, factor, digits) in heads.items()
        ]
        for place, quality in enumerate(first.quality)
    }
    title = "By quality, median over sources (border, seam: error there over that elsewhere)"
    return _table(title, [head for head, _, _ in heads.values()], rows, "quality")


def _calibration(mine: Mapping[str, Curve]) -> Table:
    qualities, places = _columns(mine)
    misses = {
        source: [
            None if (psnr := curve.psnr[at]) is None else psnr - curve.quality[at] for at in places
        ]
        for source, curve in mine.items()
    }
    return _table("Measured PSNR minus quality, in dB", qualities, _with_median(misses))


def _bands(mine: Mapping[str, Curve]) -> Table:
    qualities, places = _columns(mine)
    rows = {
        band: [
            _cell(_median(curve.band_psnr[band][at] for curve in mine.values())) for at in places
        ]
        for band in next(iter(mine.values())).band_psnr
    }
    return _table("PSNR in dB by band and quality, median over sources", qualities, rows)


def _kinds(mine: Mapping[str, Curve]) -> Table:
    qualities, places = _columns(mine)
    rows = {}
    for kind in KINDS:
        own = [curve for curve in mine.values() if curve.kind_share.get(kind, 0) >= SCARCE]
        values = [_cell(_median(curve.kind_psnr[kind][at] for curve in own)) for at in places]
        rows[f"{kind} ({len(own)})"] = values
    title = "PSNR in dB by land cover and quality, median over sources (their number)"
    return _table(title, qualities, rows)


def _borders(one: Record) -> Table:
    mine = sweep.curves_of(one)
    qualities, places = _columns(mine)
    rows: dict[str, list[str]] = {}
    for name, what in (("edge", "all borders"), ("seam", "between tiles")):
        values = {source: getattr(curve, name) for source, curve in mine.items()}
        known = {source: [own[at] for at in places] for source, own in values.items() if any(own)}
        rows |= {f"{source}, {what}": cells for source, cells in _with_median(known).items()}
    title = f"{one['name']}: mean squared error within 8 pixels of a border over that elsewhere"
    return _table(title, qualities, rows)


def _subsets(found: Result) -> Table:
    rows = {}
    everything = sweep.curves_of(found["codecs"][0])
    for name, (own, baseline, *_) in found["subsets"].items():
        row = compare(own, baseline)["times_smaller"]["median"]
        rows[f"{name}: times smaller"] = [_cell(row[f"{psnr:g}"]) for psnr in POINTS]
        shares = [
            curves.times_smaller(everything[source], curve, POINTS)
            for source, curve in sweep.curves_of(own).items()
        ]
        rows[f"{name}: part of 12 bands' bytes"] = [
            _cell(share) for share in curves.medians(shares).values()
        ]
    title = f"Fewer bands: against {found['codecs'][1]['name']} of the same bands, medians"
    return _table(title, [f"{psnr:g} dB" for psnr in POINTS], rows)


def _columns(mine: Mapping[str, Curve]) -> tuple[list[str], list[int]]:
    """At most nine of the measured qualities, evenly chosen."""
    measured = next(iter(mine.values())).quality
    places = [*range(0, len(measured), -(-len(measured) // 9))]
    return [f"{measured[at]:g}" for at in places], places


def _with_median(rows: Mapping[str, list[Cell]]) -> dict[str, list[str]]:
    """Rows of numbers as cells, and their medians below."""
    medians = [_median(column) for column in zip(*rows.values(), strict=True)]
    last = {"median": medians} if rows else {}
    return {name: [*map(_cell, row)] for name, row in {**rows, **last}.items()}


def _median(values: Iterable[Cell]) -> Cell:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _cell(value: Cell, factor: float = 1, digits: int = 2) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"


def _named(rows: Mapping[str, Mapping[float, Cell]]) -> dict[str, dict[str, Cell]]:
    return {name: {f"{psnr:g}": value for psnr, value in row.items()} for name, row in rows.items()}


def _table(
    title: str, head: Iterable[str], rows: Mapping[str, list[str]], corner: str = "source"
) -> Table:
    return Table(title, (corner, *head), [(name, *cells) for name, cells in rows.items()])
