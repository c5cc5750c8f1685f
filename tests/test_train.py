"""What a training run is made of: crops, batches, errors, the start, tables, steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tec_zarr.bands import MEANS
from tec_zarr.errors import ConfigError
from tec_zarr.train.bundled import Bundled
from tec_zarr.train.data import Batches, Crops, Sample
from tec_zarr.train.forecast import laplace_bits
from tec_zarr.train.loop import draw_steps, schedule
from tec_zarr.train.measured import ROWS, sparse_rows, tables_of
from tec_zarr.train.scenes import is_replicated, load_scenes
from tec_zarr.train.start import start_from_covariances

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("one_thread")
TINY = Bundled(width=8, lead=4, reach=64, depth=1, coarse=(16, 48), fine=(60, 704))


def test_scenes_say_what_they_are(scenes: Path) -> None:
    first, second = load_scenes(scenes)
    assert first.replicated
    assert not is_replicated(second.frames[0] + np.arange(96, dtype=np.uint16), second.places)
    with pytest.raises(ConfigError, match="validation"):
        load_scenes(scenes, "validation")


def batches(scenes: Path, smooth: float = 0.8, drop: float = 0.25) -> Batches:
    mean, std = torch.tensor(MEANS["s2l2a"]), torch.full((12,), 1000.0)
    return Batches(Crops(load_scenes(scenes), 64, 3, smooth), mean, std, drop)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_crops_with_replicated_bands_become_smooth(scenes: Path, smooth: float) -> None:
    crops = Crops(load_scenes(scenes)[:1], 64, 0, smooth)
    frame, bands, squared, past = crops.draw()
    assert past.shape == (0, 12, 64, 64)
    assert frame.shape == (12, 64, 64)
    assert bands.all()
    factors = np.array([6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 2, 2])
    assert (squared == ((factors > 1) & bool(smooth))).all()
    repeats = (np.diff(frame, axis=2) == 0).mean((1, 2))
    assert (repeats[factors == 6] < 0.1 if smooth else repeats[factors == 6] > 0.8).all()


def test_batches_are_normalised_and_repeatable(scenes: Path) -> None:
    draws = [batches(scenes).draw(6) for _ in range(2)]
    assert torch.equal(draws[0].frames, draws[1].frames)
    assert draws[0].frames.shape == draws[0].counted.shape == (6, 12, 64, 64)
    assert draws[0].squared.shape == (6, 12)
    assert draws[0].frames.isfinite().all()
    absent = ~draws[0].counted.any(3).any(2)
    assert absent.any()
    assert not draws[0].frames[absent].any()


def test_errors_count_where_there_are_pixels_and_as_a_codec_has_them() -> None:
    frames = torch.zeros(1, 2, 4, 4)
    counted = torch.ones(1, 2, 4, 4, dtype=torch.bool)
    counted[0, 0, 0, 0] = False
    sample = Sample(frames, counted, torch.tensor([[False, True]]))
    checks = (torch.arange(16).view(4, 4) % 2 * 2 - 1).float()
    assert sample.square_errors(torch.stack([checks, checks * 0])[None]) == 15
    assert sample.square_errors(torch.stack([checks * 0, checks])[None]) == 0
    assert sample.square_errors(torch.stack([checks * 0, checks * 0 + 1])[None]) == 16


def test_training_starts_from_what_covariances_say(scenes: Path) -> None:
    torch.manual_seed(0)
    graph = TINY.graph()
    source = batches(scenes, drop=0)
    start_from_covariances(graph, source, frames=6)
    transform = graph.transform
    turned = transform.turned
    assert torch.allclose(turned @ turned.mT, torch.eye(12).expand(4, 12, 12), atol=1e-5)
    assert transform.order.sort().values.tolist() == list(range(768))
    assert transform.lead_order.sort().values.tolist() == list(range(64))
    assert (transform.br_a.spread > 0).all()
    scales = graph.forecast.parts()[1][1].bias.table
    assert (scales[:, :50] >= scales[:, -50:]).all()
    with torch.no_grad():
        sample = source.draw(1)
        result = graph.eval()(sample.frames, torch.tensor([0.05]))
    error = sample.square_errors(result.frames) / sample.counted.sum()
    assert float(error) < 0.05**2
    assert 0 < float(result.bits) < 16 * sample.frames.numel()


def test_bits_of_a_laplacian_sum_to_one() -> None:
    values = torch.arange(-400, 401).double()
    for log_scale in (-3.0, 0.0, 4.0):
        bits = laplace_bits(values, torch.full_like(values, log_scale))
        assert float(torch.exp2(-bits).sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("chance", [0.1, 1e-3, 1e-6, 1e-9])
def test_rare_rows_have_tables_however_rare_they_are(chance: float) -> None:
    """Those of runs need fewer than 65536 entries."""
    rows = [np.array([chance / 2, 1 - chance, chance / 2])] * ROWS
    integers = sparse_rows(np.array([chance]))
    tables = tables_of(rows, 0, integers)
    runs, rests, values = integers["prior.sparse"].tolist()
    assert tables.sizes[runs] > 1
    assert values - rests == integers["prior.shifts"].max()
    assert len(tables.sizes) == values + 1


def test_schedule_and_steps_stay_in_their_range() -> None:
    rates = [schedule(step, 1000) for step in range(1001)]
    assert max(rates) <= 1
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)
    steps = draw_steps(64)
    assert float(steps.min()) >= 0.024
    assert float(steps.max()) <= 6.144
