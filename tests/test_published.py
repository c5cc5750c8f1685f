"""Training of the published kinds, with CompressAI's entropy models: `make test-training`."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tec_zarr import container
from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.errors import ConfigError, ModelMismatchError
from tec_zarr.models import artifact as artifacts
from tec_zarr.models import registry, upstream
from tec_zarr.models.upstream_temporal import FIRST
from tec_zarr.train import kinds
from tec_zarr.train.fit import Fitted, fit
from tec_zarr.train.journal import read
from tec_zarr.train.loop import TrainConfig, train
from tec_zarr.train.published import Published, network
from tests.test_cli import run
from tests.test_upstream import saved, small
from tests.upstream import KEYS, listed, state_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("one_thread")
needs_compressai = pytest.mark.skipif(
    find_spec("compressai") is None, reason="CompressAI is not installed: make test-training"
)

FP = Published(family="fp", width=8, latents=12, quality=40)
ELIC = Published(family="elic", width=8, latents=136, quality=40)
PACE: dict[str, Any] = {"batch": 2, "crop": 64, "save_every": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEC_ZARR_CACHE", str(tmp_path / "cache"))
    registry.forget()


def fitted(scenes: Path, out: Path, kind: Published, **changes: Any) -> Fitted:
    config = TrainConfig(data=scenes, out=out, model=kind, **{**PACE, "steps": 4, **changes})
    return fit(config, frames=10, said={"licence": "CC0-1.0"})


def picture(scenes: Path) -> NDArray[np.uint16]:
    """(1, 12, 64, 64)."""
    with np.load(scenes / "a.npz") as file:
        return np.ascontiguousarray(file["data"][..., :64, :64] + np.eye(64, dtype=np.uint16))


@needs_compressai
@pytest.mark.parametrize("case", sorted(path.stem for path in KEYS.glob("*_n*_m*.txt")))
def test_checkpoints_have_the_published_tensors(case: str) -> None:
    family, width, latents = case.replace("n", "").replace("m", "").split("_")
    net = network(Published(family=family, width=int(width), latents=int(latents)))
    assert {n: tuple(value.shape) for n, value in net.state_dict().items()} == listed(case)


@needs_compressai
@pytest.mark.parametrize("kind", [FP, ELIC], ids=lambda kind: kind.family)
def test_a_trained_model_codes_at_the_rate_that_training_saw(
    kind: Published, scenes: Path, tmp_path: Path
) -> None:
    # Untrained scales of TEC-ELIC are so wrong that all symbols escape.
    path, identity = fitted(scenes, tmp_path / "run", kind, steps=50, rate=3e-2, save_every=50)
    card = artifacts.load(path).card
    assert card["training"]["model"]["family"] == kind.family
    assert card["licence"] == "CC0-1.0"
    assert f"TEC-{kind.family.upper()}" in card["summary"]
    assert registry.add(path) == identity
    model = registry.load(identity, torch.device("cpu"))
    chunk = picture(scenes)
    data = encode_chunk(chunk, TecConfig(model=identity, quality=40))
    back = decode_chunk(data)
    graph = kind.graph()
    kind.begin(graph, str(tmp_path / "run" / "lambda-40.pt"), None)  # type: ignore[arg-type]
    units = (model.mean.view(-1, 1, 1), model.std.view(-1, 1, 1))
    with torch.inference_mode():
        frames = (torch.from_numpy(chunk.astype(np.float32)) - units[0]) / units[1]
        result = graph.eval()(frames, torch.ones(1))
    _, (tile,) = container.parse_chunk(data)
    assert 8 * len(tile.layers[0]) == pytest.approx(float(result.bits), rel=0.01, abs=8 * 16)
    decoded = result.frames * units[1] + units[0]
    assert np.abs(decoded.numpy().clip(1, None) - back).max() < 1.1


@needs_compressai
def test_a_checkpoint_is_converted_and_gone_on_from(scenes: Path, tmp_path: Path) -> None:
    _, identity = fitted(scenes, tmp_path / "run", FP)
    checkpoint, own = tmp_path / "run" / "lambda-40.pt", tmp_path / "own.tec.safetensors"
    assert run("models", "convert", checkpoint, own, "--summary", "mine").strip() == identity
    assert artifacts.load(own).card["summary"] == "mine"
    assert run("models", "add", own).strip() == identity
    pace = ("--steps", 2, "--batch", 2, "--crop", 64, "--save-every", 2, "--device", "cpu")
    place = ("--data", scenes, "--out", tmp_path / "more")
    said = run("train", *place, "--from", checkpoint, "--quality", 40, *pace)
    assert "step 2 of 2" in said
    (made,) = (tmp_path / "more").glob("*.safetensors")
    card = artifacts.load(made).card
    assert card["training"]["start"] == "lambda-40.pt"
    assert card["training"]["model"]["latents"] == 12
    assert card["training"]["rate"] < 1e-4
    assert "fine-tuned from lambda-40.pt" in card["summary"]


@needs_compressai
def test_training_makes_it_better_and_goes_on_where_it_stopped(
    scenes: Path, tmp_path: Path
) -> None:
    whole = TrainConfig(
        data=scenes, out=tmp_path / "a", model=FP, steps=60, rate=1e-2, **{**PACE, "save_every": 20}
    )
    train(whole)
    losses = [record["loss"] for record in read(whole.out / "log.jsonl")]
    assert losses[-1] < 0.8 * losses[0]
    parts = replace(whole, out=tmp_path / "b")

    class StoppedError(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 40:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(parts, stop)
    train(parts)
    assert [record["loss"] for record in read(parts.out / "log.jsonl")] == losses


def test_the_extra_is_named_where_it_is_missing(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "compressai.models", None)
    monkeypatch.setitem(sys.modules, "compressai", None)
    with pytest.raises(ConfigError, match=r"tec-zarr\[train\]"):
        fitted(scenes, tmp_path / "run", FP)
    assert not list((tmp_path / "run").iterdir())


def test_kinds_are_chosen_by_name_or_by_checkpoint(tmp_path: Path) -> None:
    assert kinds.chosen(None, None, None, 10).layout == "patch"
    assert kinds.chosen(None, None, "tec-fp-s2l2a", 10).layout == "patch"
    assert kinds.chosen("elic", None, None, 2) == Published(family="elic", quality=2)
    assert kinds.chosen(None, "strided", None, 2) == Published(family="fp", quality=2)
    path = str(saved(state_of(small()), tmp_path / "x.pt"))
    own = Published(family="fp", width=8, latents=12, quality=5)
    assert kinds.chosen(None, None, path, 5) == own
    with pytest.raises(ConfigError, match="fp in strided layout"):
        kinds.chosen("elic", None, path, 5)
    with pytest.raises(ConfigError, match="flextec in layout strided cannot be trained"):
        kinds.chosen("flextec", "strided", None, 5)
    torch.save({FIRST: torch.zeros(1, 12, 1, 1)}, tmp_path / "tt.pt")
    with pytest.raises(ModelMismatchError, match="family tt"):
        kinds.chosen(None, None, str(tmp_path / "tt.pt"), 5)
    with pytest.raises(ConfigError, match="128 channels"):
        Published(family="elic", latents=64)
    with pytest.raises(ConfigError, match="family fp, not elic"):
        Published(family="elic").sized_like(path)


@needs_compressai
def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = state_of(small())
    del state["g_a.2.bias"]
    path = str(saved(state, tmp_path / "x.pt"))
    with pytest.raises(ModelMismatchError, match="does not fit"):
        FP.begin(FP.graph(), path, None)  # type: ignore[arg-type]


def test_own_checkpoints_say_their_lambda(tmp_path: Path) -> None:
    path = saved(state_of(small()), tmp_path / "lambda-0.5.pt")
    assert upstream.convert_file(path, None, {}).fields["config"]["qualities"] == (0.5,)
    with pytest.raises(ConfigError, match="give quality"):
        upstream.convert_file(saved(state_of(small()), tmp_path / "x.pt"), None, {})
    with pytest.raises(ConfigError, match="models convert"):
        registry.add(path)
