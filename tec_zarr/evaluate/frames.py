"""The images that rates are measured on: validation frames, by source. No codec in here."""

from __future__ import annotations

import json
import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.errors import TecError
from tec_zarr.evaluate.tally import Series

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Frame = NDArray[np.uint16]
    Frames = dict[str, list[Frame]]
    Sources = dict[str, list[Series]]

DATA_VARIABLE = "TEC_ZARR_SHARED_DATA"
"""Environment variable: folder with `index.json` and the files that it names."""

DEFAULT_FOLDER = Path("..") / "shared" / "data"

NODATA = 0


class Wanted(NamedTuple):
    """Which samples of the index are meant."""

    split: str = "validation"
    level: str = "L2A"
    bands: int = 12
    side: int = 120
    """Least height and width, in pixels."""

    def admits(self, sample: dict[str, Any]) -> bool:
        """Whether an entry of the index is one of them."""
        _, bands, height, width = sample["shape"]
        kind = (sample["split"], sample["level"], bands) == self[:3]
        return kind and min(height, width) >= self.side


def data_folder(folder: Path | None = None) -> Path:
    """The folder of the samples: as given, or of the environment, or beside the project.

    Raises TecError if there is no index in it.
    """
    chosen = folder or Path(os.environ.get(DATA_VARIABLE) or DEFAULT_FOLDER)
    if not (chosen / "index.json").is_file():
        raise TecError(
            f"no index.json in {chosen}: name the folder of the samples in {DATA_VARIABLE}"
        )
    return chosen


def load_series(folder: Path | None = None, wanted: Wanted | None = None) -> Sources:
    """Series of frames in digital numbers by the source that they come from.

    Raises TecError if the folder has no index or none of the frames.
    """
    place = data_folder(folder)
    samples = json.loads((place / "index.json").read_text("utf-8"))["samples"]
    sources: Sources = {}
    for sample in filter((wanted or Wanted()).admits, samples):
        with np.load(place / sample["file"]) as file:
            series = Series.of(file["data"], sample["bands"])
        sources.setdefault(sample["source"], []).append(series)
    if not sources:
        raise TecError(f"{place} has no samples like {wanted or Wanted()}")
    return sources


def load_dates(folder: Path | None = None, least: int = 4, split: str = "validation") -> Sources:
    """Series of at least so many dates, of level 2A and any size and bands, each by its own name.

    Raises TecError if the folder has no index or no such series.
    """
    place = data_folder(folder)
    samples = json.loads((place / "index.json").read_text("utf-8"))["samples"]
    found: Sources = {}
    for sample in samples:
        if (sample["split"], sample["level"]) == (split, "L2A") and sample["shape"][0] >= least:
            with np.load(place / sample["file"]) as file:
                name = Path(sample["file"]).stem.replace("__", " ")
                found[name] = [Series.of(file["data"], sample["bands"])]
    if not found:
        raise TecError(f"{place} has no series of {least} dates")
    return found


def load_frames(folder: Path | None = None, wanted: Wanted | None = None) -> Frames:
    """The frames (band, y, x) of `load_series`, without what belongs together."""
    sources = load_series(folder, wanted)
    return {source: [*chain(*(one.data for one in own))] for source, own in sources.items()}


def fewer(sources: Sources, frames: int) -> Sources:
    """At most so many frames of each source, the first ones."""
    return {source: list(_first(own, frames)) for source, own in sources.items()}


def _first(own: list[Series], frames: int) -> Iterator[Series]:
    for series in own:
        taken = min(frames, len(series.data))
        if taken:
            yield series._replace(data=series.data[:taken], kinds=series.kinds[:taken])
        frames -= taken
