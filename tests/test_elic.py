from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tec_zarr import container
from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.entropy.rans import Counter, Decoder, Encoder
from tec_zarr.errors import FormatError, ModelMismatchError
from tec_zarr.models import coding, registry
from tec_zarr.models.artifact import Artifact
from tec_zarr.models.coding import Checked, Recorder, Replay
from tec_zarr.models.contexts import half, put_half
from tec_zarr.models.elic import Elic, ElicConfig
from tests.draws import draw
from tests.tiny import elic_artifact, strided_artifact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tec_zarr.models.priors import Coded


@pytest.fixture(scope="module")
def model() -> Elic:
    return Elic.from_artifact(elic_artifact())


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TEC_ZARR_MODELS", str(tmp_path))
    yield elic_artifact().save(tmp_path / "elic.tec.safetensors")
    registry.forget()


@pytest.fixture
def wide_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard band so wide that it matters in a small test."""
    monkeypatch.setattr(coding, "BAND", 0.02)


def pictures(tiles: int, frames: int, side: int) -> torch.Tensor:
    return torch.from_numpy(np.cumsum(draw("pictures", (tiles, frames, 12, side, side), 0.2), -1))


def scene(*shape: int) -> NDArray[np.uint16]:
    hills = 1500 + 300 * np.cumsum(draw("scene", shape, 0.2), -1)
    return np.clip(hills, 1, 9000).astype(np.uint16)


def written(model: Elic, coded: Coded) -> tuple[list[bytes], list[bytes], list[int], Coded]:
    tiles, frames, _, height, width = coded.maps[1].shape
    encoder, guard = Encoder(model.tables, tiles), Recorder(tiles)
    checked = Checked(encoder, guard, model.tables, tiles)
    grid = model.grid(tiles, frames, (16 * height, 16 * width))
    seen = model.code(checked, coded, grid, 0)
    return encoder.finish(), guard.finish(), checked.checksums, seen


def read(
    model: Elic, streams: list[bytes], overrides: list[bytes], frames: int, side: int
) -> Coded:
    decoder, guard = Decoder(model.tables, streams), Replay(overrides)
    grid = model.grid(len(streams), frames, (side, side))
    coded = model.code(Checked(decoder, guard, model.tables, len(streams)), None, grid, 0)
    decoder.finish()
    guard.finish()
    return coded


def test_reading_gives_what_writing_saw(model: Elic) -> None:
    given = model.analyse(pictures(2, 3, 128), 0)
    streams, overrides, _, seen = written(model, given)
    back = read(model, streams, overrides, 3, 128)
    assert all(torch.equal(a, b) for a, b in zip(seen.maps, back.maps, strict=True))
    assert back.maps[0].abs().max() >= 8
    assert back.maps[1].abs().max() >= 8
    assert (back.maps[2] - given.maps[1]).abs().max() <= 0.5001
    assert model.synthesise(back, 0).shape == (2, 3, 12, 128, 128)


def test_a_tile_is_read_alike_in_any_company(model: Elic) -> None:
    streams, overrides, _, seen = written(model, model.analyse(pictures(3, 2, 64), 0))
    for tile in range(3):
        alone = read(model, streams[tile : tile + 1], overrides[tile : tile + 1], 2, 64)
        for one, all_of_them in zip(alone.maps[:2], seen.maps[:2], strict=True):
            assert torch.equal(one[0], all_of_them[tile])


def test_streams_are_as_long_as_the_model_thinks(model: Elic) -> None:
    given = model.analyse(pictures(2, 2, 128), 0)
    streams, *_ = written(model, given)
    counter = Counter(model.tables, 2, lanes=1)
    model.code(
        Checked(counter, Recorder(2), model.tables, 2), given, model.grid(2, 2, (128, 128)), 0
    )
    for stream, bits in zip(streams, counter.bits, strict=True):
        assert len(stream) <= 1.005 * bits / 8 + 16


def test_halves_are_a_checkerboard() -> None:
    y, x = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    places = (10 * y + x).expand(2, 3, 6, 8)
    rebuilt = torch.zeros_like(places)
    for parity in (0, 1):
        part = half(places, parity)
        assert part.shape == (2, 3, 6, 4)
        assert ((part // 10 + part % 10) % 2 == parity).all()
        put_half(rebuilt, part, parity)
    assert torch.equal(rebuilt, places)


def test_scales_have_places_among_the_rows(model: Elic) -> None:
    first, last = model.config.scales
    scales = torch.tensor([-5.0, 0.0, first, (first * last) ** 0.5, last, 1e9], dtype=torch.float64)
    assert np.allclose(model.config.place_of(scales), [0, 0, 0, 23.5, 47, 47])


@pytest.mark.parametrize("shape", [(12, 64, 64), (2, 12, 65, 130), (12, 264, 264), (12, 1, 1)])
def test_chunks_of_any_size_come_back(named: str, shape: tuple[int, ...]) -> None:
    chunk = scene(*shape)
    data = encode_chunk(chunk, TecConfig(model=named, quality=10))
    back = decode_chunk(data)
    assert back.shape == shape
    front = container.parse_front(data[: container.front_size(data)])
    assert int(front.offsets[0]) <= 96 + 20 * len(front.segments)


def nudged(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    """Let parameters come out a little differently, as on another machine."""
    genuine = ElicConfig.place_of
    noise = np.random.default_rng(3)

    def place_of(self: ElicConfig, scale: torch.Tensor) -> torch.Tensor:
        exact = genuine(self, scale)
        return exact + torch.from_numpy(noise.uniform(-size, size, tuple(exact.shape)))

    monkeypatch.setattr(ElicConfig, "place_of", place_of)


@pytest.mark.usefixtures("wide_band")
def test_overrides_save_readers_whose_floats_differ(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = scene(2, 12, 100, 230)
    data = encode_chunk(chunk, TecConfig(model=named, quality=10, tile=128))
    front = container.parse_front(data[: container.front_size(data)])
    assert (front.sections[:, 2] > 0).all()
    expected = decode_chunk(data)
    nudged(monkeypatch, 0.015)
    assert (decode_chunk(data) == expected).all()
    nudged(monkeypatch, 0.1)
    with pytest.raises(FormatError):
        decode_chunk(data)


def resealed(data: bytes, **changes: Any) -> bytes:
    """The chunk with some sections of its only tile replaced, all CRCs made right again."""
    front = container.parse_front(data[: container.front_size(data)])
    start, size = front.extent(0)
    tile = container.parse_tile(front, 0, data[start : start + size])
    return container.pack_chunk(front.header, [replace(tile, **changes)])


@pytest.mark.usefixtures("wide_band")
def test_overrides_that_are_not_there_are_noticed(named: str) -> None:
    data = encode_chunk(scene(12, 64, 64), TecConfig(model=named, quality=10))
    with pytest.raises(FormatError):
        decode_chunk(resealed(data, overrides=b""))
    with pytest.raises(FormatError):
        decode_chunk(resealed(data, overrides=b"\xff\xff\x7f"))


def test_models_without_a_guard_refuse_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEC_ZARR_MODELS", str(tmp_path))
    identity = strided_artifact().save(tmp_path / "fp.tec.safetensors")
    data = encode_chunk(scene(12, 64, 64), TecConfig(model=identity, quality=10))
    with pytest.raises(FormatError, match="override"):
        decode_chunk(resealed(data, overrides=b"\x05"))


@pytest.mark.parametrize("damage", range(8))
def test_hostile_streams_are_errors(named: str, damage: int) -> None:
    data = encode_chunk(scene(12, 64, 64), TecConfig(model=named, quality=10))
    front = container.parse_front(data[: container.front_size(data)])
    stream = bytearray(container.parse_tile(front, 0, data[front.offsets[0] :]).layers[0])
    random = np.random.default_rng(damage)
    for place in random.integers(0, len(stream), 3):
        stream[place] ^= int(random.integers(1, 256))
    with pytest.raises(FormatError):
        decode_chunk(resealed(data, layers=(bytes(stream),)))


def test_weights_below_the_guard_are_wide(model: Elic) -> None:
    assert all(value.dtype == torch.float64 for value in model.prior.state_dict().values())
    assert model.g_s[1].weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["missing", "left over", "rows", "option", "huge", "text"])
def test_artifacts_that_do_not_fit_are_refused(kind: str) -> None:
    genuine = elic_artifact()
    tensors, fields = dict(genuine.tensors), {**genuine.fields}
    if kind == "missing":
        del tensors["prior.median"]
    if kind == "left over":
        tensors["prior.median2"] = tensors["prior.median"]
    if kind == "rows":
        fields["config"] = {**fields["config"], "rows": 47}
    if kind == "option":
        fields["config"] = {**fields["config"], "swirl": 1}
    if kind == "huge":
        fields["config"] = {**fields["config"], "latents": 10**6, "groups": [4, 4, 10**6]}
    if kind == "text":
        fields["config"] = {**fields["config"], "hidden": "many"}
    with pytest.raises(ModelMismatchError):
        registry.build(Artifact(fields, tensors))


def test_an_artifact_file_makes_the_same_model(tmp_path: Path, model: Elic) -> None:
    from tec_zarr.models import artifact

    elic_artifact().save(tmp_path / "elic.tec.safetensors")
    loaded = registry.build(artifact.load(tmp_path / "elic.tec.safetensors"))
    assert loaded.identity == model.identity
