"""TEC-ELIC in patch layout: chunks, batches, other machines, artifacts that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tec_zarr import container
from tec_zarr.bands import S2L2A
from tec_zarr.codec import decode_chunk, decode_window, encode_chunk, plan_window
from tec_zarr.config import TecConfig
from tec_zarr.entropy.rans import Counter
from tec_zarr.errors import FormatError, ModelMismatchError
from tec_zarr.evaluate import sweep
from tec_zarr.evaluate.curves import bd_rate
from tec_zarr.evaluate.tally import Series
from tec_zarr.models import registry
from tec_zarr.models.coding import Checked, Recorder
from tec_zarr.models.elic_patch import PatchElic
from tec_zarr.samples import sample
from tests.draws import draw
from tests.golden.make import holed, scene
from tests.tiny import RGB, at_hand, neighbour_artifact
from tests.written import Written

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tec_zarr.models.artifact import Artifact

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return neighbour_artifact()


@pytest.fixture(scope="module")
def model(artifact: Artifact) -> PatchElic:
    return cast("PatchElic", registry.build(artifact))


@pytest.fixture(scope="module")
def named(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with at_hand(artifact, tmp_path_factory.mktemp("neighbours")) as identity:
        yield identity


def config(model: str, quality: float = 50, **options: Any) -> TecConfig:
    return TecConfig(model=model, quality=quality, bands=RGB, tile=64, **options)


@pytest.mark.parametrize("shape", [(1, 1), (9, 130), (64, 64), (70, 66)])
@pytest.mark.parametrize("quality", [30, 50])
def test_chunks_of_any_size_come_back(named: str, shape: tuple[int, int], quality: float) -> None:
    chunk = scene(2, 3, *shape)
    back = decode_chunk(encode_chunk(chunk, config(named, quality, nodata=None)))
    assert (back.shape, back.dtype) == (chunk.shape, chunk.dtype)
    error = np.abs(back.astype(float) - chunk).mean()
    assert error < (700 if quality == 30 else 120)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 80), width=st.integers(1, 80), frames=st.integers(1, 2))
def test_windows_are_parts_of_the_chunk(named: str, height: int, width: int, frames: int) -> None:
    chunk = (
        holed(frames, 3, height, width) if min(height, width) > 30 else scene(1, 3, height, width)
    )
    data = encode_chunk(chunk, config(named, 40, nodata=0))
    back = decode_chunk(data)
    assert ((back == 0) == (chunk == 0)).all()
    window = (slice(None), slice(None), slice(height // 2, None), slice(0, max(1, width // 2)))
    front = container.parse_front(data[: container.front_size(data)])
    tiles = {}
    for index in plan_window(front, window):
        start, size = front.extent(index)
        tiles[index] = data[start : start + size]
    part = decode_window(front, tiles, window)
    assert (np.abs(part.astype(int) - back[window]) <= 1).all()


@torch.inference_mode()
def test_a_tile_does_not_depend_on_its_batch(model: PatchElic) -> None:
    size = (24, 40)
    frames = torch.from_numpy(draw("frames", (3, 1, 3, *size), 1.0))
    given = model.analyse(frames, 2)
    together = Written(model, given, model.grid(3, 1, size), 2)
    for tile in range(3):
        own = given._replace(
            maps=(given.maps[0][tile : tile + 1],),
            whole=given.whole[:1],
            turns=given.turns[tile : tile + 1],
        )
        alone = Written(model, own, model.grid(1, 1, size), 2)
        assert alone.streams[0] == together.streams[tile]
        assert alone.overrides[0] == together.overrides[tile]
        assert alone.checksums[0] == together.checksums[tile]


@torch.inference_mode()
def test_last_bits_of_networks_do_not_matter(model: PatchElic) -> None:
    """Another machine: weights that differ in the last bits of float64; far more is noticed."""
    size = (40, 48)
    given = model.analyse(torch.from_numpy(draw("frames", (2, 1, 3, *size), 1.0)), 2)
    written = Written(model, given, model.grid(2, 1, size), 2)
    for noise, alike in ((1e-15, True), (1e-3, False)):
        other = PatchElic(model.config).eval().requires_grad_(requires_grad=False)
        other.prior.double()
        state = {
            name: value * (1 + noise * torch.from_numpy(draw(name, tuple(value.shape))).double())
            if name.startswith("prior") and not name.endswith("flat") else value
            for name, value in model.state_dict().items()
        }  # fmt: skip
        other.load_state_dict(state)
        other.tables, other.sparse = model.tables, model.sparse
        if alike:
            assert torch.equal(written.read(other).maps[0], written.seen.maps[0])
            continue
        with pytest.raises((FormatError, AssertionError)):
            written.read(other)


@torch.inference_mode()
def test_the_stream_is_as_long_as_estimated(model: PatchElic) -> None:
    size = (64, 64)
    given = model.analyse(torch.from_numpy(draw("frames", (1, 1, 3, *size), 1.0)), 2)
    written = Written(model, given, model.grid(1, 1, size), 2)
    counter = Counter(model.tables, 1)
    checked = Checked(counter, Recorder(1), model.tables, 1)
    model.code(checked, given, model.grid(1, 1, size), 2)
    assert len(written.streams[0]) <= 1.005 * counter.bits[0] / 8 + 16
    assert len(written.overrides[0]) <= 0.0005 * len(written.streams[0]) + 1


def test_the_bundled_model_is_smaller_than_the_bundled_tec_fp_at_equal_psnr() -> None:
    series = {"sample": [Series.of(sample()["s2"].values[:2], S2L2A)]}
    elic, plain = (
        sweep.sweep(sweep.meter(sweep.by_frame(sweep.tec(name))), (32, 38, 44), series)["sample"]
        for name in ("tec-elic-s2l2a", "tec-fp-s2l2a")
    )
    gain = bd_rate(elic, plain)
    assert gain is not None
    assert gain < -0.08


def test_damage_is_an_error(named: str) -> None:
    chunk: NDArray[np.uint16] = scene(1, 3, 70, 40)
    data = encode_chunk(chunk, config(named))
    for place in range(0, len(data), max(1, len(data) // 60)):
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :]):
            with pytest.raises(FormatError):
                decode_chunk(damaged)


@pytest.mark.parametrize(
    "change",
    [
        {"groups": (4, 11)},
        {"others": (16, 161)},
        {"weighed": 5},
        {"weighed": 0},
        {"weighed": 16},
        {"features": 9},
        {"features": 1 << 20},
        {"depth": 1 << 20},
        {"reach": 17},
        {"bands": ("B02", "B03")},
        {"qualities": (40.0,)},
        {"groups": ()},
    ],
)
def test_artifacts_that_do_not_fit_are_refused(artifact: Artifact, change: dict[str, Any]) -> None:
    fields = {**artifact.fields, "config": {**artifact.fields["config"], **change}}
    with pytest.raises(ModelMismatchError):
        registry.build(replace(artifact, fields=fields))


@pytest.mark.parametrize(
    "name", ["transform.order", "prior.shrink.table", "sparse.chances", "tables.cdf"]
)
def test_missing_tensors_are_refused(artifact: Artifact, name: str) -> None:
    tensors = {key: value for key, value in artifact.tensors.items() if key != name}
    with pytest.raises(ModelMismatchError):
        registry.build(replace(artifact, tensors=tensors))


@pytest.mark.parametrize("name", ["sparse", "counts", "tables"])
def test_rows_that_are_not_there_are_refused(artifact: Artifact, name: str) -> None:
    tensors = dict(artifact.tensors)
    if name == "tables":
        tables = {f"tables.{key}" for key in ("cdf", "sizes", "offsets")}
        tensors |= {key: tensors[key][:-1] for key in tables}
    else:
        tensors[f"sparse.{name}"] = tensors[f"sparse.{name}"] + 1000
    with pytest.raises(ModelMismatchError, match="rows"):
        registry.build(replace(artifact, tensors=tensors))


def test_a_model_packs_into_the_same_artifact(artifact: Artifact, model: PatchElic) -> None:
    integers = {
        name.removeprefix("sparse."): value
        for name, value in artifact.tensors.items()
        if name.startswith("sparse.")
    }
    assert model.to_artifact(integers, artifact.card).identity() == artifact.identity()
