from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tec_zarr import TEC
from tec_zarr.bands import MEANS, ORDERS, S2L2A, STDS
from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.entropy import exact, tables
from tec_zarr.errors import ConfigError, ModelMismatchError, ModelNotFoundError
from tec_zarr.models import official, registry, shelf, upstream, upstream_temporal
from tec_zarr.models.bottleneck import Bottleneck
from tec_zarr.models.correlation import correlation
from tec_zarr.models.elic import Elic, ElicConfig
from tec_zarr.models.factorized import Factorized, FactorizedConfig
from tec_zarr.models.upstream_names import ELIC_RULES, FP_RULES, renamed
from tec_zarr.releases import releases
from tests.draws import draw
from tests.upstream import KEYS, SENT, Shapes, State, listed, narrowed, state_of, temporal, tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

ORIGIN = upstream.Origin("s2l2a", 10.0, {"summary": "random weights"})

# Of random checkpoints in published sizes. Another value means that people who convert the same
# checkpoint get different models: never change them, mend what changed.
IDENTITIES = {
    "fp_n128_m192": "41b7c0466b2cf6b0fe07a025b2833f85c1ea65d4b88c951980a4061ef2d361dd",
    "tt_s2l2a": "1507d5a40141c42635eab59c40099a6300b6a86d2a0d1df8d49a94e561d6dbd0",
    "flextec_s2l2a": "c2806fa24f9cbd59ac99eb3005495801a777b4b51cb36a39c77fe1ca360d461f",
    "elic_n128_m192": "e4ba91c27fdac3466deae9679a627e29c98065e51e0edb6fe15734d9a2a062b8",
}


def small() -> Shapes:
    """A TEC-FP with narrow layers."""
    sizes = {128: 8, 192: 12}
    cases = listed("fp_n128_m192").items()
    return {name: tuple(sizes.get(n, n) for n in shape) for name, shape in cases}


@pytest.fixture(scope="module")
def elic() -> State:
    return state_of(listed("elic_n128_m192"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TEC_ZARR_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    registry.forget()


def saved(state: State, path: Path, prefix: str = "model.") -> Path:
    torch.save({prefix + name: torch.from_numpy(value) for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("case", sorted(path.stem for path in KEYS.glob("*_n*.txt")))
def test_every_published_tensor_has_its_place(case: str) -> None:
    """Names and shapes; what is not loaded is made anew or constant."""
    family, width, latents = case.replace("n", "").replace("m", "").split("_")
    shapes = {name: np.broadcast_to(np.float32(0), shape) for name, shape in listed(case).items()}
    rules = FP_RULES if family == "fp" else ELIC_RULES
    found = {name: value.shape for name, value in renamed(shapes, rules).items()}
    config: dict[str, Any] = {"bands": S2L2A, "width": int(width), "latents": int(latents)}
    with torch.device("meta"):
        if family == "fp":
            own = FactorizedConfig(**config, layout="strided", qualities=(1.0,))
            model: torch.nn.Module = Factorized(own)
        else:
            groups = (16, 16, 32, 64, int(latents) - 128)
            model = Elic(ElicConfig(**config, groups=groups, qualities=(1.0,)))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    median = "transform.median" if family == "fp" else "prior.median"
    extra = {name: expected.pop(name) for name in ("mean", "std", "covariance", median)}
    assert found == expected
    assert len(extra) == 4


@pytest.mark.parametrize("case", ["tt_s2l2a", "tt_s2l1c", "flextec_s2l2a"])
def test_every_published_tensor_of_a_temporal_model_has_its_place(case: str) -> None:
    shapes = temporal(case)
    ends = ("bound", "mask", "_token", "_offset", "_cdf", "_length", "_table")
    constants = sum(name.endswith((*ends, "_prior_mean", "_prior_scale")) for name in shapes)
    bands = ORDERS[case.rpartition("_")[2]]
    state: State = {
        name: np.broadcast_to(tensor(name, (1,) * len(shape), "", 1.0), shape)
        for name, shape in shapes.items()
    }
    mask = np.triu(np.ones((16, 16), np.bool_), 1)
    state |= {name: mask for name in shapes if name.endswith("look_ahead_mask")}
    model, weights = upstream_temporal.temporal(state, bands, 5.0)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert [expected.pop(name)[0] for name in ("mean", "std", "covariance")] == [len(bands)] * 3
    assert {name: value.shape for name, value in weights.items()} == expected
    assert len(expected) + constants == len(shapes)
    config = model.config
    assert (config.heads, config.layers, config.expansion) == (16, (6, 4, 5), 4)
    assert len(config.qualities) == (16 if case.startswith("flextec") else 1)


@pytest.mark.parametrize("case", sorted(IDENTITIES))
def test_the_same_checkpoint_becomes_the_same_artifact(case: str) -> None:
    shapes = narrowed(temporal(case)) if case in SENT else listed(case)
    artifact = upstream.convert(state_of(shapes), ORIGIN)
    assert artifact.identity() == IDENTITIES[case]


def test_a_converted_model_has_the_statistics_of_its_training_data() -> None:
    model = registry.build(upstream.convert(state_of(small()), ORIGIN))
    assert model.bands == S2L2A
    assert model.qualities == (10.0,)
    assert np.allclose(model.mean, MEANS["s2l2a"])
    assert np.allclose(model.std, STDS["s2l2a"])


def test_bands_go_together_in_a_possible_way() -> None:
    table = correlation((*S2L2A, "B10"))
    assert np.linalg.eigvalsh(table.astype(np.float64))[0] > 0
    assert table[12].tolist() == [0.0] * 12 + [1.0]


def test_parameters_of_gdn_are_those_in_use() -> None:
    state = state_of(small())
    state["g_a.1.beta"][0] = -3
    found = upstream.convert(state, ORIGIN).tensors["transform.g_a.1.beta"]
    assert np.isclose(found[0], 1e-6, atol=1e-9)
    assert np.allclose(found[1:], np.square(state["g_a.1.beta"][1:]) - 2.0**-36)


def test_older_names_and_filled_tables_are_understood(tmp_path: Path, elic: State) -> None:
    state = state_of(small())
    expected = upstream.convert(state, ORIGIN).identity()
    older = {
        name.replace("matrices.", "_matrix").replace("biases.", "_bias"): v
        for name, v in state.items()
    }
    older["entropy_bottleneck._offset"] = np.full(12, -7, np.int32)
    assert (
        upstream.convert(upstream.read(saved(older, tmp_path / "old.pt")), ORIGIN).identity()
        == expected
    )
    scales = np.array(exact.deviations(*upstream.SCALES), np.float32)
    name = "latent_codec.y.latent_codec.y3.y.gaussian_conditional.scale_table"
    upstream._check_group({**elic, name: scales}, 3)


def drop(name: str) -> Callable[[State], None]:
    return lambda state: state.pop(name)


def put(name: str, value: Any) -> Callable[[State], None]:
    return lambda state: state.update({name: np.asarray(value, np.float32)})


@pytest.mark.parametrize(
    "change",
    [
        drop("g_a.2.bias"),
        drop("entropy_bottleneck.factors.3"),
        drop("g_s.1.gamma_reparam.pedestal"),
        put("g_a.7.weight", np.zeros((3, 3))),
        put("g_a.2.bias", np.zeros(9)),
        put("g_a.2.bias", np.full(8, np.nan)),
        put("entropy_bottleneck.matrices.2", np.zeros((12, 3, 4))),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(change: Callable[[State], None]) -> None:
    state = state_of(small())
    change(state)
    with pytest.raises(ModelMismatchError):
        upstream.convert(state, ORIGIN)


def test_a_context_that_is_no_checkerboard_is_refused(elic: State) -> None:
    name = "latent_codec.y.latent_codec.y2.context_prediction.mask"
    with pytest.raises(ModelMismatchError, match="group 2"):
        upstream.convert({**elic, name: 1 - elic[name]}, ORIGIN)
    name = "latent_codec.y.latent_codec.y1.y.gaussian_conditional.scale_table"
    with pytest.raises(ModelMismatchError, match="scales of group 1"):
        upstream.convert({**elic, name: np.ones(64, np.float32)}, ORIGIN)


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.pt").write_bytes(b"PK\x03\x04 noise")
    torch.save({"a": 3}, tmp_path / "numbers.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    for name in ("noise.pt", "numbers.pt", "other.pt"):
        with pytest.raises(ModelMismatchError):
            registry.add(tmp_path / name)
    with pytest.raises(ModelNotFoundError):
        upstream.read(tmp_path / "nowhere.pt")


def test_gaussian_rows_are_normal_distributions() -> None:
    scales = exact.deviations(0.11, 256, 64)
    plain = tables.gaussian(scales)
    assert (exact.gaussian(0.11, 256, 64).cdf == plain.cdf).all()
    assert (scales[0], scales[-1]) == (0.11, 256.0)


def bottleneck() -> Bottleneck:
    state = state_of(small())
    return upstream.bottleneck(state, "entropy_bottleneck.")


def test_tables_of_a_factorised_prior_do_not_depend_on_last_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = bottleneck().tables()
    genuine = Bottleneck.distribution
    noise = np.random.default_rng(0)

    def distribution(self: Any, places: Any, channels: Any) -> Any:
        exactly = genuine(self, places, channels)
        return exactly * (1 + noise.uniform(-1e-14, 1e-14, exactly.shape))

    monkeypatch.setattr(Bottleneck, "distribution", distribution)
    found = bottleneck().tables()
    assert (found.cdf == expected.cdf).all()
    assert (found.offsets == expected.offsets).all()


def test_more_digits_say_the_same_as_floats() -> None:
    prior = bottleneck()
    for place in (-20.5, -0.5, 3.5):
        floats = prior.distribution(np.array([place]), np.arange(12))[:, 0]
        assert np.allclose(floats, [float(prior._exactly(c, place)) for c in range(12)], rtol=1e-12)


def test_rows_of_a_factorised_prior_hold_its_mass() -> None:
    prior = bottleneck()
    found = prior.tables()
    for row, (size, offset) in enumerate(zip(found.sizes, found.offsets, strict=True)):
        borders = np.arange(offset, offset + size) - 0.5  # the last entry is the escape
        mass = np.diff(prior.distribution(borders, np.array([row]))[0])
        frequencies = np.diff(found.cdf[row, : size + 1].astype(np.int64))[:-1] / 65536
        assert mass.sum() > 1 - 2.0**-15
        assert np.abs(frequencies - mass).max() < 1e-3


@pytest.mark.parametrize("span", [1e-4, 1e4])
def test_narrow_and_wide_priors_have_tables(span: float) -> None:
    prior = bottleneck()
    # The first layer's weights are softplus(w), about exp(w) for small ones.
    first = np.full_like(prior.matrices[0], -np.log(span) if span > 1 else 1 / span)
    found = Bottleneck([first, *prior.matrices[1:]], prior.biases, prior.factors, prior.medians)
    assert found.tables().sizes.max() < 5000


def scene(*shape: int) -> NDArray[np.uint16]:
    hills = 1500 + 300 * np.cumsum(draw("scene", shape, 0.2), -1)
    return np.clip(hills, 1, 9000).astype(np.uint16)


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., str]) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=answer))


def test_a_published_model_is_fetched_and_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    asked: list[tuple[str, str]] = []

    def answer(repository: str, file: str, revision: str) -> str:
        asked.append((repository, file))
        assert revision
        return str(saved(state_of(small()), tmp_path / file))

    fake_hub(monkeypatch, answer)
    codec = TEC(model="terracodec_v1_fp_s2l2a", quality=0.5, nodata=None)
    chunk = scene(12, 70, 64)
    data = codec.encode(chunk)
    assert np.asarray(codec.decode(data)).shape == chunk.shape
    assert codec.encode(chunk) == data
    assert asked == [
        ("embed2scale/TerraCodec-1.0-FP-S2L2A", "TerraCodec_v1_FP_S2L2A_lambda-0.5.pt")
    ]
    registry.forget()
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    assert (decode_chunk(data) == codec.decode(data)).all()
    assert len(list(cache.glob("*.tec.safetensors"))) == 1


def unreachable(*_: str, **__: str) -> str:
    raise FileNotFoundError("no connection")


@pytest.mark.usefixtures("cache")
def test_what_to_do_where_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TecConfig(model="terracodec_v1_elic_s2l2a", quality=10, nodata=None)
    cure = r"TerraCodec_v1_ELIC_S2L2A_lambda-10\.pt.*tec-zarr models add"
    fake_hub(monkeypatch, unreachable)
    with pytest.raises(ModelNotFoundError, match=cure):
        encode_chunk(scene(12, 64, 64), config)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelNotFoundError, match=r"tec-zarr\[hub\]"):
        encode_chunk(scene(12, 64, 64), config)


@pytest.mark.usefixtures("cache")
def test_a_checkpoint_that_was_copied_by_hand_serves_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elic: State
) -> None:
    fake_hub(monkeypatch, unreachable)
    path = saved(elic, tmp_path / "TerraCodec_v1_ELIC_S2L2A_lambda-40.pt")
    identity = registry.add(path)
    chunk = scene(2, 12, 64, 64).astype(np.int32)
    config = TecConfig(model="terracodec_v1_elic_s2l2a", quality=40, nodata=None)
    data = encode_chunk(chunk, config)
    assert identity[:32] in data.hex()
    back = decode_chunk(data)
    # With the offset of baseline 04.00, both sides of it see the same reflectance.
    newer = encode_chunk(chunk + 1000, TecConfig(**{**config.to_dict(), "offset": -1000}))
    assert np.abs(decode_chunk(newer).astype(int) - 1000 - back).max() <= 1


@pytest.mark.usefixtures("cache")
def test_names_of_files_or_the_user_say_the_lambda(tmp_path: Path) -> None:
    path = saved(state_of(small()), tmp_path / "mine.pt", prefix="")
    with pytest.raises(ConfigError, match=r"FP_S2L2A_lambda-0\.5"):
        official.add(path)
    with pytest.raises(ConfigError, match=r"0\.5, 2, 10, 40, 200"):
        official.add(path, 11)
    identity = official.add(path, 200)
    assert official.identity("terracodec_v1_fp_s2l2a", 200.0) == identity


def test_models_of_other_products_are_refused(tmp_path: Path) -> None:
    shapes = {
        **small(),
        "g_a.0.weight": (8, 13, 5, 5),
        "g_s.6.weight": (8, 13, 5, 5),
        "g_s.6.bias": (13,),
    }
    with pytest.raises(ModelMismatchError, match="no fp s2l1c model"):
        official.add(saved(state_of(shapes), tmp_path / "x_lambda-10.pt"))
    origin = upstream.Origin("s2l1c", 10.0, {})
    assert len(registry.build(upstream.convert(state_of(shapes), origin)).bands) == 13
    shapes["g_a.0.weight"] = (8, 4, 5, 5)
    with pytest.raises(ModelMismatchError, match="4 bands"):
        upstream.bands_of(state_of(shapes))


@pytest.mark.parametrize("name", sorted(releases()))
def test_qualities_that_were_not_published_are_refused_early(name: str) -> None:
    with pytest.raises(ConfigError, match="qualities"):
        encode_chunk(scene(12, 64, 64), TecConfig(model=name, quality=44))


def test_known_identities_are_checked_and_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    path = saved(state_of(small()), tmp_path / "TerraCodec_v1_FP_S2L2A_lambda-2.pt")
    identity = registry.add(path)
    data = encode_chunk(
        scene(12, 64, 64), TecConfig(model="terracodec_v1_fp_s2l2a", quality=2, nodata=None)
    )
    for file in cache.iterdir():
        file.unlink()
    registry.forget()
    release = releases()["terracodec_v1_fp_s2l2a"]
    fake_hub(monkeypatch, lambda *_, **__: str(path))
    monkeypatch.setitem(release.identities, "2", identity)
    assert decode_chunk(data).shape == (12, 64, 64)
    monkeypatch.setitem(release.identities, "2", "0" * 64)
    with pytest.raises(ModelMismatchError, match="becomes artifact"):
        registry.add(path)


@pytest.mark.usefixtures("cache")
def test_files_are_added_on_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from tec_zarr.cli.app import app

    state = state_of(small())
    published = saved(state, tmp_path / "TerraCodec_v1_FP_S2L2A_lambda-10.pt")
    plain = saved(state, tmp_path / "checkpoint.pt")
    added = CliRunner().invoke(app, ["models", "add", str(published)])
    converted = CliRunner().invoke(app, ["models", "convert", str(plain), "--quality", "10"])
    assert added.exit_code == converted.exit_code == 0
    assert added.output == converted.output
    assert shelf.cached(added.output.strip())
