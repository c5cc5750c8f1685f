from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.entropy.rans import Counter
from tec_zarr.errors import FormatError, ModelMismatchError
from tec_zarr.models import registry
from tec_zarr.models.coding import Checked, Recorder
from tests.draws import draw
from tests.floats import in_float64
from tests.golden.make import scene
from tests.plainly import plainly
from tests.tiny import temporal_artifact
from tests.written import Written

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.models.priors import Coded, Grid
    from tec_zarr.models.temporal import Temporal

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {"tt": False, "flextec": True}
SIZE = (64, 128)


@pytest.fixture(scope="module")
def artifacts() -> dict[str, Artifact]:
    return {kind: temporal_artifact(repacked=flag) for kind, flag in KINDS.items()}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, artifacts: dict[str, Artifact]) -> Temporal:
    return cast("Temporal", registry.build(artifacts[request.param]))


@pytest.fixture
def named(
    request: pytest.FixtureRequest,
    artifacts: dict[str, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    del request
    monkeypatch.setenv("TEC_ZARR_MODELS", str(tmp_path))
    registry.forget()
    return artifacts["flextec"].save(tmp_path / "flextec.tec.safetensors")


def frames(tiles: int, steps: int) -> torch.Tensor:
    hills = np.cumsum(draw("hills", (tiles, 1, 12, *SIZE), 0.2), -1)
    return torch.from_numpy(hills + draw("noise", (tiles, steps, 12, *SIZE), 0.2))


def grid_of(model: Temporal, tiles: int, steps: int, **changes: Any) -> Grid:
    return model.grid(tiles, steps, SIZE)._replace(**changes)


@torch.inference_mode()
def test_what_is_written_is_read(model: Temporal) -> None:
    given = model.analyse(frames(2, 3), 0)
    for quality in {0, len(model.qualities) - 1}:
        written = Written(model, given, grid_of(model, 2, 3), quality)
        back = written.read()
        assert torch.equal(back.maps[0], written.seen.maps[0])
        assert torch.allclose(back.maps[1], written.seen.maps[1], rtol=1e-6)
        everything = model.config.sent[quality] == 16
        assert torch.equal(back.maps[0], given.maps[0]) == everything
    assert given.maps[0].min() <= -8
    assert given.maps[0].max() >= 8


@torch.inference_mode()
def test_a_tile_does_not_depend_on_its_batch(model: Temporal) -> None:
    absent = np.array([[False, True, False], [True, False, False]])
    given = model.analyse(frames(2, 3), 0)
    together = Written(model, given, grid_of(model, 2, 3, absent=absent))
    for tile in range(2):
        own = given._replace(maps=(given.maps[0][tile : tile + 1],), whole=given.whole[:1])
        alone = Written(model, own, grid_of(model, 1, 3, absent=absent[tile : tile + 1]))
        assert alone.streams[0] == together.streams[tile]
        assert alone.checksums[0] == together.checksums[tile]


@torch.inference_mode()
def test_context_never_crosses_series(model: Temporal) -> None:
    given = model.analyse(frames(1, 4), 0)
    both = Written(model, given, grid_of(model, 1, 4, series=2))
    parts = [given._replace(maps=(given.maps[0][:, k : k + 2],)) for k in (0, 2)]
    apart = [Written(model, part, grid_of(model, 1, 2)) for part in parts]
    seen = torch.cat([part.seen.maps[1] for part in apart], 1)
    assert torch.allclose(both.seen.maps[1], seen, rtol=1e-6)


@torch.inference_mode()
def test_absent_frames_cost_nothing_and_are_no_context(model: Temporal) -> None:
    given = model.analyse(frames(1, 4), 0)
    absent = np.array([[True, False, True, False]])
    holed = Written(model, given, grid_of(model, 1, 4, absent=absent))
    kept = given._replace(maps=(given.maps[0][:, [1, 3]],))
    short = Written(model, kept, grid_of(model, 1, 2))
    assert torch.equal(holed.seen.maps[0][:, [1, 3]], short.seen.maps[0])
    assert not holed.seen.maps[0][:, [0, 2]].any()
    assert abs(len(holed.streams[0]) - len(short.streams[0])) <= 4
    assert torch.equal(holed.read().maps[0], holed.seen.maps[0])


@torch.inference_mode()
def test_context_helps_from_the_second_frame_on(model: Temporal) -> None:
    """Random weights cannot help, but they must look at the past: two frames back, no further."""
    given = model.analyse(frames(1, 4), 0).maps[0]
    whole = np.ones(1, np.int32)
    one = Written(model, frames_of(given, whole), grid_of(model, 1, 4)).seen.maps[1]
    for changed in range(4):
        other = given.clone()
        other[:, changed] += 3
        two = Written(model, frames_of(other, whole), grid_of(model, 1, 4)).seen.maps[1]
        differs = [not torch.allclose(one[:, k], two[:, k], rtol=1e-5) for k in range(4)]
        assert differs == [changed <= k <= changed + 2 for k in range(4)]


def frames_of(latents: torch.Tensor, whole: NDArray[np.int32]) -> Coded:
    from tec_zarr.models.priors import Coded

    return Coded((latents,), whole)


@torch.inference_mode()
def test_more_tokens_cost_more_and_are_the_frame_at_last(artifacts: dict[str, Artifact]) -> None:
    model = cast("Temporal", registry.build(artifacts["flextec"]))
    given = model.analyse(frames(1, 2), 0)
    bits = []
    for quality in (0, 7, 15):
        counter = Counter(model.tables, 1)
        seen = model.code(
            Checked(counter, Recorder(1), model.tables, 1), given, grid_of(model, 1, 2), quality
        )
        bits.append(counter.bits[0])
        sent = 4 * (quality + 1)  # channels
        assert torch.equal(seen.maps[0][:, :, :sent], given.maps[0][:, :, :sent])
    assert bits[0] < bits[1] < bits[2]


@torch.inference_mode()
def test_other_ways_of_computing_do_not_matter(model: Temporal) -> None:
    """Another machine: no machine code. Not a bit of a feature differs."""
    written = Written(model, model.analyse(frames(2, 3), 0), grid_of(model, 2, 3), 7)
    with plainly(model.prior):
        back = written.read()
    assert torch.equal(back.maps[0], written.seen.maps[0])
    assert torch.equal(back.maps[1], written.seen.maps[1])


@torch.inference_mode()
def test_threads_share_the_windows_and_nothing_else(model: Temporal) -> None:
    latents = torch.from_numpy(10 * draw("past", (6, model.config.latents, 8, 16))).round()
    alone = model.prior.encoded(latents)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(model.prior.encoded(latents), alone)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_integers_stand_for_the_network_in_float64(artifacts: dict[str, Artifact]) -> None:
    """Of all tokens: what is forecast from features, and the bits that come of it."""
    features, bits = [], []
    for context in (nullcontext, in_float64):
        model = cast("Temporal", registry.build(artifacts["tt"]))
        given, grid = model.analyse(frames(2, 3), 0), grid_of(model, 2, 3)
        counter = Counter(model.tables, 2)
        with context():
            seen = model.code(Checked(counter, Recorder(2), model.tables, 2), given, grid, 0)
        features.append(seen.maps[1].double())
        bits.append(counter.bits.sum())
    apart = (features[0] - features[1]).square().mean().sqrt() / features[1].std()
    assert 1e-7 < apart < 1e-3
    assert bits[0] == pytest.approx(bits[1], rel=3e-4)


def test_chunks_come_back_with_nodata_and_series(named: str) -> None:
    chunk = scene(2, 3, 12, 70, 130)
    chunk[0, 1] = 0
    chunk[1, 2, :, :30] = 0
    config = TecConfig(model=named, quality=16, nodata=0, tile=64)
    data = encode_chunk(chunk, config)
    back = decode_chunk(data)
    assert ((back == 0) == (chunk == 0)).all()
    flat = encode_chunk(chunk[1], config)
    alone = decode_chunk(flat)
    assert (np.abs(back[1].astype(int) - alone) <= 1).all()
    fewer = encode_chunk(chunk, replace(config, quality=2))
    assert len(fewer) < len(data)
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    with pytest.raises(FormatError):
        decode_chunk(bytes(damaged))


@pytest.mark.parametrize(
    "change",
    [
        {"bins": (3,) * 48},
        {"sent": (17,)},
        {"sent": (1, 2)},
        {"heads": 5},
        {"heads": 0},
        {"width": 0},
        {"width": "wide"},
        {"latents": 0},
        {"expansion": 0},
        {"expansion": 2**14},
        {"heads": 1, "width": 129},
        {"width": 12},
        {"width": 16},
        {"repacked": 1, "latents": 13},
        {"repacked": True},
    ],
)
def test_artifacts_that_do_not_fit_are_refused(
    artifacts: dict[str, Artifact], change: dict[str, Any]
) -> None:
    own = artifacts["tt"]
    fields = {**own.fields, "config": {**own.fields["config"], **change}}
    with pytest.raises(ModelMismatchError):
        registry.build(replace(own, fields=fields))


def test_tables_without_their_certain_row_are_refused(artifacts: dict[str, Artifact]) -> None:
    own = artifacts["tt"]
    tables = {name: own.tensors[f"tables.{name}"][:-1] for name in ("cdf", "sizes", "offsets")}
    tensors = {**own.tensors, **{f"tables.{name}": value for name, value in tables.items()}}
    with pytest.raises(ModelMismatchError):
        registry.build(replace(own, tensors=tensors))
