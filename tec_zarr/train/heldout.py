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


class HeldOut:
    """The same few frames at every call. `unit`: digital numbers in a normalised unit."""

    def __init__(self, batches: Batches, unit: float) -> None:
        self.samples, self.unit = [batches.draw(1) for _ in range(FRAMES)], unit

    def __call__(self, graph: TrainGraph) -> list[dict[str, Any]]:
        """At each quantisation step: bits per pixel of all bands, and PSNR in dB at peak 10000."""
        training = graph.training
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            measured = [self._at(graph.eval(), step) for step in STEPS]
        graph.train(training)
        return measured

    def _at(self, graph: TrainGraph, step: float) -> dict[str, Any]:
        place = torch.tensor([step / self.unit])
        results = [(sample, graph(sample.frames, place)) for sample in self.samples]
        bits = sum(float(result.bits) for _, result in results)
        squares = sum(float(sample.square_errors(result.frames)) for sample, result in results)
        pixels, values = (sum(of(sample) for sample in self.samples) for of in (_pixels, _values))
        mse = max(squares * self.unit**2 / values, 1e-9)
        return {
            "step": step,
            "bits_per_pixel": bits / pixels,
            "psnr": 10 * math.log10(PEAK**2 / mse),
        }


def _pixels(sample: Sample) -> int:
    return sample.frames.shape[-2] * sample.frames.shape[-1]


def _values(sample: Sample) -> int:
    return int(sample.counted.sum())
