"""From data to an artifact: train, or go on, then measure and pack what was trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from tec_zarr.bands import S2L2A
from tec_zarr.errors import ConfigError
from tec_zarr.models.shelf import SUFFIX
from tec_zarr.train.card import card_of
from tec_zarr.train.loop import TrainConfig, batches_of, new_state, train
from tec_zarr.train.sources import fitting_crop, open_sources

if TYPE_CHECKING:
    from pathlib import Path

    from tec_zarr.train.card import Prose
    from tec_zarr.train.journal import Report

MEASURED = 600
"""Training frames that tables and qualities are measured on."""


class Fitted(NamedTuple):
    """What a run has made."""

    path: Path
    """The artifact file; `tec-zarr models add` makes it known."""

    identity: str
    """Its hash, which `model=` takes."""


def fit(
    config: TrainConfig,
    *,
    frames: int = MEASURED,
    threads: int | None = None,
    said: Prose | None = None,
    report: Report | None = None,
) -> Fitted:
    """Train a model as `config` says, or go on where a run in `config.out` stopped; export it.

    With `config.start`, the sizes are those of that model. `frames` training frames are measured
    for tables and qualities; `threads` are those of torch, None leaves them alone; `said` goes to
    the model's card; `report` gets each record of the log. Raises ConfigError for data without
    images or a crop that does not fit the model, TecError for data that cannot be read.
    """
    multiple = config.model.multiple
    if config.crop < 1 or config.crop % multiple:
        raise ConfigError(f"crop must be a multiple of {multiple}, got {config.crop}")
    if threads is not None:
        torch.set_num_threads(threads)
    if config.start is not None:
        config = replace(config, model=config.model.sized_like(config.start))
    checkpoint = train(config, report)
    return Fitted(config.out / f"model{SUFFIX}", pack(checkpoint, config, frames, said))


def pack(checkpoint: Path, config: TrainConfig, frames: int, said: Prose | None = None) -> str:
    """Export a checkpoint to an artifact beside it; returns its identity."""
    state = new_state(config)
    state.load(checkpoint)
    state.average.settle()
    scenes, _ = open_sources(config.data, config.reading, config.crop, config.seed)
    crop = fitting_crop(scenes, config.crop, config.model.multiple)
    whole = [scene for scene in scenes if len(scene.places) == len(S2L2A)] or scenes
    batches = batches_of(whole, replace(config, crop=crop), config.seed + 1)
    batches.crops.smooth = 1
    config.model.publish(state.average, config.out)
    card = card_of(config, said or {})
    artifact = config.model.artifact(state.average, batches, card, frames)
    return artifact.save(config.out / f"model{SUFFIX}")
