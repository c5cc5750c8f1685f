"""`python -m tec_zarr.train --data DATA`: `tec-zarr train` without the extra that it needs."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tec_zarr.train.fit import MEASURED, fit
from tec_zarr.train.loop import TrainConfig

log = logging.getLogger(__name__)


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(prog="tec_zarr.train", description=__doc__)
    parser.add_argument(
        "--data", required=True, help="folder of scenes or arrays, or a Zarr archive"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("trained"), help="folder of checkpoint, log and model"
    )
    parser.add_argument("--from", dest="start", help="model to go on from")
    parser.add_argument("--steps", type=int, default=TrainConfig.steps)
    parser.add_argument("--batch", type=int, default=TrainConfig.batch)
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--frames", type=int, default=MEASURED, help="frames to measure on")
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    frames = options.pop("frames")
    path, identity = fit(TrainConfig(**options), frames=frames)
    log.info("%s holds model %s", path, identity)


if __name__ == "__main__":
    main()
