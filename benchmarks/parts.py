"""Where the time of a chunk goes: network, entropy coder, copying; and multiply-adds of a value.

One thread, one chunk of 12 x 512 x 512 at 44 dB, profiled: a call of Python costs more than it does
otherwise, so that these are shares, not speeds. A call of torch or NumPy belongs to the module that
makes it, unless all it does is to move values.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from speed import CHUNK, make_cube, quality_for
from torch.utils.flop_counter import FlopCounterMode

from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = {
    "network": ("layers", "transforms", "spectral", "givens", "factorized", "elic", "blocks"),
    "entropy coder": ("entropy", "sparse", "activity", "priors", "contexts", "coding", "loops"),
    "copying and units": ("pixels", "squares", "square_loops", "window", "mask", "codec", "batch"),
}
MOVES = (
    "contiguous", "ascontiguousarray", "index_select", "'cat'", "copy", "astype", "clone", "'take'",
    "'to'", "'float'", "concatenate", "stack", "pad",
)  # fmt: skip


def main() -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tec-fp-s2l2a")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    cube = make_cube(options.data)
    chunk = np.ascontiguousarray(cube[:1, :, :CHUNK, :CHUNK])
    config = TecConfig(model=options.model, quality=quality_for(options.model, cube[0]))
    data = encode_chunk(chunk, config)
    work = {"encode": lambda: encode_chunk(chunk, config), "decode": lambda: decode_chunk(data)}
    for task, run in work.items():
        run()
        with FlopCounterMode(display=False) as counter:
            run()
        products = counter.get_total_flops() / 2 / chunk.size
        shares = profiled(run, options.turns)
        total = sum(shares.values())
        parts = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in shares.items())
        print(f"{task}: {parts}; {products:.0f} multiply-adds a value in torch's products")


def profiled(run: Callable[[], object], turns: int) -> dict[str, float]:
    """Seconds of each part."""
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(turns):
        run()
    profile.disable()
    seconds: dict[str, float] = defaultdict(float)
    for function, (_, _, own, _, callers) in pstats.Stats(profile).stats.items():
        if function[0] != "~":
            seconds[part_of(function, function[2])] += own
        for caller, (_, _, spent, _) in callers.items() if function[0] == "~" else ():
            seconds[part_of(caller, function[2])] += spent
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def part_of(function: tuple[str, int, str], name: str) -> str:
    """The part that a function of a module belongs to, when it calls `name`."""
    path = Path(function[0])
    if any(move in name for move in MOVES):
        return "copying and units"
    for part, modules in PARTS.items():
        if {path.stem, path.parent.name} & set(modules):
            return part
    return "other"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
