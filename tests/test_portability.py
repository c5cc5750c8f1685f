"""A small run of benchmarks/portability.py: two instruction sets, in processes of their own."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tec_zarr.models.flex_patch import PatchFlex
from tec_zarr.models.tt_patch import PatchTemporal
from tests.draws import draw
from tests.tiny import elic_artifact, neighbour_artifact, temporal_artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from tec_zarr.models.artifact import Artifact

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "portability.py"


@pytest.fixture(scope="module")
def harness() -> Any:
    spec = importlib.util.spec_from_file_location("portability", SCRIPT)
    if spec is None or spec.loader is None:
        pytest.fail(f"no {SCRIPT}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["portability"] = module
    spec.loader.exec_module(module)
    return module


MODELS: dict[str, Callable[[], Artifact]] = {
    "elic": elic_artifact,
    "elic in patches": neighbour_artifact,
    "tt in patches": partial(neighbour_artifact, PatchTemporal),
    "flextec in patches": partial(neighbour_artifact, PatchFlex),
    "tt": temporal_artifact,
    "flextec": partial(temporal_artifact, repacked=True),
    "layered": partial(temporal_artifact, repacked=True, budgets=(4, 8, 16)),
}


@pytest.mark.parametrize("family", MODELS)
def test_what_one_instruction_set_writes_another_reads(
    harness: Any, tmp_path: Path, family: str
) -> None:
    artifact = MODELS[family]()
    artifact.save(tmp_path / "model.tec.safetensors")
    steps, bands = 1 if "elic" in family else 3, len(artifact.fields["config"]["bands"])
    hills = 1500 + 300 * np.cumsum(draw("tiles", (4, steps, bands, 64, 64), 0.2), -1)
    tiles = np.clip(hills, 1, 9000).astype(np.uint16)
    plan = harness.Plan(["native"], ["sse41-batch1"], ["sse41-batch1"], noise=0.01)
    *pairs, last = harness.measure(tiles, tmp_path / "model.tec.safetensors", plan)
    found = {record["variant"]: record for record in pairs}
    assert found["guarded"]["wrong"] == 0
    assert found["guarded"]["furthest"] < 1e-3 * harness.BAND
    assert found["noise"]["wrong"] > 0, "the harness cannot see what is wrong"
    cost = last["costs"]["native"]
    assert cost["overrides"] <= 0.0005 * cost["streams"]
    assert cost["excess"] <= 16
