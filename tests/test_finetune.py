"""A small run of benchmarks/finetune.py."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from tec_zarr.bands import S2L2A
from tec_zarr.evaluate.tally import Series
from tec_zarr.models.shelf import CACHE_VARIABLE
from tec_zarr.train.fit import fit
from tec_zarr.train.loop import TrainConfig
from tests.cubes import pixels
from tests.test_train import TINY

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "finetune.py"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("shape", [(2, 12, 400, 120), (1, 12, 120, 333)])
def test_what_is_measured_was_not_trained_on(shape: tuple[int, ...]) -> None:
    cut = runpy.run_path(str(SCRIPT))["cut"]
    count = shape[2] * shape[3]
    data = np.broadcast_to(np.arange(1, count + 1).reshape(shape[2:]), shape)
    known, unseen = cut(Series.of(data, S2L2A))
    assert not set(known.data.ravel()) & set(unseen.data.ravel())
    size, other = max(shape[2:]), min(shape[2:])
    assert known.data[0, 0].size + unseen.data[0, 0].size == (size - 64) * other
    assert known.kinds.shape == (shape[0], *known.data.shape[2:])


@pytest.mark.slow
def test_fine_tuning_is_measured_before_and_after(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = {"batch": 2, "crop": 64, "save_every": 2, "device": "cpu"}
    config = TrainConfig(data=scenes, out=tmp_path / "tiny", model=TINY, steps=2, **own)  # type: ignore[arg-type]
    start = fit(config, frames=20).identity
    np.savez(tmp_path / "a.npz", data=pixels((1, 12, 240, 120)))
    entry = {"file": "a.npz", "source": "here", "split": "validation", "level": "L2A"}
    entry |= {"shape": [1, 12, 240, 120], "bands": list(S2L2A)}  # type: ignore[dict-item]
    (tmp_path / "index.json").write_text(json.dumps({"samples": [entry]}))
    monkeypatch.setenv("TEC_ZARR_MODELS", str(tmp_path / "tiny"))
    monkeypatch.setenv(CACHE_VARIABLE, os.environ.get(CACHE_VARIABLE, str(tmp_path / "cache")))
    words = ["--source", "here", "--data", tmp_path, "--start", start, "--steps", 1, "--frames", 20]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr().out
    assert "here, held out: 1 frames" in said
    assert "BD-rate" in said
