"""`python -m tec_zarr.train DATA OUT`: train a TEC-FP, or go on, and export it to an artifact."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from tec_zarr.bands import MEANS, S2L2A
from tec_zarr.models.shelf import SUFFIX
from tec_zarr.train.data import Batches, Crops, load_scenes
from tec_zarr.train.export import export
from tec_zarr.train.loop import UNIT, TrainConfig, describe, new_state, train

log = logging.getLogger(__name__)


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(prog="tec_zarr.train", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of scenes with an index.json")
    parser.add_argument("out", type=Path, help="folder of checkpoints, log and artifact")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=600, help="training frames to measure on")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = TrainConfig(
        data=options.data,
        out=options.out,
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
    )
    path = train(config)
    artifact, identity = options.out / f"model{SUFFIX}", pack(path, config, options.frames)
    log.info("%s holds model %s", artifact, identity)


def pack(checkpoint: Path, config: TrainConfig, frames: int) -> str:
    """Export a checkpoint to an artifact beside it; returns its identity."""
    state = new_state(config)
    state.load(checkpoint)
    scenes = [s for s in load_scenes(config.data) if len(s.places) == len(S2L2A)]
    mean, std = torch.tensor(MEANS["s2l2a"]), torch.full((len(S2L2A),), UNIT)
    crops = Crops(scenes, config.crop, config.seed + 1, smooth=1)
    batches = Batches(crops, mean, std, drop=0)
    artifact = export(state.average, batches, {"training": describe(config)}, frames)
    return artifact.save(config.out / f"model{SUFFIX}")


if __name__ == "__main__":
    main()
