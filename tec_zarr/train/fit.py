"""From data to an artifact: train, or go on, then measure and pack what was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from tec_zarr.bands import MEANS, S2L2A
from tec_zarr.errors import ConfigError
from tec_zarr.models.shelf import SUFFIX
from tec_zarr.models.transforms import PatchTransform
from tec_zarr.train.data import Batches, Crops
from tec_zarr.train.export import export
from tec_zarr.train.loop import UNIT, TrainConfig, describe, new_state, train
from tec_zarr.train.sources import open_scenes

if TYPE_CHECKING:
    from pathlib import Path

    from tec_zarr.train.loop import Report

MULTIPLE = PatchTransform.patch * PatchTransform.group
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

    `frames` training frames are measured for tables and qualities; `threads` are those of torch,
    None leaves them alone; `report` gets each record of the log. Raises ConfigError for data
    without images or a crop that is no multiple of 32, TecError for data that cannot be read.
    """
    if config.crop < 1 or config.crop % MULTIPLE:
        raise ConfigError(f"crop must be a multiple of {MULTIPLE}, got {config.crop}")
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = train(config, report)
    return Fitted(config.out / f"model{SUFFIX}", pack(checkpoint, config, frames))


def pack(checkpoint: Path, config: TrainConfig, frames: int) -> str:
    """Export a checkpoint to an artifact beside it; returns its identity."""
    state = new_state(config)
    state.load(checkpoint)
    scenes = open_scenes(config.data, config.crop).training
    whole = [scene for scene in scenes if len(scene.places) == len(S2L2A)]
    mean, std = torch.tensor(MEANS["s2l2a"]), torch.full((len(S2L2A),), UNIT)
    crops = Crops(whole or scenes, config.crop, config.seed + 1, smooth=1)
    batches = Batches(crops, mean, std, drop=0)
    artifact = export(state.average, batches, {"training": describe(config)}, frames)
    return artifact.save(config.out / f"model{SUFFIX}")
