"""What all tests share: hypothesis profiles, the validation data, tiny models and scenes."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import settings

from tec_zarr.bands import S2L2A
from tec_zarr.errors import TecError
from tec_zarr.evaluate.frames import data_folder
from tec_zarr.train.scenes import NATIVE
from tests.tiny import patch_artifact, strided_artifact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Runs where the published packages are, see there.
collect_ignore = ["golden/parity/make.py"]

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared samples; tests that need it are skipped where it is not."""
    try:
        return data_folder()
    except TecError as err:
        pytest.skip(str(err))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models lie."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(model_folder: Path) -> str:
    """A TEC-FP in patch layout with the bands `tests.tiny.RGB`."""
    return patch_artifact().save(model_folder / "patch.tec.safetensors")


@pytest.fixture(scope="session")
def strided(model_folder: Path) -> str:
    """A TEC-FP in strided layout with 12 bands."""
    return strided_artifact().save(model_folder / "strided.tec.safetensors")


@pytest.fixture
def known_models(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the tiny models known."""
    monkeypatch.setenv("TEC_ZARR_MODELS", str(model_folder))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tiny models, where threads of torch would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data: two scenes, one with replicated bands, one with ten bands and nodata."""
    folder = tmp_path_factory.mktemp("scenes")
    random = np.random.default_rng(0)
    y, x = np.indices((96, 96)) / 9.0
    base = 1500 + 600 * np.sin(y) * np.cos(x)
    scales = 1 + 0.1 * np.arange(12)[:, None, None]
    scene = (base * scales + random.normal(0, 60, (12, 96, 96))).clip(1).astype(np.uint16)
    for band, factor in zip(scene, NATIVE.values(), strict=True):
        band[...] = band[::factor, ::factor].repeat(factor, 0).repeat(factor, 1)
    fewer = scene[1:11].copy()
    fewer[:, :10] = 0
    for name, data, bands in (("a", scene, S2L2A), ("b", fewer, S2L2A[1:11])):
        np.savez(folder / f"{name}.npz", data=data[None], bands=bands)
    samples = [{"file": f"{n}.npz", "split": "train", "level": "L2A"} for n in "ab"]
    (folder / "index.json").write_text(json.dumps({"samples": samples}))
    return folder
