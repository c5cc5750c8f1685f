"""Rate and distortion of a model in training on frames that it does not learn from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from tec_zarr.train.graph import UNIT

if TYPE_CHECKING:
    from tec_zarr.train.data import Batches
    from tec_zarr.train.graph import Graph

FRAMES = 8
PEAK = 10000.0


class HeldOut:
    """The same few frames at every call; none if `batches` is None."""

    def __init__(self, batches: Batches | None) -> None:
        self.samples = [] if batches is None else [batches.draw(1) for _ in range(FRAMES)]
        self.units = torch.ones(1) if batches is None else batches.std.view(-1, 1, 1)

    def __call__(self, graph: Graph) -> list[dict[str, Any]]:
        """At each quantisation step: bits per pixel of all bands, and PSNR in dB at peak 10000.

        Empty if no frames are held out.
        """
        if not self.samples:
            return []
        training = graph.training
        graph.settle()
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            measured = [self._at(graph.eval(), step) for step in graph.looked_at]
        graph.train(training)
        return measured

    def _at(self, graph: Graph, step: float) -> dict[str, Any]:
        place = next(graph.parameters()).device
        size = torch.tensor([step / UNIT], device=place)
        bits = squares = pixels = values = 0.0
        for sample in self.samples:
            own = sample.to(place)
            result = graph(own.frames, size, *own.dates)
            there = sample._replace(frames=sample.frames * self.units)
            bits += float(result.bits)
            squares += float(there.square_errors(result.frames.cpu() * self.units))
            pixels += math.prod(sample.frames.shape[2:])
            values += int(sample.counted.sum())
        psnr = 10 * math.log10(PEAK**2 / max(squares / values, 1e-3))
        return {"step": step, "bits_per_pixel": bits / pixels, "psnr": psnr}
