"""A quality for each step of a chunk: FlexTEC of both layouts, from options to pixels."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from typer.testing import CliRunner
from zarr.storage import MemoryStore

import tec_zarr
from tec_zarr import TEC, TecConfig, TECSerializer, container, encoding, runtime, sample
from tec_zarr.cli.app import app
from tec_zarr.codec import check_config, decode_chunk, decode_window, encode_chunk, plan_layers
from tec_zarr.errors import ChecksumError, ConfigError, FormatError, TecError
from tec_zarr.models import registry, spectral
from tec_zarr.models.artifact import Artifact
from tec_zarr.models.flex_patch import PatchFlex
from tec_zarr.models.tt_patch import _Walk
from tests.chunks import front_of, parts_of
from tests.cubes import Whatever, alike, dataset
from tests.draws import draw
from tests.golden.make import scene
from tests.golden.symbols import integers_of
from tests.tiny import at_hand, neighbour_artifact, temporal_artifact
from tests.written import Written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tec_zarr.header import Header

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
]

Quality = float | tuple[float, ...]

LOW, MIDDLE, HIGH = 1.0, 2.0, 3.0
"""Qualities of `Kind`, whatever the model calls them."""


class Kind:
    """A FlexTEC, and chunks of two series of three dates, the middle one with less data."""

    def __init__(self, identity: str, names: Sequence[float], shape: tuple[int, ...]) -> None:
        self.identity, self.names, self.shape = identity, names, shape
        self.bands = {3: ("B02", "B03", "B04")}.get(shape[-3])
        self.cube = scene(*shape)
        self.cube[0, 1] = 0
        self.cube[1, 2, :, :20] = 0

    def config(self, quality: Quality) -> TecConfig:
        named = [self.names[int(q) - 1] for q in np.atleast_1d(quality)]
        own = named if isinstance(quality, tuple) else named[0]
        return TecConfig(model=self.identity, quality=own, tile=64, bands=self.bands)

    def encoded(self, *quality: float, cube: NDArray[Any] | None = None) -> bytes:
        own = quality if len(quality) > 1 else quality[0]
        return encode_chunk(self.cube if cube is None else cube, self.config(own))

    def errors(self, chunk: bytes, at_most: float | None = None) -> list[float]:
        """Mean squared error of each step of the second series, which has data in all of them."""
        back = decode_chunk(chunk, at_most)[1].astype(float)
        own = self.cube[1]
        return [
            float(np.square(one - other)[other > 0].mean())
            for one, other in zip(back, own, strict=True)
        ]


@pytest.fixture(scope="module", params=["patch", "strided"])
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kind]:
    names: tuple[float, ...]
    if request.param == "patch":
        artifact, names, shape = neighbour_artifact(PatchFlex), (1, 2, 3), (2, 3, 3, 40, 130)
    else:
        artifact = temporal_artifact(repacked=True, budgets=(4, 8, 16))
        names, shape = (2, 6, 16), (2, 3, 12, 64, 128)
    with at_hand(artifact, tmp_path_factory.mktemp(request.param)) as identity:
        yield Kind(identity, names, shape)


@pytest.mark.parametrize("quality", [(3, 1, 2), (1, 3, 1), (1, 1, 2)])
def test_what_is_written_is_read_with_the_same_holes(
    kind: Kind, quality: tuple[float, ...]
) -> None:
    chunk = kind.encoded(*quality)
    back = decode_chunk(chunk)
    assert ((back == 0) == (kind.cube == 0)).all()
    header = front_of(chunk).header
    model = registry.load(kind.identity, torch.device("cpu"))
    told = [model.qualities[header.quality - lower] for lower in header.lower]
    assert told == list(kind.config(quality).qualities)


def test_a_step_of_fewer_tokens_takes_fewer_bytes_and_has_larger_errors(kind: Kind) -> None:
    whole = kind.encoded(HIGH)
    errors = kind.errors(whole)
    for step in range(3):
        quality = [HIGH] * 3
        sizes, found = [len(whole)], [errors[step]]
        for lower in (MIDDLE, LOW):
            quality[step] = lower
            chunk = kind.encoded(*quality)
            sizes.append(len(chunk))
            found.append(kind.errors(chunk)[step])
            others = [k for k in range(3) if k != step]
            assert all(kind.errors(chunk)[k] < 2 * errors[k] for k in others)
        assert sizes[0] > sizes[1] > sizes[2]
        assert found[0] < found[1] < found[2]


def test_equal_numbers_are_the_number(kind: Kind) -> None:
    for quality in (LOW, HIGH):
        assert kind.encoded(quality, quality, quality) == kind.encoded(quality)


def test_equal_numbers_are_the_number_for_every_model() -> None:
    frames = scene(2, 12, 64, 64)
    one, other = (encode_chunk(frames, TecConfig(quality=q)) for q in (40, [40, 40]))
    assert one == other
    single = encode_chunk(frames[0], TecConfig(model="flextec-s2l2a", quality=[3]))
    assert single == encode_chunk(frames[0], TecConfig(model="flextec-s2l2a", quality=3))


def test_first_layers_are_read_without_the_others(kind: Kind) -> None:
    chunk = kind.encoded(3, 1, 2)
    front = front_of(chunk)
    model = registry.load(kind.identity, torch.device("cpu"))
    names = model.layers(front.header.quality)
    assert len(names) == front.layers > 1
    for layers, name in enumerate(names[:-1], 1):
        assert plan_layers(front, name) == layers
        window = (slice(0, 2), slice(1, 3), slice(None), slice(0, 30), slice(90, 120))
        tiles = {1: parts_of(chunk, layers)[1]}
        found = decode_window(front, tiles, window, layers)
        assert alike(found, decode_chunk(chunk, name)[window])
        assert ((found == 0) == (kind.cube[window] == 0)).all()
    errors = [kind.errors(chunk, name)[0] for name in (names[0], None)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("layer", [0, 1])
def test_the_integers_of_every_layer_are_checked(kind: Kind, layer: int) -> None:
    front, tiles = container.parse_chunk(kind.encoded(3, 1, 2))
    checksums = tuple(value ^ (k == layer) for k, value in enumerate(tiles[0].checksums))
    forged = container.pack_chunk(
        front.header, [replace(tiles[0], checksums=checksums), *tiles[1:]]
    )
    with pytest.raises(ChecksumError, match="symbols"):
        decode_chunk(forged)


@pytest.mark.parametrize("patch", [True, False], ids=["patch", "strided"])
def test_at_one_step_layers_are_what_is_encoded_with_their_tokens(
    patch: bool, tmp_path: Path
) -> None:
    """At the same quantisation step: a layer of some tokens is the chunk of at most as many."""
    if patch:
        artifact = neighbour_artifact(PatchFlex, budgets=(1, 2, 3), tokens=(4, 28, 160))
        steps = np.full_like(artifact.tensors["transform.steps"], 0.2)
        tensors = {**artifact.tensors, "transform.steps": steps}
        artifact = Artifact(artifact.fields, tensors, artifact.card)
        names, shape = (1, 2, 3), (1, 3, 3, 24, 40)
    else:
        artifact = temporal_artifact(repacked=True, budgets=(2, 6, 16))
        names, shape = (2, 6, 16), (1, 3, 12, 64, 64)
    with at_hand(artifact, tmp_path) as identity:
        own = Kind(identity, names, (2, *shape[1:]))
        cube = scene(*shape)
        chunk = own.encoded(3, 1, 2, cube=cube)
        (tile,) = container.parse_chunk(chunk)[1]
        for most in (1, 2):
            fewer = own.encoded(*np.minimum((3, 1, 2), most), cube=cube)
            (other,) = container.parse_chunk(fewer)[1]
            assert tile.layers[:most] == other.layers
            assert tile.checksums[:most] == other.checksums
            assert alike(decode_chunk(chunk, names[most - 1]), decode_chunk(fewer))


def test_a_tile_does_not_depend_on_its_batch(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    together = kind.encoded(2, 3, 1)
    monkeypatch.setattr(runtime, "BATCH_PIXELS", 1)
    alone = kind.encoded(2, 3, 1)
    assert integers_of(alone).keys() == integers_of(together).keys()
    assert container.parse_chunk(alone)[1] == container.parse_chunk(together)[1]
    assert alike(decode_chunk(alone), decode_chunk(together))


def test_steps_without_data_may_have_any_quality(kind: Kind) -> None:
    cube = kind.cube.copy()
    cube[:, 1] = 0
    chunks = [kind.encoded(1, middle, 2, cube=cube) for middle in (1, 3)]
    for chunk in chunks:
        assert ((decode_chunk(chunk) == 0) == (cube == 0)).all()
    assert abs(len(chunks[0]) - len(chunks[1])) < 120, "the layer of nobody is almost free"
    assert decode_chunk(kind.encoded(1, 3, 2, cube=0 * cube)).max() == 0


@pytest.mark.parametrize("lower", [(0, 1, 2), (1, 0, 2), (0, 0, 2), (2, 1, 0), ()])
def test_other_qualities_than_those_written_are_noticed(kind: Kind, lower: tuple[int, ...]) -> None:
    front, tiles = container.parse_chunk(kind.encoded(3, 1, 3))
    scaled = tuple(low * front.header.quality // 2 for low in lower)
    header = replace(front.header, lower=scaled)
    with pytest.raises(TecError):
        decode_chunk(container.pack_chunk(header, tiles))


def test_damage_is_noticed(kind: Kind) -> None:
    chunk = kind.encoded(3, 1, 2)
    for place in range(0, len(chunk), max(1, len(chunk) // 40)):
        damaged = bytearray(chunk)
        damaged[place] ^= 4
        with pytest.raises(TecError):
            decode_chunk(bytes(damaged))


@torch.inference_mode()
def test_dates_are_scaled_to_the_step_of_the_frame() -> None:
    model = cast("PatchFlex", registry.build(neighbour_artifact(PatchFlex)))
    turns = tuple([spectral.DEFAULT] * len(spectral.EDGES) for _ in range(2))
    past = torch.from_numpy(draw("past", (1, 192, 3, 5), 10)).float()
    alike, apart = (
        _Walk(model.by_frame(lower), [], model.grid(1, 2, (24, 40)), turns, 2)
        for lower in ((), (2, 0))
    )
    ratio = model.transform.steps[0].double() / model.transform.steps[2].double()
    assert torch.equal(apart._turned([past], 1, 0), alike._turned([past], 1, 0) * ratio)
    assert torch.equal(apart._turned([past], 0, 0), alike._turned([past], 0, 0))


@torch.inference_mode()
@pytest.mark.parametrize("noise", [1e-15, 1e-3])
def test_last_bits_of_networks_do_not_matter(noise: float) -> None:
    """Another machine: weights that differ in the last bits of float64; far more is noticed."""
    artifact = neighbour_artifact(PatchFlex, budgets=(3,))
    model, other = (
        cast("PatchFlex", registry.build(artifact)).by_frame((1, 0, 2, 1)) for _ in range(2)
    )
    for name, value in other.prior.named_parameters():
        value.mul_(1 + noise * torch.from_numpy(draw(name, tuple(value.shape))).double())
    frames = torch.from_numpy(np.cumsum(draw("hills", (1, 4, 3, 24, 40), 0.2), -1))
    written = Written(model, model.analyse(frames, 2), model.grid(1, 4, (24, 40)), 2)
    if noise < 1e-9:
        assert torch.equal(written.read(other).maps[0], written.seen.maps[0])
        return
    with pytest.raises((FormatError, AssertionError)):
        written.read(other)


def test_a_model_by_frame_leaves_the_model_as_it_was(kind: Kind) -> None:
    model = registry.load(kind.identity, torch.device("cpu"))
    copy = model.by_frame((0, 1, 0))
    assert copy is not model
    assert model.by_frame(()) is model
    assert cast("Any", copy).prior is cast("Any", model).prior
    assert [cast("Any", copy).code_of(2, frame) for frame in range(6)] == [2, 1, 2, 2, 1, 2]
    assert cast("Any", model).code_of(2, 1) == 2


# Chunks that others made


def with_lower(header: Header, lower: tuple[int, ...]) -> Header:
    """A header that nobody checked."""
    forged = replace(header)
    object.__setattr__(forged, "lower", lower)
    return forged


HOSTILE: dict[str, tuple[int, ...]] = {
    "too few": (0, 1),
    "too many": (0, 1, 1, 1),
    "beyond the codes": (0, 1, 60000),
    "beyond 32 bits": (0, 1, 2**62),
    "none highest": (1, 1, 2),
    "all alike": (0, 0, 0),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_impossible_codes_are_format_errors(kind: Kind, what: str) -> None:
    front, tiles = container.parse_chunk(kind.encoded(3, 1, 2))
    chunk = container.pack_chunk(with_lower(front.header, HOSTILE[what]), tiles)
    with pytest.raises(FormatError):
        decode_chunk(chunk)


def test_models_with_one_quality_refuse_chunks_with_more() -> None:
    front, tiles = container.parse_chunk(encode_chunk(scene(2, 12, 64, 64), TecConfig(quality=44)))
    header = replace(front.header, lower=(0, 3))
    with pytest.raises(FormatError, match="code for each step, but the model has one quality"):
        decode_chunk(container.pack_chunk(header, tiles))


# Options


def test_a_configuration_comes_back_from_json() -> None:
    for kind in (TecConfig, TEC, TECSerializer):
        config = kind(model="flextec-s2l2a", quality=[16, 8.0, 8])
        assert config.quality == (16.0, 8.0, 8.0)
        data = json.loads(json.dumps(config.to_dict()))
        assert data.get("configuration", data)["quality"] == [16.0, 8.0, 8.0]
        again = kind.from_dict(data)
        assert again == config
        assert hash(again) == hash(config)
        assert repr(again) == repr(config)
    assert TecConfig(quality=np.array([4, 0.1], "f4")).quality == (4.0, 0.1)  # type: ignore[arg-type]
    assert TecConfig(quality=range(1, 3)).quality == (1.0, 2.0)
    assert TecConfig(quality=8).to_dict()["quality"] == 8.0
    assert TecConfig(quality=8).qualities == (8.0,)


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        ([], "quality must be a number, or one for each step of a chunk, got []"),
        ((), "one for each step"),
        ("16", "quality must be a finite number, got '16'"),
        (b"16", "finite number"),
        (["16"], "finite number"),
        ([16, None], "finite number, got None"),
        ([16, True], "finite number, got True"),
        ([16, float("nan")], "finite number, got nan"),
        ([[16]], "finite number"),
        (np.ones((2, 2)), "finite number"),
        (np.array(5.0), "finite number"),
        ({16, 8}, "finite number"),
    ],
)
def test_what_is_no_quality_is_refused(quality: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        TecConfig(quality=quality)


@pytest.mark.parametrize(
    ("model", "quality", "shape", "message"),
    [
        ("flextec-s2l2a", (16, 8), (3, 12, 64, 64), "2 numbers, but chunks are 3 long"),
        ("flextec-s2l2a", (16, 8), (3, 12, 64, 64), "choose chunks of 2 steps"),
        ("flextec-s2l2a", (8,) * 4, (3, 12, 64, 64), "4 numbers, but chunks are 3 long"),
        ("flextec-s2l2a", (16, 8), (2, 1, 12, 64, 64), "2 numbers, but chunks are 1 long"),
        ("flextec-s2l2a", (16, 8), (12, 64, 64), "2 numbers, but chunks are 1 long"),
        ("tec-fp-s2l2a", (44, 40), (2, 12, 64, 64), "flextec-s2l2a and flextec_v1_s2l2a can"),
        ("tec-tt-s2l2a", (44, 40), (2, 12, 64, 64), "has one quality for all frames"),
        ("tec-elic-s2l2a", (40, 44), (2, 12, 64, 64), "has one quality for all frames"),
        ("flextec_v1_s2l2a", (17, 2), (2, 12, 64, 64), "qualities 1 to 16"),
    ],
)
def test_qualities_that_a_chunk_cannot_have_are_refused(
    model: str, quality: Quality, shape: tuple[int, ...], message: str
) -> None:
    config = TecConfig(model=model, quality=quality)
    with pytest.raises(ConfigError, match=message):
        check_config(config, shape, np.dtype("u2"))
    with pytest.raises(ConfigError, match=message):
        encode_chunk(np.zeros(shape, "u2"), config)


def test_a_quality_that_the_model_lacks_is_refused(tiny: str, known_models: None) -> None:
    del known_models
    config = TecConfig(model="flextec-s2l2a", quality=(16, 8.5))
    with pytest.raises(ConfigError, match=r"no quality 8.5: it has 16 from 1 to 16, the nearest"):
        encode_chunk(scene(2, 12, 64, 64), config)
    own = TecConfig(model=tiny, quality=(40, 50), bands=("B02", "B03", "B04"))
    with pytest.raises(ConfigError, match="one quality for all frames of a chunk"):
        encode_chunk(scene(2, 3, 64, 64), own)


# Archives


LAST = (5, 12, 64, 64)
"""Dates of chunks of three: the last one is filled up."""


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    artifact = temporal_artifact(repacked=True, budgets=(4, 16))
    with at_hand(artifact, tmp_path_factory.mktemp("layered")) as identity:
        yield identity


@pytest.mark.parametrize("nodata", [0, None])
@pytest.mark.parametrize("options", [{}, {"zarr_format": 2}, {"shards": {"time": 6}}])
def test_archives_come_back_last_dates_included(
    layered: str, options: dict[str, Any], nodata: float | None
) -> None:
    quality, cube, store = (6, 16, 2), dataset(LAST), MemoryStore()
    cube.tec.to_zarr(store, model=layered, quality=quality, nodata=nodata, tile=64, **options)
    back = xr.open_zarr(store)
    assert back["s2"].attrs["compression_quality"] == list(quality)
    assert back["s2"].encoding["chunks"] == (3, 12, 64, 64)
    config = TecConfig(model=layered, quality=quality, nodata=nodata, tile=64)
    padded = np.concatenate([cube["s2"].values, np.zeros((1, *LAST[1:]), "u2")])
    for at_most in (None, 4):
        chunks = (encode_chunk(padded[k : k + 3], config) for k in (0, 3))
        expected = np.concatenate([decode_chunk(chunk, at_most) for chunk in chunks])[: LAST[0]]
        found = tec_zarr.open_zarr(store, at_most)["s2"]
        assert alike(found.values, expected)
        assert alike(found[3:, :, 10:40, 20:50].values, expected[3:, :, 10:40, 20:50])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_arrays_take_the_codec(layered: str, zarr_format: Literal[2, 3]) -> None:
    options: Any = {"model": layered, "quality": [2, 16], "tile": 64}
    kind: dict[str, Any] = {"compressors": TEC(**options)}
    if zarr_format == 3:
        kind = {"serializer": TECSerializer(**options), "compressors": None}
    values, store = dataset((3, 12, 64, 64))["s2"].values, MemoryStore()
    shapes: Any = {"shape": values.shape, "dtype": "u2", "fill_value": 0}
    array: Whatever = zarr.create_array(
        store, chunks=(2, 12, 64, 64), zarr_format=zarr_format, **shapes, **kind
    )
    array[:] = values
    again: Whatever = zarr.open_array(store, mode="r")
    first = decode_chunk(encode_chunk(values[:2], TecConfig(**options)))
    assert alike(again[:2], first)
    assert again[2].any()
    if zarr_format == 3:
        with pytest.raises(ConfigError, match="2 numbers, but chunks are 3 long"):
            zarr.create_array(MemoryStore(), chunks=(3, 12, 64, 64), **shapes, **kind)


def test_chunks_have_a_step_for_each_quality() -> None:
    told = encoding(dataset(LAST), model="flextec-s2l2a", quality=[16, 4, 4])["s2"]
    assert told["chunks"] == (3, 12, 64, 64)
    with pytest.raises(ConfigError, match="3 numbers, but chunks are 2 long"):
        encoding(dataset(LAST), model="flextec-s2l2a", quality=[16, 4, 4], chunks={"time": 2})
    with pytest.raises(ConfigError, match="3 numbers, but chunks are 2 long"):
        encoding(dataset((2, *LAST[1:])), model="flextec-s2l2a", quality=[16, 4, 4])


def test_parts_are_appended_at_the_qualities_of_the_store(layered: str) -> None:
    cube, store = dataset((4, 12, 64, 64)), MemoryStore()
    cube.isel(time=slice(0, 2)).tec.to_zarr(store, model=layered, quality=(16, 2), tile=64)
    rest = cube.isel(time=slice(2, 4))
    with pytest.raises(ConfigError, match=r"stored with other \['quality'\]"):
        rest.tec.to_zarr(store, append_dim="time", quality=(2, 16))
    rest.tec.to_zarr(store, append_dim="time", quality=(16, 2))
    config = TecConfig(model=layered, quality=(16, 2), tile=64)
    expected = decode_chunk(encode_chunk(rest["s2"].values, config))
    assert alike(xr.open_zarr(store)["s2"][2:].values, expected)


def test_archives_tell_of_their_qualities_and_carry_the_model(layered: str, tmp_path: Path) -> None:
    place = tmp_path / "cube.zarr"
    cube = dataset((2, 12, 64, 64))
    cube.tec.to_zarr(place, model=layered, quality=(16, 2), tile=64, embed_model=True)
    assert layered in str(list((place / "tec_zarr_models").iterdir()))
    chunk = place / "s2" / "c" / "0" / "0" / "0" / "0"
    for path, told in ((place, "at quality 16, 2,"), (chunk, "15, 1")):
        result = CliRunner().invoke(app, ["info", str(path)])
        assert told in result.output


def test_a_store_is_opened_at_one_quality(layered: str) -> None:
    store = MemoryStore()
    dataset((2, 12, 64, 64)).tec.to_zarr(store, model=layered, quality=(16, 2), tile=64)
    with pytest.raises(ConfigError, match="finite number"):
        tec_zarr.open_zarr(store, [4, 2])  # type: ignore[arg-type]


# The bundled model


def test_errors_of_the_bundled_model_follow_the_qualities() -> None:
    frame = sample()["s2"].values[0, :, :64, :64].astype(np.float64)
    light = frame * (1 + 0.05 * draw("light", (3, 12, 1, 1))) + 15 * draw(
        "dates", (3, *frame.shape)
    )
    cube = np.clip(light, 1, 65535).astype("u2")

    def psnr(quality: Any) -> NDArray[np.float64]:
        chunk = encode_chunk(cube, TecConfig(model="flextec-s2l2a", quality=quality))
        error = np.square(decode_chunk(chunk).astype(float) - cube).mean((1, 2, 3))
        return np.asarray(10 * np.log10(10000**2 / error))

    alone = {quality: psnr(quality) for quality in (4, 8, 16)}
    for quality in ((4, 8, 16), (16, 4, 8), (8, 16, 4)):
        found = psnr(quality)
        own = np.array([alone[q][step] for step, q in enumerate(quality)])
        assert (np.argsort(found) == np.argsort(quality)).all()
        assert (found > own - 0.5).all()
        assert (found < own + 5).all(), "a date of finer steps helps a coarse one, but no more"


def test_dates_of_other_qualities_help_the_bundled_model() -> None:
    """The same picture again, in finer and in coarser steps."""
    frame = sample()["s2"].values[0, :, :64, :64]

    def size(*quality: float) -> int:
        cube = np.stack([frame] * len(quality))
        return len(encode_chunk(cube, TecConfig(model="flextec-s2l2a", quality=quality)))

    for first, then in ((16, 6), (10, 12)):
        assert size(first, then) - size(first) < 0.7 * size(then)
