"""The card of a trained model: what is known of it and of its data, and what its maker says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypedDict

import xarray as xr

from tec_zarr.archive.stores import local, open_datasets
from tec_zarr.models.catalogue import find
from tec_zarr.train.kinds import is_checkpoint
from tec_zarr.train.loop import describe
from tec_zarr.train.sources import array_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tec_zarr.archive.stores import Location
    from tec_zarr.train.loop import TrainConfig

SENTINEL = "contains modified Copernicus Sentinel data"
"""The attribution that the terms of Copernicus ask for, followed by years."""


class Prose(TypedDict, total=False):
    """What a maker may say, instead of what follows from the run."""

    summary: str
    """One line for listings."""

    licence: str
    """Of the weights."""

    data: str
    """Attribution of the training data."""


def card_of(config: TrainConfig, said: Prose) -> dict[str, Any]:
    """The card of what a run makes; of a model that it goes on from, the card counts too."""
    start, name = config.start, describe(config)["data"]
    before: Mapping[str, Any] = {}
    if start is not None and not is_checkpoint(start):
        before = find(start).card
    origin = f"fine-tuned from {describe(config)['start']}" if start else "trained"
    own = {
        "summary": f"{config.model.title}, {origin} on {name}",
        "licence": before.get("licence", "not stated"),
        "data": "; ".join([*attributions(config.data), *filter(None, [before.get("data")])]),
    }
    return {**own, **said, "training": describe(config)}


def attributions(place: Location) -> list[str]:
    """What the data of a place ask to be told of them, as far as they say it."""
    path = local(place)
    if path is not None and (path / "index.json").is_file():
        samples = json.loads((path / "index.json").read_text("utf-8"))["samples"]
        used = [sample for sample in samples if sample["split"] == "train"]
        years = {date[:4] for sample in used for date in sample.get("dates", ()) if date}
        return [_sentinel(years), *sorted({sample.get("licence", "") for sample in used} - {""})]
    return [_sentinel(set() if array_files(place) else set(_years(place)))]


def _sentinel(years: set[str]) -> str:
    span = "-".join(sorted({min(years), max(years)})) if years else ""
    return f"{SENTINEL} {span}".strip()


def _years(place: Location) -> Iterator[str]:
    """Of all times that coordinates of an archive hold."""
    for group in open_datasets(place).values():
        try:
            coordinates = xr.decode_cf(group.coords.to_dataset()).coords.values()
        except (ValueError, TypeError, OverflowError):
            continue  # an archive with odd times is one all the same
        for times in coordinates:
            if times.dtype.kind == "M":
                yield from (
                    times.dt.year.dropna(times.dims[0]).astype(int).astype(str).values.tolist()
                )
