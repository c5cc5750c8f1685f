"""The images that rates are measured on: validation frames, by source. No codec in here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.errors import TecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Frame = NDArray[np.uint16]
    Frames = dict[str, list[Frame]]

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


def load_frames(folder: Path | None = None, wanted: Wanted | None = None) -> Frames:
    """Frames (band, y, x) in digital numbers, nodata 0, by the source that they come from.

    Raises TecError if the folder has no index or none of the frames.
    """
    place = data_folder(folder)
    samples = json.loads((place / "index.json").read_text("utf-8"))["samples"]
    frames: Frames = {}
    for sample in filter((wanted or Wanted()).admits, samples):
        with np.load(place / sample["file"]) as file:
            frames.setdefault(sample["source"], []).extend(file["data"])
    if not frames:
        raise TecError(f"{place} has no samples like {wanted or Wanted()}")
    return frames
