"""Training from data to a model: stopped and gone on with, from a model, by command."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.errors import ConfigError, TecError
from tec_zarr.evaluate.plots import training_plot
from tec_zarr.models import artifact as artifacts
from tec_zarr.models import registry
from tec_zarr.train import journal
from tec_zarr.train.card import SENTINEL, Prose, attributions, card_of
from tec_zarr.train.fit import fit
from tec_zarr.train.loop import TrainConfig, describe, train
from tec_zarr.train.start import start_from_covariances
from tests.cubes import dataset
from tests.test_cli import run
from tests.test_train import TINY
from tests.tiny import strided_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from tec_zarr.train.journal import Record, Report

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES: dict[str, Any] = {"batch": 2, "crop": 64, "save_every": 2, "device": "cpu", "model": TINY}


class StoppedError(Exception):
    pass


def stop_at(step: int) -> Report:
    """A power cut, just after a record was written."""

    def look(record: Record) -> None:
        if record["step"] == step:
            raise StoppedError

    return look


def log_of(folder: Path) -> list[Record]:
    return [
        {key: value for key, value in record.items() if key != "seconds"}
        for record in journal.read(folder / "log.jsonl")
    ]


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at few frames before the first step."""
    few = partial(start_from_covariances, frames=20)
    monkeypatch.setattr("tec_zarr.train.bundled.start_from_covariances", few)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as somebody else has it: eight dates, chunked."""
    path = tmp_path_factory.mktemp("archive") / "cube.zarr"
    times = np.array([f"20{year}-07-01" for year in range(17, 25)], "datetime64[ns]")
    data = dataset((8, 12, 96, 96)).assign_coords(time=times)
    own: Any = {"s2": {"chunks": (1, 12, 96, 96)}, "y": {"_FillValue": None}}
    data.drop_vars("x").to_zarr(path, zarr_format=2, encoding=own)
    return path


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    archive: Path, tmp_path: Path
) -> None:
    whole = TrainConfig(data=archive, out=tmp_path / "whole", steps=4, **SIZES)
    stopped = replace(whole, out=tmp_path / "stopped")
    with pytest.raises(TecError, match="does not exist"):  # a slip, which has begun nothing
        train(replace(whole, data=archive / "nowhere"))
    train(whole)
    with pytest.raises(StoppedError):
        train(stopped, stop_at(2))
    with (stopped.out / "log.jsonl").open("a") as lines:
        lines.write('{"step": 3, "loss": 0}\n{"step"')
    train(stopped)
    assert log_of(stopped.out) == log_of(whole.out)
    assert [record["step"] for record in log_of(whole.out)] == [2, 4]
    for record in log_of(whole.out):
        assert [point["step"] for point in record["held_out"]] == [96, 384, 1536]
        psnr = [point["psnr"] for point in record["held_out"]]
        rates = [point["bits_per_pixel"] for point in record["held_out"]]
        assert psnr == sorted(psnr, reverse=True)
        assert rates == sorted(rates, reverse=True)
    states = [torch.load(run.out / "checkpoint.pt") for run in (whole, stopped)]
    for name, value in states[0]["average"].items():
        assert torch.equal(value, states[1]["average"][name])
    with pytest.raises(ConfigError, match="other batch, seed"):
        train(replace(whole, seed=1, batch=3))
    assert "archive" not in str(describe(whole))
    train(replace(whole, steps=5))
    assert [record["step"] for record in log_of(whole.out)] == [2, 4, 5]


@pytest.mark.slow
def test_fine_tuning_to_an_archive_from_end_to_end(
    scenes: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEC_ZARR_CACHE", str(tmp_path / "cache"))
    scratch = TrainConfig(data=scenes, out=tmp_path / "new", steps=2, **SIZES)
    said = Prose(licence="CC0-1.0", data=f"{SENTINEL}; of nobody")
    first = registry.add(fit(scratch, frames=20, said=said).path)
    options = ("--steps", 2, "--batch", 2, "--save-every", 1, "--frames", 20, "--plot")
    place = ("--data", archive, "--out", tmp_path / "more")
    told = run("train", "--from", first, *place, "--device", "cpu", *options)
    assert told.count("step 1 of 2") == told.count("step 2 of 2") == 1
    assert "dB" in told
    (artifact,) = (tmp_path / "more").glob("*.safetensors")
    assert (tmp_path / "more" / "log.png").stat().st_size > 1000
    second = run("models", "add", artifact).strip()
    assert second in told
    assert second != first
    assert '"data": "cube.zarr"' in run("models", "show", second)
    card = artifacts.load(artifact).card
    run_of = card["training"]
    assert (run_of["data"], run_of["start"], run_of["model"]["width"]) == ("cube.zarr", first, 8)
    assert "all rates" in card["summary"]
    assert card["summary"].endswith(f"fine-tuned from {first} on cube.zarr")
    assert card["licence"] == "CC0-1.0"
    assert card["data"] == f"{SENTINEL} 2017-2024; {SENTINEL}; of nobody"
    registry.forget()
    chunk = np.load(scenes / "a.npz")["data"]
    back = decode_chunk(encode_chunk(chunk, TecConfig(model=second, quality=44)))
    registry.forget()
    error = back.astype(float) - chunk
    assert 10 * np.log10(1e8 / np.square(error).mean()) > 38


def test_cards_say_what_data_say_and_what_their_maker_says(scenes: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=scenes, out=tmp_path, **SIZES)
    card = card_of(config, {})
    assert (card["licence"], card["data"]) == ("not stated", SENTINEL)
    assert card["summary"].endswith("28 to 56 dB, trained on scenes0")
    assert card_of(config, {"summary": "mine"})["summary"] == "mine"
    of_bundled = card_of(replace(config, start="tec-fp-s2l2a"), {})
    assert of_bundled["licence"] == "Apache-2.0"
    assert of_bundled["data"].startswith(f"{SENTINEL}; ")
    np.save(tmp_path / "a.npy", np.zeros((12, 64, 64)))
    assert attributions(tmp_path) == [SENTINEL]
    told = {"split": "train", "dates": ["2021-06-01", ""], "licence": "CC-BY-4.0"}
    held = {"split": "validation", "dates": ["2030-06-01"], "licence": "secret"}
    (tmp_path / "index.json").write_text(json.dumps({"samples": [told, held]}))
    assert attributions(tmp_path) == [f"{SENTINEL} 2021", "CC-BY-4.0"]


def test_models_of_other_kinds_are_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = strided_artifact().save(tmp_path / "a.tec.safetensors")
    monkeypatch.setenv("TEC_ZARR_MODELS", str(tmp_path))
    config = TrainConfig(data=tmp_path, out=tmp_path, start=identity)
    with pytest.raises(ConfigError, match="bundled TEC-FP"):
        fit(config)


def test_a_log_is_drawn_with_and_without_held_out_frames(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 100, "loss": 1.5, "held_out": []}\n')
    training_plot(tmp_path / "log.jsonl", tmp_path / "log.png")
    assert (tmp_path / "log.png").stat().st_size > 1000
    with pytest.raises(TecError, match="no log"):
        training_plot(tmp_path / "nowhere.jsonl", tmp_path / "log.png")


def test_crops_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 32"):
        fit(TrainConfig(data=tmp_path, out=tmp_path / "out", crop=40))
    assert not (tmp_path / "out").exists()
