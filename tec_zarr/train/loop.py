"""The training loop: rate + lambda * distortion at quantisation steps drawn at random."""

from __future__ import annotations

import json
import math
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tec_zarr.bands import MEANS
from tec_zarr.config import TecOptions
from tec_zarr.runtime import device, use_device
from tec_zarr.train.bundled import Bundled
from tec_zarr.train.data import Batches, Crops
from tec_zarr.train.graph import COARSEST, FINEST, UNIT
from tec_zarr.train.heldout import HeldOut
from tec_zarr.train.journal import check_same_run, continued
from tec_zarr.train.sources import fitting_crop, open_sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tec_zarr.train.graph import Graph
    from tec_zarr.train.journal import Record, Report
    from tec_zarr.train.kinds import Kind
    from tec_zarr.train.scenes import Source


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run."""

    data: Path | str
    """A folder or a Zarr archive, see `sources.open_sources`."""

    out: Path
    """Folder of checkpoints and of the log."""

    model: Kind = field(default_factory=Bundled)
    """What is trained, and its sizes."""

    start: str | None = None
    """Model to go on from, of the same sizes; None: from what the data say."""

    steps: int = 20_000
    """Optimiser steps; the learning rate ends near zero there."""

    batch: int = 8
    """Frames a step."""

    crop: int = 128
    """Side of a training frame, in pixels."""

    rate: float | None = None
    """Learning rate at its highest; None: what is usual for the kind of model."""

    seed: int = 0
    save_every: int = 1000
    """Steps between checkpoints."""

    device: str = "auto"
    """A torch device such as "cpu" or "cuda:0"; "auto": a GPU if there is one."""

    reading: TecOptions = field(default_factory=lambda: TecOptions())
    """What the data do not say of themselves: bands, nodata, scale, offset."""

    @property
    def highest_rate(self) -> float:
        """The learning rate after warming up."""
        return self.rate or self.model.rates[self.start is not None]


@dataclass(eq=False)
class State:
    """What a checkpoint holds, so that a run goes on where it stopped."""

    graph: Graph
    average: Graph
    """Exponential moving average of the weights: what is exported."""

    optimiser: torch.optim.Optimizer
    step: int = 0

    def move(self, place: torch.device) -> None:
        """Move the weights to a device."""
        self.graph.to(place)
        self.average.to(place)

    def save(self, path: Path) -> None:
        """Write atomically."""
        partial = path.with_suffix(".partial")
        torch.save({name: _state(value) for name, value in vars(self).items()}, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        saved = torch.load(path, weights_only=True, map_location="cpu")
        for part in (self.graph, self.average, self.optimiser):
            part.load_state_dict(saved[next(k for k, v in vars(self).items() if v is part)])
        self.step = saved["step"]


def train(config: TrainConfig, report: Report | None = None) -> Path:
    """Train, or go on from the last checkpoint in `config.out`; returns the checkpoint's path.

    The log, `log.jsonl`, has a record every 100 steps; `report` is called with each of them.
    Raises ConfigError if the data cannot be used, or if the folder holds a run with other options.
    """
    with use_device(config.device):
        place = device()
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    state, path = new_state(config), config.out / "checkpoint.pt"
    check_same_run(config.out / "config.json", describe(config), path.exists())
    scenes, spare = open_sources(config.data, config.reading, config.crop, config.seed)
    config = replace(config, crop=fitting_crop(scenes, config.crop, config.model.multiple))
    batches = batches_of(scenes, config, config.seed, drop=config.model.drop)
    held_out = HeldOut(batches_of(spare, config, 0) if spare else None)
    if not path.exists():
        config.model.begin(state.graph, config.start, batches_of(scenes, config, config.seed))
        state.average.load_state_dict(state.graph.state_dict())
    state.move(place)
    if path.exists():
        state.load(path)
    with flushed(), continued(config.out / "log.jsonl", state.step) as write:
        for progress in run(state, batches, config):
            record = {**progress, "held_out": held_out(state.average)}
            write(record)
            if state.step % config.save_every == 0 or state.step == config.steps:
                state.save(path)
            if report:
                report(record)
    return path


@contextmanager
def flushed() -> Iterator[None]:
    """Take numbers near zero for zero: fading moments of dead channels are slow otherwise."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def batches_of(
    scenes: Sequence[Source], config: TrainConfig, seed: int, drop: float = 0
) -> Batches:
    """What draws batches from sources, in the units of the model; `drop` of them lack bands."""
    mean, std = torch.tensor(MEANS["s2l2a"]), torch.tensor(config.model.units)
    crops = Crops(scenes, config.crop, seed, earlier=config.model.earlier)
    return Batches(crops, mean, std, drop)


def new_state(config: TrainConfig) -> State:
    """An untrained model and its optimiser."""
    graph, average = (config.model.graph() for _ in range(2))
    optimiser = torch.optim.Adam(graph.parameters(), betas=(0.9, 0.99))
    return State(graph, average.eval(), optimiser)


def run(state: State, batches: Batches, config: TrainConfig) -> Iterator[Record]:
    """Train to `config.steps`, yielding a record every 100 steps, or at every checkpoint."""
    began, sums = time.monotonic(), torch.zeros(4)
    place, model = next(state.graph.parameters()).device, config.model
    while state.step < config.steps:
        for group in state.optimiser.param_groups:
            group["lr"] = config.highest_rate * schedule(state.step, config.steps)
        # By step, not by run: what was stopped goes on as if it had not been.
        batches.crops.go_to(config.batch * state.step)
        torch.manual_seed(config.seed << 32 | state.step)
        sample = batches.draw(config.batch).to(place)
        step = draw_steps(config.batch).to(place)
        with torch.autocast(sample.frames.device.type, torch.bfloat16):
            result = state.graph.train()(sample.frames, step, *sample.dates)
        squares = sample.square_errors(result.frames)
        cost = result.bits + result.worth * squares
        # Costs span three orders of magnitude over the rates; the root keeps one end from winning.
        share = cost.detach().clamp(min=50).sqrt() if model.all_rates else config.crop
        loss = (cost / share).mean() / config.crop
        state.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(state.graph.parameters(), model.clip)
        if norm.isfinite():  # else one bad crop would spoil all weights
            state.optimiser.step()
        state.step += 1
        _average(state)
        pixels = config.batch * config.crop**2
        measures = [loss, result.bits.sum() / pixels, squares.sum() / pixels]
        sums += torch.tensor([*(measure.item() for measure in measures), 1])
        if state.step % min(100, config.save_every) == 0 or state.step == config.steps:
            loss_mean, bits, square, _ = (sums / sums[3]).tolist()
            yield {
                "step": state.step,
                "loss": loss_mean,
                "bits_per_pixel": bits,
                "squared_error_per_pixel": square,
                "seconds": time.monotonic() - began,
            }
            sums.zero_()


def schedule(step: int, steps: int) -> float:
    """Warm up over 200 steps, then a cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / 200)
    return warm * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def draw_steps(count: int) -> Tensor:
    """Quantisation steps (n,) in normalised units, log-uniform and stratified over the batch."""
    low, high = math.log2(FINEST / UNIT), math.log2(COARSEST / UNIT)
    places = (torch.rand(()) + torch.arange(count) / count) % 1
    return torch.exp2(low + (high - low) * places)


def _average(state: State) -> None:
    weight = 1 - min(0.999, (state.step + 1) / (state.step + 20))
    with torch.no_grad():
        for mean, value in zip(state.average.parameters(), state.graph.parameters(), strict=True):
            mean.lerp_(value, weight)


def _state(value: object) -> object:
    return value.state_dict() if hasattr(value, "state_dict") else value


def describe(config: TrainConfig) -> dict[str, Any]:
    """The run as plain JSON, for the model card; of data and files their names only."""
    plain = {key: value for key, value in asdict(config).items() if key not in ("out", "device")}
    places = {"data": config.data, "start": config.start}
    names = {key: place and Path(place).name for key, place in places.items()}
    return json.loads(json.dumps(plain | names | {"rate": config.highest_rate}))
