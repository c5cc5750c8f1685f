"""Training frames out of archives, arrays and indexed folders, read where they are cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tec_zarr.bands import S2L1C, S2L2A
from tec_zarr.errors import ConfigError, TecError
from tec_zarr.evaluate.plots import training_plot
from tec_zarr.models import registry, shelf
from tec_zarr.train.data import Batches, Crops, Scene
from tec_zarr.train.fit import fit
from tec_zarr.train.loop import TrainConfig
from tec_zarr.train.sources import LazyFrames, open_scenes
from tests.cubes import Whatever, dataset, pixels
from tests.test_cli import run

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")

CROP = 32
SIZES: Whatever = {"width": 8, "lead": 4, "coarse": (16, 48), "fine": (60, 704), "crop": CROP}


def stored(path: Path, data: xr.Dataset | None = None) -> Path:
    """A plain archive of six dates."""
    data = dataset((6, 12, 60, 60)) if data is None else data
    data.to_zarr(path, zarr_format=2, encoding={"s2": {"chunks": (1, 6, 60, 60)}})
    return path


def everything(scene: Scene) -> np.ndarray[Whatever, Whatever]:
    steps, _, height, width = scene.frames.shape
    whole = (slice(None), slice(0, height), slice(0, width))
    return np.stack([scene.frames[step, *whole] for step in range(steps)])


def test_an_archive_is_cut_where_it_lies(tmp_path: Path) -> None:
    (kept,), (held_out,) = open_scenes(stored(tmp_path / "a.zarr"), CROP)
    assert isinstance(kept.frames, LazyFrames)
    assert kept.frames.shape == (5, 12, 60, 60)
    assert held_out.frames.shape == (1, 12, 60, 60)
    original = pixels((6, 12, 60, 60))
    assert (everything(kept) == original[:5]).all()
    assert (everything(held_out) == original[5:]).all()
    cut = kept.frames[2, :, 10:20, 30:45]
    assert (cut == original[2, :, 10:20, 30:45]).all()


def test_only_what_is_needed_is_read(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.zarr")
    for chunk in (path / "s2").glob("[1-5].*"):
        chunk.write_bytes(b"damaged")
    (scene,), _ = open_scenes(path, CROP)
    assert scene.frames[0, :, 0:8, 0:8].shape == (12, 8, 8)
    with pytest.raises(RuntimeError):
        scene.frames[1, :, 0:8, 0:8]


def test_metadata_say_which_bands_and_units(tmp_path: Path) -> None:
    data = dataset((2, 4, 60, 60)).assign_coords(band=np.array(["B08", "b2", "B10", "B04"], object))
    data["s2"].attrs |= {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": np.uint16(7)}
    data["s2"][:, :, :5] = 7
    data["s2"][:, :, 5:9] = 900
    (scene,), _ = open_scenes(stored(tmp_path / "a.zarr", data), CROP)
    assert [S2L2A[place] for place in scene.places] == ["B02", "B04", "B08"]
    expected = data["s2"].values[0, [1, 3, 0]].astype(float) - 1000
    found = everything(scene)[0]
    assert (found[:, :5] == 0).all()
    assert (found[:, 5:9] == 1).all()
    assert np.allclose(found[:, 9:], expected[:, 9:].clip(1))


def test_arrays_are_scenes_too(tmp_path: Path) -> None:
    values = pixels((1, 12, 160, 40)).astype("f4")
    values[..., :3] = np.nan
    np.save(tmp_path / "a.npy", values)
    names = np.array(S2L2A[1:5])
    np.savez(tmp_path / "b.npz", data=values[0, 1:5], bands=names)
    kept, held_out = open_scenes(tmp_path, CROP)
    assert [scene.frames.shape for scene in kept] == [(1, 12, 128, 40), (1, 4, 128, 40)]
    assert [scene.frames.shape for scene in held_out] == [(1, 12, 32, 40), (1, 4, 32, 40)]
    assert (everything(kept[0])[..., :3] == 0).all()
    assert (everything(held_out[1])[0, ..., 3:] == values[0, 1:5, 128:, 3:]).all()


def test_many_scenes_are_held_out_as_a_whole(tmp_path: Path) -> None:
    for index in range(11):
        np.save(tmp_path / f"{index:02}.npy", pixels((12, 40, 40)))
    assert [len(part) for part in open_scenes(tmp_path, CROP)] == [9, 2]


def test_an_index_has_a_split_of_its_own(tmp_path: Path) -> None:
    entries = []
    for split in ("train", "validation"):
        np.savez(tmp_path / f"{split}.npz", data=pixels((2, 12, 40, 40)), bands=np.array(S2L2A))
        entries.append({"file": f"{split}.npz", "split": split, "level": "L2A"})
    for samples, held_out in ((entries, 2), (entries[:1], 1)):
        (tmp_path / "index.json").write_text(json.dumps({"samples": samples}))
        assert open_scenes(tmp_path, CROP).held_out[0].frames.shape == (held_out, 12, 40, 40)


@pytest.mark.parametrize("replicated", [True, False])
def test_replicated_bands_are_noticed(replicated: bool, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(100, 3000, (1, 12, 300, 300), "u2")
    if replicated:
        values = values[..., ::6, ::6].repeat(6, -1).repeat(6, -2)
    np.save(tmp_path / "a.npy", values)
    assert open_scenes(tmp_path, CROP).training[0].replicated == replicated


def test_what_is_no_training_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TecError, match="does not exist"):
        open_scenes(tmp_path / "nowhere", CROP)
    with pytest.raises(TecError, match="no Zarr store"):
        open_scenes(tmp_path, CROP)
    dataset((1, 12, 40, 40))[["scl"]].to_zarr(tmp_path / "masks.zarr", zarr_format=2)
    with pytest.raises(ConfigError, match="no images"):
        open_scenes(tmp_path / "masks.zarr", CROP)
    np.savez(tmp_path / "a.npz", data=np.ones((1, 9, 9)), bands=np.array(["B10"]))
    with pytest.raises(ConfigError, match="no bands of level 2A"):
        open_scenes(tmp_path, CROP)
    assert "B10" in S2L1C
    np.savez(tmp_path / "a.npz", data=np.ones((9, 9)))
    with pytest.raises(ConfigError, match=r"not \(\.\.\., band, y, x\)"):
        open_scenes(tmp_path, CROP)


def test_data_without_data_ends_with_an_error(tmp_path: Path, torch_units: Whatever) -> None:
    np.save(tmp_path / "a.npy", np.zeros((12, 40, 40), "u2"))
    crops = Crops(open_scenes(tmp_path, CROP).training, CROP, 0)
    with pytest.raises(ConfigError, match="half data"):
        Batches(crops, *torch_units).draw(1)


@pytest.fixture
def torch_units() -> Whatever:
    import torch

    return torch.zeros(12), torch.ones(12)


# The command


def test_a_model_is_trained_on_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shelf.CACHE_VARIABLE, str(tmp_path / "cache"))

    def small(**options: Whatever) -> TrainConfig:
        return TrainConfig(**(SIZES | options))

    monkeypatch.setattr("tec_zarr.train.loop.TrainConfig", small)
    options = ("--steps", 2, "--batch", 1, "--crop", CROP, "--threads", 1, "--frames", 10)
    told = run("train", stored(tmp_path / "a.zarr"), tmp_path / "out", *options)
    (record,) = map(json.loads, (tmp_path / "out" / "log.jsonl").read_text().splitlines())
    assert record["step"] == 2
    bits = [point["bits_per_pixel"] for point in record["held_out"]]
    quality = [point["psnr"] for point in record["held_out"]]
    assert bits == sorted(bits, reverse=True)
    assert quality == sorted(quality, reverse=True)
    assert f"{bits[0]:.3g} at {quality[0]:.2f} dB" in told
    model = tmp_path / "out" / "model.tec.safetensors"
    identity = run("models", "add", model).strip()
    assert f"{model}: model {identity}" in told
    assert len(registry.content(identity)[1]) == model.stat().st_size
    shown = run("models", "show", identity)
    assert '"data": "a.zarr"' in shown
    assert f'"{tmp_path}' not in shown
    run("train", tmp_path / "a.zarr", tmp_path / "more", "--from", identity, *options)
    assert identity not in run("models", "add", tmp_path / "more" / model.name)
    training_plot(tmp_path / "out" / "log.jsonl", tmp_path / "log.png")
    assert (tmp_path / "log.png").stat().st_size > 10_000
    with pytest.raises(TecError, match="no log of a training run"):
        training_plot(model, tmp_path / "log.png")


def test_crops_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 32"):
        fit(TrainConfig(data=tmp_path, out=tmp_path / "out", crop=40))
    assert not (tmp_path / "out").exists()
