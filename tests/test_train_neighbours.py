"""Training of the bundled TEC-ELIC and TEC-TT: what is trained is what is coded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from tec_zarr.entropy.rans import Encoder
from tec_zarr.errors import ConfigError
from tec_zarr.models import registry
from tec_zarr.models.coding import Checked, Recorder
from tec_zarr.train.elic import BundledElic, ElicGraph, Talk
from tec_zarr.train.flextec import BundledFlex
from tec_zarr.train.kinds import chosen
from tec_zarr.train.loop import TrainConfig, batches_of, new_state, train
from tec_zarr.train.simulated import another_date
from tec_zarr.train.sources import open_sources
from tec_zarr.train.tt import BundledTemporal
from tests.draws import draw
from tests.tiny import strided_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from tec_zarr.models.elic_patch import PatchElic
    from tec_zarr.train.data import Sample
    from tec_zarr.train.flextec import FlexGraph

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES: dict[str, Any] = {"groups": (4, 12), "others": (16, 736), "features": 8, "weighed": 4}
TOKENS: dict[str, Any] = {"tokens": (4, 28, 735, 1), "budgets": (4,)}
KINDS = {
    "elic": BundledElic(**SIZES),
    "tt": BundledTemporal(**SIZES),
    "flextec": BundledFlex(**SIZES, **TOKENS),
}


def config(scenes: Path, out: Path, kind: BundledElic, **options: Any) -> TrainConfig:
    return TrainConfig(
        data=scenes, out=out, model=kind, batch=2, crop=64, save_every=2, device="cpu", **options
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_trained_model_codes_as_it_was_trained(scenes: Path, tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    own = config(scenes, tmp_path, kind, steps=3, start="tec-fp-s2l2a")
    path = train(own)
    state = new_state(own)
    state.load(path)
    sources, _ = open_sources(own.data, own.reading, own.crop, 0)
    batches = batches_of(sources, own, 1)
    artifact = kind.artifact(state.average, batches, {"summary": "for tests"}, 16)
    model = cast("PatchElic", registry.build(artifact))
    assert artifact.fields["family"] == kind.kind.family
    sample = batches.draw(1)
    code = min(60, len(model.qualities) - 2)
    step = model.transform.steps[code : code + 1]
    with torch.inference_mode():
        estimated = float(state.average.eval()(sample.frames, step, *sample.dates).bits)
        sizes = sizes_of(model, sample, code)
    # Tables are measured: better than Laplacians whose scales have hardly been trained.
    assert 0.6 * estimated / 8 - 60 < sizes[-1] < 1.1 * estimated / 8 + 60


def sizes_of(model: PatchElic, sample: Sample, code: int) -> list[int]:
    """Bytes of a series after each of its frames; of the last frame alone without dates."""
    series = torch.cat([*sample.dates, sample.frames[:, None]], 1)
    counts = range(series.shape[1] + 1)
    sizes = [stream(model, series[:, :count], code) if count else 0 for count in counts]
    return np.diff(sizes).tolist()


def stream(model: PatchElic, frames: torch.Tensor, code: int) -> int:
    encoder = Encoder(model.tables, 1)
    checked = Checked(encoder, Recorder(1), model.tables, 1)
    grid = model.grid(1, frames.shape[1], (frames.shape[-2], frames.shape[-1]))
    model.code(checked, model.analyse(frames, code), grid, code)
    return len(encoder.finish()[0])


def test_only_the_prior_is_trained_and_it_learns(scenes: Path, tmp_path: Path) -> None:
    kind = KINDS["elic"]
    own = config(scenes, tmp_path, kind, steps=3)
    graph = kind.graph()
    kind.begin(graph, None, batches_of(open_sources(scenes, own.reading, 64, 0)[0], own, 0))
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    state = new_state(own)
    state.load(train(own))
    after = state.graph.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"prior"}


@torch.inference_mode()
def test_a_temporal_model_begins_as_the_elic_that_it_is_made_of(scenes: Path) -> None:
    own = config(scenes, scenes, KINDS["tt"])
    batches = batches_of(open_sources(scenes, own.reading, 64, 0)[0], own, 0)
    torch.manual_seed(0)
    graph = KINDS["tt"].graph().eval()
    plain = ElicGraph(graph.transform, KINDS["elic"].graph().prior).eval()
    missing, _ = graph.prior.load_state_dict(plain.prior.state_dict(), strict=False)
    assert all(".recall." in n or ".gates." in n or "alike" in n or "gates." in n for n in missing)
    sample = batches.draw(1)
    assert sample.past is not None
    assert sample.past.shape == (1, 3, *sample.frames.shape[1:])
    step = torch.tensor([0.3])
    with_none = graph(sample.frames, step, torch.zeros_like(sample.past)).bits
    assert float(with_none) == pytest.approx(float(plain(sample.frames, step).bits), rel=1e-3)


def test_a_flextec_is_trained_with_any_number_of_tokens() -> None:
    graph = cast("FlexGraph", KINDS["flextec"].graph())
    torch.manual_seed(0)
    position = torch.rand(400)
    ends = graph.train().ends(position)
    assert ends is not None
    assert {*ends.tolist()} == {4, 32, 767, 768}
    near = ends[position < 0.3].double().mean()
    assert near > 1.5 * ends[position > 0.8].double().mean(), "fine steps go with more tokens"
    assert graph.eval().ends(position) is None


@torch.inference_mode()
def test_what_is_not_sent_costs_nothing_and_becomes_its_forecast() -> None:
    latents = torch.from_numpy(draw("latents", (2, 6, 2, 2), 3))
    talk = Talk(latents, torch.ones(1, 6), torch.tensor([6, 4]))
    mean, scale = torch.full((2, 4, 3), 0.25), torch.ones(2, 4, 3)
    known, symbols = talk(slice(2, 6), torch.arange(3), mean, scale)
    assert (symbols[1, 2:] == 0).all()
    assert (known[1, 2:] == 0.25).all()
    assert symbols[0, 2:].any()
    assert talk.bits[1] < talk.bits[0]


def test_other_dates_keep_holes_and_range() -> None:
    random = np.random.default_rng(0)
    frame = random.uniform(100, 4000, (12, 40, 48)).astype(np.float32)
    frame[:, :5] = 0
    for _ in range(8):
        date = another_date(frame, random)
        assert (date.shape, date.dtype) == (frame.shape, frame.dtype)
        assert ((date == 0) == (frame == 0)).all()
        assert date.max() <= 65535
        assert not np.array_equal(date, frame)


def test_kinds_are_known_by_family_and_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(chosen("elic", "patch", None, 10)) is BundledElic
    assert type(chosen("tt", "patch", None, 10)) is BundledTemporal
    assert type(chosen("flextec", None, None, 10)) is BundledFlex
    monkeypatch.setenv("TEC_ZARR_MODELS", str(tmp_path))
    registry.forget()
    other = strided_artifact().save(tmp_path / "strided.tec.safetensors")
    with pytest.raises(ConfigError, match="patch layout"):
        chosen("elic", "patch", None, 10).sized_like(other)
    assert BundledElic().sized_like("tec-fp-s2l2a") == BundledElic()
    for name, kind in (("tec-elic-s2l2a", BundledElic), ("tec-tt-s2l2a", BundledTemporal)):
        assert type(chosen(None, None, name, 10)) is kind
        assert kind().sized_like(name) == kind()
    with pytest.raises(ConfigError, match="is a TEC-TT"):
        BundledElic().sized_like("tec-tt-s2l2a")
