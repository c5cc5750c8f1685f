"""From data to an artifact: train, or go on, then measure and pack what was trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from tec_zarr.bands import S2L2A
from tec_zarr.errors import ConfigError
from tec_zarr.models import registry
from tec_zarr.models.factorized import Factorized
from tec_zarr.models.shelf import SUFFIX
from tec_zarr.models.transforms import PatchTransform
from tec_zarr.train.export import export
from tec_zarr.train.loop import TrainConfig, batches_of, describe, new_state, train
from tec_zarr.train.sources import fitting_crop, open_sources

if TYPE_CHECKING:
    from pathlib import Path

    from tec_zarr.train.journal import Report

MULTIPLE = PatchTransform.patch * PatchTransform.group
FINE_TUNING_RATE = 2e-4
"""Learning rate for going on from a model: a fifth of that for a new one."""

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
    report: Report | None = None,
) -> Fitted:
    """Train a TEC-FP as `config` says, or go on where a run in `config.out` stopped; export it.

    With `config.start`, the sizes are those of that model.
    `frames` training frames are measured for tables and qualities; `threads` are those of torch,
    None leaves them alone; `report` gets each record of the log. Raises ConfigError for data
    without images or a crop that is no multiple of 32, TecError for data that cannot be read.
    """
    if config.crop < 1 or config.crop % MULTIPLE:
        raise ConfigError(f"crop must be a multiple of {MULTIPLE}, got {config.crop}")
    if threads is not None:
        torch.set_num_threads(threads)
    if config.start is not None:
        config = sized_like(config, config.start)
    checkpoint = train(config, report)
    return Fitted(config.out / f"model{SUFFIX}", pack(checkpoint, config, frames))


def sized_like(config: TrainConfig, model: str) -> TrainConfig:
    """A configuration with the sizes of a model; ConfigError if it is of another kind."""
    found = registry.load(model, torch.device("cpu"))
    if not isinstance(found, Factorized) or found.config.layout != "patch":
        raise ConfigError(f"training goes on from a bundled TEC-FP, which {model} is not")
    own = found.config
    coarse, fine = own.groups
    inside = replace(config, width=own.width, lead=own.latents, coarse=coarse, fine=fine)
    return replace(inside, reach=own.reach, depth=own.depth)


def pack(checkpoint: Path, config: TrainConfig, frames: int) -> str:
    """Export a checkpoint to an artifact beside it; returns its identity."""
    state = new_state(config)
    state.load(checkpoint)
    scenes, _ = open_sources(config.data, config.reading, config.crop, config.seed)
    whole = [scene for scene in scenes if len(scene.places) == len(S2L2A)] or scenes
    batches = batches_of(whole, fitting_crop(scenes, config.crop), config.seed + 1, drop=0)
    batches.crops.smooth = 1
    artifact = export(state.average, batches, {"training": describe(config)}, frames)
    return artifact.save(config.out / f"model{SUFFIX}")
