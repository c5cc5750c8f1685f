"""The side of the package `terracodec` in `official.py`: runs in an environment of its own.

What is timed is its public `compress` and `decompress` of a series: transform, transformer and
coder, as they are. Its tables are built before.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from terracodec.temporaltransformer import TemporalTransformer

from tests.upstream import state_of, temporal


def model_of(case: str, size: int) -> TemporalTransformer:
    """The published class with random weights, its tables built."""
    model = TemporalTransformer(image_size=size)
    state = {name: torch.from_numpy(value) for name, value in state_of(temporal(case)).items()}
    model.model.load_state_dict(state, strict=True)
    model.setup_model_for_compression()
    return model


def main() -> None:
    """Answer each command, an action and a number of frames, with seconds."""
    case, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    frames = torch.from_numpy(np.load(folder / "frames.npy"))
    with redirect_stdout(sys.stderr):
        model = model_of(case, frames.shape[-2])
    payloads = {}
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        action, number = line.split()
        begin = time.perf_counter()
        if action == "write":
            tiles = frames[: int(number)].split(frames.shape[-2], -1)
            payloads[number] = [model.compress(tile.contiguous()) for tile in tiles]
        else:
            back = [model.decompress(payload)[0] for payload in payloads[number]]
        seconds = time.perf_counter() - begin
        if action == "read":
            np.save(folder / f"theirs-{number}.npy", torch.cat(back, -1).numpy())
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
