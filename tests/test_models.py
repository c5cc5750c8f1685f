from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.errors import ModelMismatchError, ModelNotFoundError
from tec_zarr.models import artifact as artifacts
from tec_zarr.models import batch, registry
from tec_zarr.models.activity import (
    HIDDEN_LIMIT,
    WEIGHT_BITS,
    Activity,
    log_table,
    logarithms,
    neighbourhood,
    shifted,
)
from tec_zarr.models.factorized import Factorized
from tec_zarr.models.layers import scattered
from tec_zarr.models.pixels import Units
from tec_zarr.models.priors import ActivityPrior, Coded
from tec_zarr.models.spectral import DEFAULT, Turn
from tec_zarr.models.transforms import PatchTransform, StridedTransform
from tests.draws import draw
from tests.tiny import CERTAIN, orthonormal, patch_artifact, shuffled, strided_artifact

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model() -> Factorized:
    return Factorized.from_artifact(patch_artifact())


def frames(tiles: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    smooth = np.cumsum(random.normal(0, 0.1, (tiles, 2, 3, size, size)), axis=-1)
    return torch.from_numpy(smooth.astype(np.float32))


@given(st.data())
@settings(deadline=None, max_examples=20)
def test_context_sums_are_exact(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    channels = data.draw(st.sampled_from([3, 6]))  # fewer than hidden units, and more
    weight = random.integers(-(2**15), 2**15, (4, channels, 3, 3))
    logs = random.integers(0, 100, (2, channels, 5, 7))
    logs *= random.random(logs.shape) < data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    padded = np.pad(logs, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    expected = np.zeros((2, 4, 5, 7), np.int64)
    for dy in range(3):
        for dx in range(3):
            window = padded[:, :, dy : dy + 5, dx : dx + 7]
            expected += np.einsum("hc,ncyx->nhyx", weight[:, :, dy, dx], window)
    bias = random.integers(-(2**15), 2**15, 4)
    expected = (expected + bias[:, None, None] >> WEIGHT_BITS).clip(0, HIDDEN_LIMIT)
    found = neighbourhood(*(torch.from_numpy(part).double() for part in (logs, weight, bias)))
    assert (found.numpy() == expected).all()


@given(st.integers(-(2**40), 2**40), st.integers(0, 12))
def test_shifts_are_floor_divisions(value: int, bits: int) -> None:
    assert shifted(torch.tensor(float(value), dtype=torch.float64), bits) == value >> bits


def test_logarithms_saturate() -> None:
    table = log_table()
    symbols = torch.tensor([0, 1, -1, 3, -(2**30), 2**31 - 1], dtype=torch.int32)
    assert logarithms(symbols, table).tolist() == [0, 8, 8, 16, 96, 96]


def test_integers_that_are_too_large_are_refused() -> None:
    genuine = patch_artifact()
    name = "prior.1.1.bias"
    huge = {**genuine.tensors, name: genuine.tensors[name].astype(np.int64) + 2**53}
    with pytest.raises(ModelMismatchError, match="too large"):
        registry.build(replace(genuine, tensors=huge))
    zeros = torch.zeros((4, 5, 3, 3)), torch.zeros((3, 4)), torch.zeros((8, 4))
    assert Activity(torch.full((3, 8), 2.0**30), *zeros).largest() == 2**30


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda gain: gain * 100, "larger than 32767"),
        (lambda gain: gain.astype(np.float32), "not integers"),
        (lambda gain: gain[:, :2], "not integers"),
    ],
)
def test_gains_of_means_that_do_not_fit_are_refused(change: Any, complaint: str) -> None:
    genuine = patch_artifact()
    wrong = {"prior.0.0.gain": change(genuine.tensors["prior.0.0.gain"])}
    with pytest.raises(ModelMismatchError, match=complaint):
        registry.build(replace(genuine, tensors={**genuine.tensors, **wrong}))
    extents = genuine.tensors["prior.extents"].copy()
    extents[0, 0] = 7  # the first group has 8 channels, which are coded together
    with pytest.raises(ModelMismatchError, match="extents"):
        registry.build(replace(genuine, tensors={**genuine.tensors, "prior.extents": extents}))


def test_reduced_precision_of_the_process_changes_nothing(model: Factorized) -> None:
    """A process may allow bfloat16 or TF32 in float32 products; rows must not follow."""
    given_maps = model.analyse(frames(2), 1)
    expected = code(model, given_maps, 1)[0]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert code(model, given_maps, 1)[0] == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_narrow_and_wide_arithmetic_agree(model: Factorized) -> None:
    given_maps = model.analyse(frames(2), 0)
    assert model.narrow is not model.wide
    encoders = [Encoder(model.tables, 2) for _ in range(2)]
    grid = model.grid(2, 2, (64, 64))
    for prior, encoder in zip((model.narrow, model.wide), encoders, strict=True):
        prior.code(encoder, given_maps, grid, 0)
    assert encoders[0].finish() == encoders[1].finish()


def code(model: Factorized, coded: Coded, quality: int) -> tuple[list[bytes], Coded]:
    tiles, frames_count = coded.maps[0].shape[:2]
    side = coded.maps[1].shape[-1] * 8
    grid = model.grid(tiles, frames_count, (side, side))
    encoder = Encoder(model.tables, tiles)
    seen = model.code(encoder, coded, grid, quality)
    return encoder.finish(), seen


@pytest.mark.parametrize("quality", [0, 1, 2])
def test_reading_gives_what_writing_saw(model: Factorized, quality: int) -> None:
    given_maps = model.analyse(frames(3), quality)
    streams, seen = code(model, given_maps, quality)
    back = model.code(Decoder(model.tables, streams), None, model.grid(3, 2, (64, 64)), quality)
    assert all((a == b).all() for a, b in zip(seen.maps, back.maps, strict=True))


@pytest.mark.parametrize("whole", [(0, 0, 0), (0, 1, 0), (1, 1, 1)])
def test_a_tile_is_coded_alike_in_any_company(model: Factorized, whole: tuple[int, ...]) -> None:
    given_maps = model.analyse(frames(3), 0, np.array(whole, np.int32))
    together, seen = code(model, given_maps, 0)
    for tile in range(3):
        alone = Coded(tuple(m[tile : tile + 1] for m in given_maps.maps), given_maps.whole[[tile]])
        streams, seen_alone = code(model, alone, 0)
        back = model.code(
            Decoder(model.tables, [together[tile]]), None, model.grid(1, 2, (64, 64)), 0
        )
        for level, found in enumerate(back.maps):
            count = found.shape[2]
            assert (seen.maps[level][tile, :, :count] == found[0]).all()
            assert not seen.maps[level][tile, :, count:].any()
            assert (seen_alone.maps[level] == found).all()
        assert len(streams[0]) == len(together[tile])


@pytest.mark.parametrize("quality", [0, 1])
def test_a_tile_decodes_alike_in_any_company(model: Factorized, quality: int) -> None:
    """Also beside tiles that are whole, or have more common symbols."""
    units = Units.of(model, model.bands, 1, 0)
    random = np.random.default_rng(0)
    shown = 2000 + 1000 * frames(3).numpy()
    shown[0] = 2000
    shown[2] += random.normal(0, 500, shown[2].shape)
    tiles, seen = batch.encode_tiles(units, shown, None, [()] * 3, quality)
    shape = shown.shape[1:]
    for chosen in ([0], [1], [2], [2, 0], [0, 1, 2]):
        back = batch.decode_tiles(units, [tiles[i] for i in chosen], None, shape, quality)
        for ours, theirs in zip(back.maps, seen.maps, strict=True):
            assert torch.equal(ours, theirs[chosen][:, :, : ours.shape[2]])
            assert not theirs[chosen][:, :, ours.shape[2] :].any()


def test_threads_do_not_change_rows(model: Factorized) -> None:
    given_maps = model.analyse(frames(4), 1)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(code(model, given_maps, 1)[0])
    torch.set_num_threads(before)
    assert results[0] == results[1]


def test_dropped_symbols_make_a_tile_whole(model: Factorized) -> None:
    calm = model.analyse(frames(2) * 1e-3, 1, np.ones(2, np.int32))
    calm = calm._replace(whole=np.zeros(2, np.int32))
    assert not model.harmed(calm, code(model, calm, 1)[1]).any()
    last = (model.wide.cuts(1) or ())[1] - 1  # its rows are certain
    fine = calm.maps[1].clone()
    fine[1, 0, last, 3, 3] = 9
    loud = Coded((calm.maps[0], fine), calm.whole)
    _, dropped = code(model, loud, 1)
    assert dropped.maps[1][1, 0, last, 3, 3] == 0
    harmed = model.harmed(loud, dropped)
    assert harmed.tolist() == [0, 1]
    _, again = code(model, loud._replace(whole=harmed), 1)
    assert again.maps[1][1, 0, last, 3, 3] == 9


def test_dropped_channels_make_a_tile_whole(model: Factorized) -> None:
    """Symbols beyond the extents are lost as surely as those in certain rows."""
    calm = model.analyse(frames(2) * 1e-3, 0)
    for level, cut in enumerate(model.wide.cuts(0) or ()):
        maps = [m.clone() for m in calm.maps]
        maps[level] = functional.pad(maps[level][:, :, :cut], (0, 0, 0, 0, 0, 1))
        maps[level][1, 0, cut, 1, 1] = 9
        loud = Coded((maps[0], maps[1]), calm.whole)
        _, dropped = code(model, loud, 0)
        assert model.harmed(loud, dropped).tolist() == [0, 1]


def test_a_tile_that_a_cut_would_harm_is_analysed_whole(model: Factorized) -> None:
    transform = model.transform
    assert isinstance(transform, PatchTransform)
    channel = int(transform.order[-1])  # it is cut at this quality
    spectrum = torch.zeros(2, 64, 3, 64)
    spectrum[1, channel // 3, :, 8 * 2 + 5] = 9 * transform.turned[-1, channel % 3]
    planes = torch.einsum("fk,nfbp->nkbp", transform.waves, spectrum)
    shown = scattered(planes.unflatten(3, (8, 8)), 8).unsqueeze(1)
    found = model.analyse(shown, 0)
    assert found.whole.tolist() == [0, 1]
    assert found.maps[1].shape[2] == 188
    assert found.maps[1][1, 0, -1, 2, 5].abs() > 1
    assert model.analyse(shown[:1], 0).maps[1].shape[2] == 40


def test_a_cut_changes_no_symbol_of_the_channels_that_stay(model: Factorized) -> None:
    """All that a cut saves is work; the branch sees the same channels."""
    shown = frames(2) * 0.1
    cut, whole = model.analyse(shown, 0), model.analyse(shown, 0, np.array([0, 1], np.int32))
    assert not cut.whole.any()
    assert cut.maps[1].shape[2] == 40
    assert whole.maps[1].shape[2] == 188
    for ours, theirs in zip(cut.maps, whole.maps, strict=True):
        assert (ours - theirs[:, :, : ours.shape[2]]).abs().max() <= 1
        assert (ours != theirs[:, :, : ours.shape[2]]).float().mean() < 1e-3
    assert model.sides(cut) == model.sides(whole)


def test_certain_rows_are_those_below_the_threshold(model: Factorized) -> None:
    prior = model.wide
    assert isinstance(prior, ActivityPrior)
    assert model.tables.certain[:CERTAIN].all()
    assert not model.tables.certain[CERTAIN:].any()


@pytest.mark.parametrize(
    ("width", "latents", "size"), [(128, 192, 3_044_044), (192, 320, 7_097_420)]
)
def test_official_sizes(width: int, latents: int, size: int) -> None:
    """The published models have so many weights besides their entropy bottlenecks."""
    transform = StridedTransform(12, width, latents)
    assert sum(p.numel() for p in transform.parameters()) - latents == size
    with torch.inference_mode():
        (latent,), missed, turns = transform.analysis(torch.zeros(1, 12, 64, 96), 0, None)
        assert latent.shape == (1, latents, 4, 6)
        assert missed is None
        assert transform.synthesis((latent,), 0, turns).shape == (1, 12, 64, 96)


def test_official_sizes_round_trip() -> None:
    model = Factorized.from_artifact(strided_artifact(128, 192, 0.02))
    with torch.inference_mode():
        given_maps = model.analyse(torch.from_numpy(draw("x", (2, 1, 12, 64, 64))), 0)
        encoder = Encoder(model.tables, 2)
        grid = model.grid(2, 1, (64, 64))
        model.code(encoder, given_maps, grid, 0)
        back = model.code(Decoder(model.tables, encoder.finish()), None, grid, 0)
        assert (back.maps[0] == given_maps.maps[0]).all()
        assert int(given_maps.maps[0].abs().max()) > 0
        assert model.synthesise(back, 0).shape == (2, 1, 12, 64, 64)


def test_maps_may_be_cut_where_they_are_zero(model: Factorized) -> None:
    torch.manual_seed(0)
    coarse, fine = torch.randn(1, 64, 2, 2), torch.randn(1, 188, 8, 8)
    coarse[:, 20:], fine[:, 50:] = 0, 0
    turns = ([Turn(1, np.array([77, 300])), DEFAULT, Turn(2, np.array([5, 6, 7])), DEFAULT],)
    with torch.inference_mode():
        whole = model.transform.synthesis((coarse, fine), 0, turns)
        for least in (0, 3, 20):
            cut = model.transform.synthesis((coarse[:, :20], fine[:, : 50 + least]), 0, turns)
            assert torch.allclose(whole, cut, atol=1e-5)
        near = model.transform.synthesis((coarse[:, :20], fine[:, :30]), 0, turns)
        assert not torch.allclose(whole, near, atol=1e-3)


def test_an_untrained_transform_inverts_itself() -> None:
    transform = untrained()
    shown = frames(1, 96)[0]
    with torch.inference_mode():
        maps, missed, turns = transform.analysis(shown, 0, None)
        back = transform.synthesis(maps, 0, turns)
        default = torch.tensor([False, True])
        again, rotations = transform.analysis_at(shown, transform.steps[:1], default)
        trained = transform.synthesis_at(again, transform.steps[:1], rotations)
    assert missed is None
    assert any(turn.leading for frame in turns for turn in frame)
    assert torch.equal(rotations[1], transform.turned)
    assert torch.allclose(back, shown, atol=1e-4)
    assert torch.allclose(trained, shown, atol=1e-4)


def test_a_transform_keeps_the_energy_and_puts_it_first() -> None:
    transform = untrained()
    shown = frames(1)[0] - frames(1)[0].mean()
    with torch.inference_mode():
        (coarse, fine), _, _ = transform.analysis(shown, 0, None)
    step = float(transform.steps[0])
    power = (coarse.square().sum() + fine.square().sum()) * step**2
    assert float(power) == pytest.approx(float(shown.square().sum()), rel=1e-4)
    assert fine[:, :8].square().mean() > 10 * fine[:, -8:].square().mean()


def untrained() -> PatchTransform:
    """Branches, gains and shrinkage do nothing."""
    transform = PatchTransform(3, 8, 4, 16, 1, 1)
    transform.steps.fill_(0.02)
    transform.turned.copy_(torch.stack([orthonormal(f"turned{g}", 3) for g in range(4)]))
    exact = torch.linalg.qr(transform.turned)[0]
    transform.turned.copy_(exact)
    transform.order.copy_(shuffled("order", 8, 3))
    transform.lead_order.copy_(shuffled("lead_order", 4, 4))
    return transform.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("quality", [0, 1, 2])
def test_a_model_comes_close_to_what_it_was_shown(model: Factorized, quality: int) -> None:
    shown = frames(2)
    coded = model.analyse(shown, quality, np.ones(2, np.int32))
    back = model.synthesise(coded, quality)
    step = (0.8, 0.2, 0.05)[quality]
    assert float((back - shown).square().mean()) < (0.5 * step) ** 2


def test_what_tiles_store_beside_their_symbols_comes_back(model: Factorized) -> None:
    coded = model.analyse(frames(3), 1)
    sides = model.sides(coded)
    assert len(sides) == 3
    assert sides[1] != sides[2]
    read = model.with_sides(coded._replace(turns=()), sides)
    assert len(read.turns) == len(coded.turns) == 6
    assert model.sides(read) == sides
    assert torch.equal(model.synthesise(read, 1), model.synthesise(coded, 1))
    swapped = model.synthesise(model.with_sides(coded, [sides[0], *sides[:0:-1]]), 1)
    assert torch.equal(swapped[0], model.synthesise(coded, 1)[0])
    assert not torch.equal(swapped[1], model.synthesise(coded, 1)[1])


def test_identity_covers_what_decoding_reads(tmp_path: Path) -> None:
    genuine = patch_artifact()
    identity = genuine.save(tmp_path / "a.tec.safetensors")
    loaded = artifacts.load(tmp_path / "a.tec.safetensors")
    assert loaded.identity() == identity == patch_artifact().identity()
    assert replace(genuine, card={"summary": "another"}).identity() == identity
    for name, value in genuine.tensors.items():
        changed = value.copy()
        changed.flat[-1] += 1
        assert replace(genuine, tensors={**genuine.tensors, name: changed}).identity() != identity
    fields = json.loads(json.dumps(genuine.fields))
    fields["config"]["qualities"][0] += 1
    assert replace(genuine, fields=fields).identity() != identity


def broken(kind: str) -> artifacts.Artifact:
    genuine = patch_artifact()
    fields: dict[str, Any] = json.loads(json.dumps(genuine.fields))
    tensors = dict(genuine.tensors)
    if kind == "family":
        fields["family"] = "vtt"
    if kind == "option":
        fields["config"]["swirl"] = 3
    if kind == "missing":
        del tensors["transform.order"]
    if kind == "no prior":
        del tensors["prior.chances"]
    if kind == "rare rows":
        tensors["prior.shifts"] = tensors["prior.shifts"][:-1]
    if kind == "left over":
        tensors["transform.disorder"] = tensors["transform.order"]
    if kind == "shape":
        tensors["mean"] = tensors["mean"][:2]
    return artifacts.Artifact(fields, tensors)


@pytest.mark.parametrize(
    "kind", ["family", "option", "missing", "no prior", "rare rows", "left over", "shape"]
)
def test_artifacts_that_do_not_fit_are_refused(kind: str) -> None:
    with pytest.raises(ModelMismatchError):
        registry.build(broken(kind))


def test_files_that_are_no_artifacts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"not safetensors")
    with pytest.raises(ModelMismatchError, match="noise"):
        artifacts.load(tmp_path / "noise")
    newer = patch_artifact()
    replace(newer, fields={**newer.fields, "version": 2}).save(tmp_path / "newer")
    with pytest.raises(ModelMismatchError, match="version 2"):
        artifacts.load(tmp_path / "newer")
    with pytest.raises(ModelNotFoundError):
        artifacts.load(tmp_path / "nowhere")


def test_adding_a_model_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEC_ZARR_CACHE", str(tmp_path / "cache"))
    identity = patch_artifact().save(tmp_path / "mine.tec.safetensors")
    assert registry.add(tmp_path / "mine.tec.safetensors") == identity
    model = registry.load(identity[:32], torch.device("cpu"))
    assert model.bands == ("B02", "B03", "B04")
    assert registry.load(identity, torch.device("cpu")) is model, "in memory once"
    registry.forget()


def test_bundled_artifacts_are_what_their_cards_say() -> None:
    from tec_zarr.cards import cards

    for name, card in cards().items():
        model = registry.load(name, torch.device("cpu"))
        assert model.identity.hex() == card.identity[:32]


def test_a_configuration_with_unknown_layout_is_refused() -> None:
    genuine = strided_artifact()
    fields = json.loads(json.dumps(genuine.fields))
    fields["config"]["layout"] = "spiral"
    with pytest.raises(ModelMismatchError, match="layout"):
        registry.build(artifacts.Artifact(fields, genuine.tensors))
