"""Chunks of several layers: what a reader of the first ones sees, and what it may rely on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from tec_zarr import container, tiling
from tec_zarr.codec import decode_chunk, decode_window, encode_chunk, plan_layers
from tec_zarr.config import TecConfig
from tec_zarr.errors import ChecksumError, ConfigError, FormatError, ModelMismatchError, TecError
from tec_zarr.models import batch, coding, registry
from tec_zarr.models.coding import pack_lists, parse_lists
from tec_zarr.models.pixels import Units
from tests.chunks import front_of, parts_of
from tests.golden.make import scene
from tests.plainly import plainly
from tests.tiny import at_hand, temporal_artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tec_zarr.container import TileData
    from tec_zarr.models.artifact import Artifact
    from tec_zarr.models.temporal import Temporal

pytestmark = pytest.mark.usefixtures("one_thread")

BUDGETS = (4, 8, 16)
SHAPE = (3, 12, 64, 128)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return temporal_artifact(repacked=True, budgets=BUDGETS)


@pytest.fixture(scope="module")
def model(artifact: Artifact) -> Temporal:
    return cast("Temporal", registry.build(artifact))


@pytest.fixture(scope="module")
def named(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with at_hand(artifact, tmp_path_factory.mktemp("layered")) as identity:
        yield identity


def cube() -> NDArray[np.uint16]:
    """Three dates with a hole; the second one has no data in the first tile."""
    chunk = scene(*SHAPE)
    chunk[1, :, :, :64] = 0
    chunk[2, :, :20, 90:] = 0
    return chunk


def encoded(model: str, quality: float, chunk: NDArray[Any] | None = None) -> bytes:
    config = TecConfig(model=model, quality=quality, nodata=0, tile=64)
    return encode_chunk(cube() if chunk is None else chunk, config)


@pytest.fixture(scope="module")
def chunk(named: str) -> bytes:
    return encoded(named, 16)


@torch.inference_mode()
def latents(model: Temporal, chunk: bytes, layers: int | None = None) -> list[torch.Tensor]:
    """What a reader of so many layers sees of each tile, one at a time."""
    front = front_of(chunk)
    plan = tiling.plan(front.header.shape[-2], front.header.shape[-1], front.header.tile)
    units, found = Units.of(model, front.header.bands, 1, 0), []
    for index, data in parts_of(chunk, layers).items():
        tile = container.parse_tile(front, index, data, layers)
        shape = (*SHAPE[:2], plan[index].height, plan[index].width)
        masks = batch.masks_of([tile], shape)
        found.append(batch.decode_tiles(units, [tile], masks, shape, front.header.quality).maps[0])
    return found


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_some_layers_are_what_is_encoded_with_their_tokens(
    model: Temporal, named: str, chunk: bytes, layers: int
) -> None:
    tokens = BUDGETS[layers - 1]
    fewer = encoded(named, tokens)
    assert front_of(fewer).layers == layers
    pairs = zip(latents(model, chunk, layers), latents(model, fewer), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    part = decode_chunk(chunk, tokens)
    assert (np.abs(part.astype(int) - decode_chunk(fewer)) <= 1).all()
    assert ((part == 0) == (cube() == 0)).all()
    for own, other in zip(parts_of(chunk, layers).values(), parts_of(fewer).values(), strict=True):
        assert abs(len(own) - len(other)) < 8, "only overrides may differ"


def test_each_layer_costs_bytes_and_the_last_one_has_all(model: Temporal, chunk: bytes) -> None:
    front = front_of(chunk)
    assert front.layers == 3
    assert (front.sections[:, 3:6] > 0).all()
    sizes = [sum(map(len, parts_of(chunk, layers).values())) for layers in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2]
    tokens = [model.prior.windows_of(latents(model, chunk, n)[1][0]) for n in (1, 2, 3)]
    for n, own in zip(BUDGETS, tokens, strict=True):
        assert torch.equal(own[:, :, :n], tokens[2][:, :, :n])
    assert not torch.equal(tokens[0], tokens[1])


def test_up_to_the_first_layer_nothing_costs_more_than_without_layers(
    model: Temporal,
) -> None:
    """The same weights, the same context: the same streams."""
    plain = cast("Temporal", registry.build(temporal_artifact(repacked=True)))
    stored = cube()[None, :, :, :64, :64] + np.uint16(1)
    for quality in (0, 3):
        one, other = (
            batch.encode_tiles(Units.of(own, own.bands, 1, 0), stored, None, [()], quality)[0][0]
            for own in (plain, model)
        )
        assert one == other


def test_a_budget_between_two_layers_ends_in_the_upper_one(named: str) -> None:
    chunk = encoded(named, 6)
    assert front_of(chunk).layers == 2
    assert plan_layers(front_of(chunk), 6) is None
    assert plan_layers(front_of(chunk), 5.5) == 1
    sizes = [sum(map(len, parts_of(encoded(named, q)).values())) for q in (4, 6, 8)]
    assert sizes == sorted(sizes)


def test_windows_of_some_layers_are_parts_of_the_chunk(chunk: bytes) -> None:
    front = front_of(chunk)
    selection = (slice(1, 3), slice(None), slice(0, 40), slice(70, 100))
    tiles = {tile: parts_of(chunk, 2)[tile] for tile in (1,)}
    window = decode_window(front, tiles, selection, 2)
    assert (np.abs(window.astype(int) - decode_chunk(chunk, 8)[selection]) <= 1).all()


@pytest.mark.parametrize(("at_most", "layers"), [(4, 1), (7.9, 1), (8, 2), (15, 2), (16, None)])
def test_the_best_layer_that_is_not_above_a_quality_is_read(
    chunk: bytes, at_most: float, layers: int | None
) -> None:
    assert plan_layers(front_of(chunk), at_most) == layers


def test_a_quality_below_the_first_layer_is_refused(chunk: bytes, named: str) -> None:
    with pytest.raises(ConfigError, match="quality 4 or 8 or 16, not at 3"):
        decode_chunk(chunk, 3)
    with pytest.raises(ConfigError, match="quality 2, not at 1"):
        decode_chunk(encoded(named, 2), 1)
    assert (decode_chunk(encoded(named, 16, np.zeros(SHAPE, "u2")), 1) == 0).all()


def test_models_without_layers_have_one_quality_only() -> None:
    chunk = encode_chunk(scene(12, 64, 64), TecConfig(quality=44))
    assert decode_chunk(chunk, 44).shape == (12, 64, 64)
    with pytest.raises(ConfigError, match="quality 44, not at 40"):
        decode_chunk(chunk, 40)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_damage_in_any_layer_is_noticed_by_who_reads_it(chunk: bytes, layer: int) -> None:
    front = front_of(chunk)
    end = front.extent(0, layer + 1)
    for place in (sum(end) - front.segments[0, layer], sum(end) - 1):
        damaged = bytearray(chunk)
        damaged[place] ^= 16
        for tokens in BUDGETS[layer:]:
            with pytest.raises(ChecksumError):
                decode_chunk(bytes(damaged), tokens)
    if layer:
        assert decode_chunk(bytes(damaged), BUDGETS[layer - 1]).shape == SHAPE


def resealed(chunk: bytes, **changes: Any) -> bytes:
    """The same chunk, all checksums right, with another first tile."""
    front, tiles = container.parse_chunk(chunk)
    return container.pack_chunk(front.header, [replace(tiles[0], **changes), *tiles[1:]])


def first_tile(chunk: bytes) -> TileData:
    return container.parse_chunk(chunk)[1][0]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_stream_that_was_forged_in_any_layer_is_an_error(chunk: bytes, layer: int) -> None:
    tile = first_tile(chunk)
    for place in (5, len(tile.layers[layer]) // 2, -1):
        stream = bytearray(tile.layers[layer])
        stream[place] ^= 4
        layers = (*tile.layers[:layer], bytes(stream), *tile.layers[layer + 1 :])
        with pytest.raises(TecError):
            decode_chunk(resealed(chunk, layers=layers))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_integers_of_every_layer_are_checked(chunk: bytes, layer: int) -> None:
    checksums = [value ^ (k == layer) for k, value in enumerate(first_tile(chunk).checksums)]
    forged = resealed(chunk, checksums=tuple(checksums))
    with pytest.raises(ChecksumError, match="symbols"):
        decode_chunk(forged)
    if layer:
        decode_chunk(forged, BUDGETS[layer - 1])


def test_a_chunk_without_all_its_layers_is_an_error(chunk: bytes) -> None:
    front, tiles = container.parse_chunk(chunk)
    for count in (1, 2):
        fewer = [replace(t, layers=t.layers[:count], checksums=t.checksums[:count]) for t in tiles]
        with pytest.raises(FormatError, match=f"{count} layers, its model makes 3"):
            decode_chunk(container.pack_chunk(front.header, fewer))
    with pytest.raises(FormatError):
        decode_chunk(chunk[: front.extent(len(tiles) - 1, 2)[1]])
    empty = (*first_tile(chunk).layers[:2], b"")
    with pytest.raises(FormatError):
        decode_chunk(resealed(chunk, layers=empty))


def test_each_layer_has_overrides_of_its_own(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding, "BAND", 0.005)
    chunk = encoded(named, 16)
    lists = parse_lists(first_tile(chunk).overrides, 3)
    assert all(lists)
    for tokens in BUDGETS:
        decode_chunk(chunk, tokens)
    for layer in range(3):
        other = [b"" if k == layer else own for k, own in enumerate(lists)]
        with pytest.raises(TecError):
            decode_chunk(resealed(chunk, overrides=pack_lists(other)))
    with pytest.raises(FormatError, match="no lists for its 3 layers"):
        decode_chunk(resealed(chunk, overrides=pack_lists(lists) + b"\0"))


@pytest.mark.parametrize("section", [b"\0\0\0", b"\1a", b"\1a\0", b"\1a\0\5", b"\1a\0\0\0"])
def test_broken_lists_of_overrides_are_refused(section: bytes) -> None:
    with pytest.raises(FormatError):
        parse_lists(section, 3)


@pytest.mark.parametrize("lists", [[b""], [b"ab"], [b"", b""], [b"a", b"", b"bcd"]])
def test_lists_of_overrides_come_back(lists: list[bytes]) -> None:
    assert parse_lists(pack_lists(lists), len(lists)) == lists


def test_other_ways_of_computing_do_not_matter(model: Temporal, chunk: bytes) -> None:
    """Another machine: no machine code."""
    for layers in (1, 2, 3):
        here = latents(model, chunk, layers)
        with plainly(model.prior):
            pairs = zip(here, latents(model, chunk, layers), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    "budgets",
    [(), (4,), (16, 4), (4, 4, 16), (0, 16), (-1, 16), (4, 17), (4.0, 16), 16, "16", None],
)
def test_layers_that_make_no_sense_are_refused(artifact: Artifact, budgets: object) -> None:
    fields = {**artifact.fields, "config": {**artifact.fields["config"], "budgets": budgets}}
    with pytest.raises(ModelMismatchError):
        registry.build(replace(artifact, fields=fields))
