"""FlexTEC in patch layout: what some tokens are, and layers of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
import xarray as xr

from tec_zarr import container, open_zarr, sample
from tec_zarr.codec import decode_chunk, decode_window, encode_chunk, plan_layers
from tec_zarr.config import TecConfig
from tec_zarr.errors import ChecksumError, ConfigError, FormatError, ModelMismatchError, TecError
from tec_zarr.models import coding, registry
from tec_zarr.models.artifact import Artifact
from tec_zarr.models.coding import parse_lists
from tec_zarr.models.flex_patch import PatchFlex
from tec_zarr.models.tt_patch import PatchTemporal
from tests.chunks import front_of, parts_of
from tests.draws import draw
from tests.golden.make import scene
from tests.tiny import RGB, at_hand, neighbour_artifact
from tests.written import Written

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (2, 3, 3, 40, 130)
"""Two series of three dates."""


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return neighbour_artifact(PatchFlex)


@pytest.fixture(scope="module")
def model(artifact: Artifact) -> PatchFlex:
    return cast("PatchFlex", registry.build(artifact))


@pytest.fixture(scope="module")
def named(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with at_hand(artifact, tmp_path_factory.mktemp("flexible")) as identity:
        yield identity


def cube() -> NDArray[np.uint16]:
    """A date without data, and one with a hole."""
    chunk = scene(*SHAPE)
    chunk[0, 1] = 0
    chunk[1, 2, :, :20] = 0
    return chunk


def encoded(model: str, quality: float) -> bytes:
    config = TecConfig(model=model, quality=quality, nodata=0, tile=64, bands=RGB)
    return encode_chunk(cube(), config)


@pytest.fixture(scope="module")
def chunk(named: str) -> bytes:
    return encoded(named, 3)


def test_each_quality_has_the_layers_up_to_it(model: PatchFlex, named: str) -> None:
    assert [model.layers(code) for code in range(3)] == [(1.0,), (1.0, 2.0), (1.0, 3.0)]
    assert [model.ends(code) for code in range(3)] == [(4,), (4, 24), (4, 192)]
    for quality, layers in ((1, 1), (2, 2), (3, 2)):
        assert front_of(encoded(named, quality)).layers == layers
    with pytest.raises(ConfigError, match="no quality 4"):
        encoded(named, 4)


@torch.inference_mode()
def test_with_all_tokens_in_one_layer_it_is_a_tec_tt() -> None:
    """The same weights: the same streams."""
    flexible = registry.build(neighbour_artifact(PatchFlex, budgets=(3,)))
    plain = registry.build(neighbour_artifact(PatchTemporal))
    hills = np.cumsum(draw("hills", (1, 3, len(RGB), 24, 40), 0.2), -1)
    frames = torch.from_numpy(hills)
    one, other = (
        Written(own, own.analyse(frames, 2), own.grid(1, 3, (24, 40))) for own in (flexible, plain)
    )
    assert one.streams == other.streams
    assert torch.equal(one.read().maps[1], other.seen.maps[1])


def test_some_layers_are_what_fewer_tokens_at_the_same_step_are(tmp_path: Path) -> None:
    artifact = neighbour_artifact(PatchFlex, budgets=(1, 2, 3), tokens=(4, 28, 160))
    steps = np.full_like(artifact.tensors["transform.steps"], 0.2)
    tensors = {**artifact.tensors, "transform.steps": steps}
    with at_hand(Artifact(artifact.fields, tensors, artifact.card), tmp_path) as identity:
        chunks = [encoded(identity, quality) for quality in (1, 2, 3)]
        for quality, fewer in enumerate(chunks, 1):
            back = decode_chunk(chunks[-1], quality)
            assert (np.abs(back.astype(int) - decode_chunk(fewer)) <= 1).all()
    layers = [container.parse_chunk(chunk)[1][0].layers for chunk in chunks]
    assert layers[0] == layers[2][:1]
    assert layers[1] == layers[2][:2]


@torch.inference_mode()
def test_tokens_that_are_not_sent_have_no_symbols() -> None:
    model = cast("PatchFlex", registry.build(neighbour_artifact(PatchFlex, budgets=(3,))))
    frames = torch.from_numpy(draw("frames", (1, 2, len(RGB), 24, 40)))
    for code, end in enumerate((4, 24, 192)):
        written = Written(model, model.analyse(frames, code), model.grid(1, 2, (24, 40)), code)
        symbols, latents = written.read().maps
        assert symbols[:, :, :end].any()
        assert not symbols[:, :, end:].any()
        assert latents[:, :, end:16].any() == (end < 16), "means are forecasts"


def test_chunks_come_back_with_more_of_them_the_more_tokens(chunk: bytes) -> None:
    whole = decode_chunk(chunk)
    some = decode_chunk(chunk, 1)
    for back in (whole, some):
        assert ((back == 0) == (cube() == 0)).all()
    errors = [np.square(back.astype(float) - cube()).mean() for back in (some, whole)]
    assert errors[1] < errors[0]


def test_of_the_first_layer_only_its_bytes_are_read(chunk: bytes) -> None:
    front = front_of(chunk)
    assert plan_layers(front, 1) == plan_layers(front, 2.9) == 1
    sizes = [sum(map(len, parts_of(chunk, layers).values())) for layers in (1, 2)]
    assert sizes[0] < sizes[1]
    selection = (slice(0, 2), slice(1, 3), slice(None), slice(0, 30), slice(90, 120))
    window = decode_window(front, {1: parts_of(chunk, 1)[1]}, selection, 1)
    assert (np.abs(window.astype(int) - decode_chunk(chunk, 1)[selection]) <= 1).all()


def test_a_layer_does_not_know_those_above_it(chunk: bytes) -> None:
    """Another last layer, the same first one: what is forecast does not depend on it."""
    front, tiles = container.parse_chunk(chunk)
    tile = replace(tiles[0], layers=(tiles[0].layers[0], b""))
    other = container.pack_chunk(front.header, [tile, *tiles[1:]])
    assert np.array_equal(decode_chunk(other, 1), decode_chunk(chunk, 1))
    with pytest.raises(FormatError):
        decode_chunk(other)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_integers_of_every_layer_are_checked(chunk: bytes, layer: int) -> None:
    front, tiles = container.parse_chunk(chunk)
    checksums = tuple(value ^ (k == layer) for k, value in enumerate(tiles[0].checksums))
    forged = container.pack_chunk(
        front.header, [replace(tiles[0], checksums=checksums), *tiles[1:]]
    )
    with pytest.raises(ChecksumError, match="symbols"):
        decode_chunk(forged)
    if layer:
        decode_chunk(forged, 1)


def test_damage_is_noticed_by_who_reads_it(chunk: bytes) -> None:
    for place in range(40, len(chunk), max(1, len(chunk) // 60)):
        damaged = bytearray(chunk)
        damaged[place] ^= 1
        with pytest.raises(TecError):
            decode_chunk(bytes(damaged))


def test_each_layer_has_overrides_of_its_own(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding, "BAND", 0.005)
    chunk = encoded(named, 3)
    assert all(parse_lists(container.parse_chunk(chunk)[1][0].overrides, 2))
    for quality in (1, 3):
        decode_chunk(chunk, quality)


WRONG: dict[str, dict[str, Any]] = {
    "of 24 channels": {"tokens": (4, 8, 12)},
    "2 tokens": {"tokens": (24, 168)},
    "no whole groups": {"budgets": (2, 3)},
    "of which there are 3": {"budgets": (1, 2)},
    "layers of": {"budgets": (3, 3)},
    "configuration": {"budgets": (0, 3)},
    "interpreted as an integer": {"tokens": (4.0, 20.0, 168.0)},
}


@pytest.mark.parametrize("message", WRONG)
def test_sizes_that_do_not_go_together_are_refused(artifact: Artifact, message: str) -> None:
    config = {**artifact.fields["config"], **WRONG[message]}
    fields = {**artifact.fields, "config": config}
    with pytest.raises(ModelMismatchError, match=message):
        registry.build(Artifact(fields, artifact.tensors, artifact.card))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_the_bundled_model_is_read_at_lower_qualities(tmp_path: Path) -> None:
    frame = sample()["s2"].values[0].astype(np.float64)
    dates = frame * (1 + 0.1 * draw("light", (3, 12, 1, 1))) + 15 * draw("dates", (3, *frame.shape))
    cube = xr.Dataset({"s2": (("time", "band", "y", "x"), np.clip(dates, 1, 65535).astype("u2"))})
    cube = cube.assign_coords(band=sample()["band"].values)
    cube.tec.to_zarr(tmp_path / "cube.zarr", model="flextec-s2l2a", quality=16)
    errors = [
        float(np.square(back["s2"].astype(float) - cube["s2"]).mean())
        for back in (open_zarr(tmp_path / "cube.zarr", quality=q) for q in (4, 8, 16))
    ]
    assert 1.5 * errors[2] < 1.5 * errors[1] < errors[0]
    assert xr.open_zarr(tmp_path / "cube.zarr")["s2"].shape == cube["s2"].shape
    alone = encode_chunk(cube["s2"].values, TecConfig(model="flextec-s2l2a", quality=4))
    front = front_of(encode_chunk(cube["s2"].values, TecConfig(model="flextec-s2l2a", quality=16)))
    assert front.layers == 3
    assert len(alone) < front.segments[:, 0].sum(), "a step for each quality"
