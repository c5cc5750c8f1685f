"""Rate and distortion of a model in training on frames that it does not learn from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tec_zarr.train.data import Batches, Sample
    from tec_zarr.train.graph import TrainGraph

STEPS = (96.0, 384.0, 1536.0)
"""Quantisation steps that are looked at, in digital numbers: high, middle and low quality."""

FRAMES = 8
PEAK = 10000.0

UNIT = 1000.0
"""Digital numbers in a normalised unit; equal for all bands, so that all errors weigh the same."""


class HeldOut:
    """The same few frames at every call; none if `batches` is None."""

    def __init__(self, batches: Batches | None) -> None:
        self.samples = [] if batches is None else [batches.draw(1) for _ in range(FRAMES)]

    def __call__(self, graph: TrainGraph) -> list[dict[str, Any]]:
        """At each quantisation step: bits per pixel of all bands, and PSNR in dB at peak 10000.

        Empty if no frames are held out.
        """
        if not self.samples:
            return []
        training = graph.training
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            measured = [self._at(graph.eval(), step) for step in STEPS]
        graph.train(training)
        return measured

    def _at(self, graph: TrainGraph, step: float) -> dict[str, Any]:
        device = next(graph.parameters()).device
        size = torch.tensor([step / UNIT], device=device)
        there = [sample.to(device) for sample in self.samples]
        results = [(sample, graph(sample.frames, size)) for sample in there]
        bits = sum(float(result.bits) for _, result in results)
        squares = sum(float(sample.square_errors(result.frames)) for sample, result in results)
        pixels, values = (sum(of(sample) for sample in self.samples) for of in (_pixels, _values))
        mse = max(squares * UNIT**2 / values, 1e-9)
        return {
            "step": step,
            "bits_per_pixel": bits / pixels,
            "psnr": 10 * math.log10(PEAK**2 / mse),
        }


def _pixels(sample: Sample) -> int:
    return sample.frames.shape[-2] * sample.frames.shape[-1]


def _values(sample: Sample) -> int:
    return int(sample.counted.sum())
