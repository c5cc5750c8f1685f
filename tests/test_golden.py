"""Chunks of earlier releases: their integers are exact for ever, their pixels within 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tec_zarr.codec import decode_chunk
from tec_zarr.models import registry
from tests.golden.make import CASES, FOLDER
from tests.golden.symbols import integers_of

if TYPE_CHECKING:
    from pathlib import Path

V1 = FOLDER / "v1"


@pytest.fixture(autouse=True)
def artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.forget()
    monkeypatch.setenv("TEC_ZARR_MODELS", str(V1 / "artifacts"))


def test_every_case_is_there() -> None:
    found = {path.name for path in V1.iterdir()} - {"artifacts"}
    assert found == set(CASES)


@pytest.mark.parametrize("folder", [V1 / case for case in CASES], ids=lambda path: path.name)
def test_golden_chunks_decode(folder: Path) -> None:
    data = (folder / "chunk.tec").read_bytes()
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    pixels = expected.pop("pixels")
    integers = integers_of(data)
    assert integers.keys() == expected.keys()
    for name, values in expected.items():
        assert (integers[name] == values).all(), name
    back = decode_chunk(data)
    assert (back.dtype, back.shape) == (pixels.dtype, pixels.shape)
    assert back.flags.c_contiguous == pixels.flags.c_contiguous
    # One digital number; reflectance of the float case has 10,000 of them.
    tolerance = 1e-4 if back.dtype.kind == "f" else 1
    assert np.allclose(back, pixels, rtol=0, atol=tolerance * 1.0001, equal_nan=True)


@pytest.mark.parametrize("folder", [V1 / case for case in CASES], ids=lambda path: path.name)
def test_golden_files_stay_small(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000
