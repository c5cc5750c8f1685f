"""Arithmetic of transformers: exact, alike with and without machine code, near to float64."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tec_zarr.models import across_loops, attention_loops, half_loops, integer_loops, product_loops
from tec_zarr.models.attention import Context
from tec_zarr.models.integers import (
    ACTIVE,
    CERTAIN,
    COUNTED,
    FOUND,
    HEAVY,
    LEAST,
    LONGEST,
    SCORED,
    SHARED,
    TAIL,
    WEIGHT,
    WIDEST,
    Gelu,
    LayerNorm,
    Linear,
    Scaled,
    attended,
    factor_of,
    halves,
    power,
    prepare,
    scaled,
    weights,
)
from tec_zarr.models.tile_here import COLUMNS, GROUP
from tec_zarr.models.transformer import AcrossBlock
from tests.floats import in_float64
from tests.plainly import plainly

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor, nn

    Numbers = NDArray[Any]

pytestmark = pytest.mark.usefixtures("one_thread")

SCALES = st.sampled_from([0.0, 1e-38, 1e-12, 0.02, 1.0, 35.0, 1e4, 1e15])
ROWS = st.integers(1, 60)
SEEDS = st.integers(0, 2**32 - 1)


def rows(seed: int, count: int, width: int, scale: float) -> Tensor:
    """Rows of heavy tails, one of them zero."""
    random = np.random.default_rng(seed)
    values = random.standard_t(3, (count, width)) * scale
    values[random.integers(count)] *= random.integers(2)
    return torch.from_numpy(values.astype(np.float32))


def linear(width: int, outside: int, seed: int = 0) -> Linear:
    torch.manual_seed(seed)
    layer = Linear(width, outside).requires_grad_(requires_grad=False)
    prepare(layer)
    return layer


def same(compute: Callable[[], Tensor], *models: nn.Module) -> Tensor:
    """What all ways of computing give, bit by bit."""
    found = compute()
    with plainly(*models):
        assert torch.equal(found.view(torch.int32), compute().view(torch.int32))
    return found


@given(seed=SEEDS, count=ROWS, width=st.integers(1, 300), scale=SCALES)
def test_integers_are_the_rows(seed: int, count: int, width: int, scale: float) -> None:
    x = rows(seed, count, width, scale)
    numbers, unit = scaled(x)
    with plainly():
        pairs = zip((numbers, unit), scaled(x), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert numbers.shape == (count, width + -width % GROUP)
    assert not numbers[:, width:].any()
    assert numbers.int().abs().max() <= ACTIVE
    apart = (numbers[:, :width] * unit.double()[:, None] - x).abs()
    assert (apart <= 0.501 * unit[:, None]).all()


@given(seed=SEEDS, count=ROWS, width=st.integers(1, 3100), spike=st.sampled_from([0, 10, 1e4, 1e9]))
def test_sums_of_whole_rows_stay_in_int32(seed: int, count: int, width: int, spike: float) -> None:
    x = rows(seed, count, width, 1.0)
    x[:, seed % width] += spike
    numbers, unit = weights(x)
    assert numbers.int().abs().max() <= WEIGHT
    assert ACTIVE * numbers.long().abs().sum(1).max() < 2**31
    apart = (numbers[:, :width] * unit.double()[:, None] - x).abs()
    assert (apart <= 0.501 * unit[:, None]).all()


def test_the_bounds_of_sums_hold() -> None:
    assert ACTIVE * (HEAVY * (1 + 1e-6) + LONGEST / 2) < 2**31
    assert WIDEST * SCORED**2 < 2**31
    assert SHARED * FOUND < 2**31
    assert 256 * CERTAIN <= 2**24
    assert COUNTED < 2**15
    assert 4 * max(ACTIVE, WEIGHT) < 2**15


def test_groups_are_turns() -> None:
    pytest.importorskip("numba")
    assert importlib.import_module("tec_zarr.models.vectors").TURN * 2 == GROUP


@pytest.mark.parametrize("k", [8, 32, 384, 392, 3000])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (4, 24), (5, 49), (8, 16), (17, 100), (64, 7)])
def test_products_are_exact(m: int, k: int, n: int) -> None:
    most = min(WEIGHT, (2**31 - 1) // ACTIVE // k)
    left, right = extremes((m, k), ACTIVE), extremes((n, k), most)
    left[0], right[0] = ACTIVE, most  # as large as a sum can be
    assert_exact(left, right)


@pytest.mark.parametrize(
    ("m", "k", "n"), [(128, 128, 96), (131, 768, 192), (145, 2304, 96), (129, 112, 288)]
)
def test_products_are_exact_by_halves(m: int, k: int, n: int) -> None:
    """Also where what is mixed is as large as it can be, and sums on the way overflow."""
    most = min(WEIGHT, (2**31 - 1) // ACTIVE // k)
    left, right = extremes((m, k), ACTIVE), extremes((n, k), most)
    left[0], right[0], left[-1], right[-1] = ACTIVE, most, -ACTIVE, -most
    panels = assert_exact(left, right)
    assert len(panels.mixed)


@given(seed=SEEDS, m=st.integers(120, 160), k=st.integers(1, 40), pairs=st.integers(1, 3))
@settings(max_examples=20)
def test_any_rows_are_taken_by_halves(seed: int, m: int, k: int, pairs: int) -> None:
    random = np.random.default_rng(seed)
    n = pairs * 2 * max(1, COLUMNS)
    left, right = (
        random.integers(-most, most + 1, size).astype(np.int16)
        for most, size in ((ACTIVE, (m, 8 * k)), (3200, (n, 8 * k)))
    )
    assert_exact(left, right)


def extremes(size: tuple[int, int], most: int) -> Numbers:
    random = np.random.default_rng(size)
    return random.choice([-most, most, 0, 1, most // 2], size).astype(np.int16)


def assert_exact(left: Numbers, right: Numbers) -> product_loops.Panels:
    """Products of these rows are what they are; returns the panels of the second ones."""
    if product_loops.multiply is None:
        pytest.skip("no machine code")
    random = np.random.default_rng(0)
    units = [random.random(count).astype(np.float32) for count in (len(left), *2 * [len(right)])]
    panels = product_loops.panels(right, *units[1:])
    found = np.full((len(left), len(right)), np.nan, np.float32)
    product_loops.multiply(left, units[0], panels, found)
    exact = (left.astype(np.int64) @ right.T.astype(np.int64)).astype(np.float32)
    assert np.array_equal(found, exact * units[0][:, None] * units[1] + units[2])
    return panels


OTHER = """
import sys
import pytest
from tec_zarr.models import vectors
shape = getattr(vectors, sys.argv[2])
if vectors.suitable() != shape:
    vectors.suitable = lambda: shape._replace(apart=False)
names = "products_are_exact or by_halves or attention"
sys.exit(pytest.main([*"-q --assert=plain -p no:cacheprovider".split(), sys.argv[1], "-k", names]))
"""


@pytest.mark.parametrize("shape", ["WIDE", "NARROW", "PLAIN"])
def test_other_processors_find_the_same(shape: str, tmp_path: Path) -> None:
    """Products and attention with the tile of processors that have other registers."""
    if product_loops.multiply is None:
        pytest.skip("no machine code")
    vectors = importlib.import_module("tec_zarr.models.vectors")
    if getattr(vectors, shape) == vectors.suitable():
        pytest.skip("that of this processor")
    if shape == "NARROW" and vectors.suitable() == vectors.PLAIN:
        pytest.skip("this processor has no AVX2")
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    if shape == "PLAIN":
        environment["NUMBA_ENABLE_AVX"] = "0"
    command = (sys.executable, "-c", OTHER, __file__, shape)
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()
    assert b"45 passed" in done.stdout


@given(seed=SEEDS, count=ROWS, width=st.integers(1, 300), scale=SCALES)
def test_linear_layers_are_alike_and_near(seed: int, count: int, width: int, scale: float) -> None:
    layer, x = linear(width, 37), rows(seed, count, width, scale)
    found = same(lambda: layer(x), layer)
    exact = functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    furthest = 1e-3 * x.double().norm(dim=1, keepdim=True) * layer.weight.norm(dim=1).double()
    assert ((found - exact).abs() <= furthest + 1e-6).all()


def test_a_row_does_not_depend_on_the_others() -> None:
    layer, x = linear(192, 100), rows(1, 200, 192, 3.0)
    together = layer(x)
    for part in (x[:1], x[:40], x[:130]):
        assert torch.equal(layer(part), together[: len(part)])


@given(seed=SEEDS, count=ROWS, width=st.integers(1, 300), scale=SCALES)
def test_normalisation_is_alike_and_near(seed: int, count: int, width: int, scale: float) -> None:
    layer, x = LayerNorm(width, 1e-6), rows(seed, count, width, min(scale, 1e4))
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    layer.requires_grad_(requires_grad=False)
    found = same(lambda: layer(x))
    normal = (layer.weight.double(), layer.bias.double(), layer.eps)
    exact = functional.layer_norm(x.double(), (width,), *normal)
    spread = x.double().std(1, correction=0).clamp(min=1e-3)
    furthest = 1e-5 * (1 + x.double().abs().amax(1) / spread)[:, None]
    assert ((found - exact).abs() <= furthest * (1 + layer.weight.abs())).all()


def test_halves_are_sums() -> None:
    for width in (1, 2, 3, 96, 768, 1000):
        x = torch.arange(2 * width).float().view(2, width)
        assert torch.equal(halves(x), x.sum(1))


def test_gelu_is_alike_and_near() -> None:
    x = torch.cat([torch.linspace(-20, 20, 100_001), torch.tensor([0.0, -0.0, 1e30, -1e30, 1e-30])])
    found = Gelu()(x)
    if integer_loops.bend is not None:
        other = torch.empty_like(x)
        integer_loops.bend(x.numpy(), other.numpy(), TAIL)
        assert torch.equal(found.view(torch.int32), other.view(torch.int32))
    assert (found - functional.gelu(x.double())).abs().max() <= 1e-6 * 20
    assert (found - functional.gelu(x.double()))[x.abs() < 8].abs().max() <= 8e-7


def test_powers_are_near() -> None:
    x = torch.linspace(LEAST, 0, 100_001)
    assert (power(x) / torch.exp2(x.double()) - 1).abs().max() <= 4e-6
    assert power(torch.zeros(1)) == 1


def heads(x: Tensor, largest: int) -> Scaled:
    """Integers of (n, tokens, heads, d)."""
    numbers, unit = scaled(x.reshape(-1, x.shape[3]), largest)
    return Scaled(numbers[:, : x.shape[3]].reshape(x.shape), unit.view(x.shape[:3]))


def found_by(query: Scaled, keys: Scaled, values: Scaled, known: int) -> Tensor:
    """What queries find, with and without machine code, bit by bit the same."""
    found = attended(query, keys, values, known)
    if attention_loops.attend is not None:
        parts = [part.numpy() for own in (query, *map(roomy, (keys, values))) for part in own]
        there, factor = keys.unit.shape[2], np.float32(factor_of(query.numbers.shape[3]))
        other = torch.empty(query.numbers.shape)
        attention_loops.attend(*parts, there, known, factor, other.numpy())
        assert torch.equal(found.view(torch.int32), other.view(torch.int32))
    return found


def roomy(own: Scaled) -> Scaled:
    """With room for more tokens, which has anything in it."""
    more = Scaled(*(part[:, :, :3].roll(1, 0) for part in own))
    return Scaled(*(torch.cat(both, 2) for both in zip(own, more, strict=True)))


def seen_by(keys: Tensor, values: Tensor) -> tuple[Scaled, Scaled]:
    """The same of (n, heads, tokens, d)."""
    return heads(keys, SCORED), heads(values, FOUND)


@given(
    seed=SEEDS, tokens=st.integers(1, 20), width=st.sampled_from([2, 6, 24, 48, 50, 128]),
    scale=st.sampled_from([0.01, 1.0, 3.0]),
)  # fmt: skip
def test_attention_is_alike_and_near(seed: int, tokens: int, width: int, scale: float) -> None:
    torch.manual_seed(seed)
    keys = max(tokens, seed % 150)
    query = scale * torch.randn(2, tokens, 3, width)
    pairs = (scale * torch.randn(2, 3, keys, width), scale * torch.randn(2, 3, keys, width))
    asked, own = heads(query, SCORED), seen_by(*pairs)
    for known in (keys, keys - tokens + 1):
        found = found_by(asked, *own, known)
        seen = torch.arange(keys) < known + torch.arange(tokens)[:, None]
        asking, (there, told) = query.transpose(1, 2).double(), (x.double() for x in pairs)
        exact = functional.scaled_dot_product_attention(asking, there, told, attn_mask=seen)
        assert (found.transpose(1, 2) - exact).abs().max() <= 8e-3 * scale * max(1, scale)


def test_the_widest_sums_of_attention_are_exact() -> None:
    """Integers of 128 features and 256 keys at their limits."""
    tall = torch.full((1, 1, 256, 128), 1e9)
    asked = heads(tall.transpose(1, 2), SCORED)
    found = found_by(asked, *seen_by(tall, tall), 256)
    assert (found / 1e9 - 1).abs().max() < 1e-4


def test_keys_far_from_the_best_and_keys_to_come_do_not_count() -> None:
    query, keys = torch.ones(1, 2, 1, 2), torch.tensor([[[[90.0, 0], [0, 0], [99, 0]]]])
    values = torch.tensor([[[[1.0, 0], [30, 0], [30, 0]]]])
    found = found_by(heads(query, SCORED), *seen_by(keys, values), 1)
    assert found[0, 0, 0, 0] == pytest.approx(1, rel=1e-3)
    assert found[0, 1, 0, 0] == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize(
    ("width", "heads", "keys", "tokens"),
    [(48, 3, 128, 16), (96, 2, 20, 1), (16, 2, 128, 40), (72, 4, 9, 2)],
)
def test_attention_to_a_context_is_alike_and_near(
    width: int, heads: int, keys: int, tokens: int, *, several: bool
) -> None:
    torch.manual_seed(0)
    block = AcrossBlock(width, heads, 4).requires_grad_(requires_grad=False)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    prepare(block)
    x, context = torch.randn(5, tokens, width), torch.randn(5 if several else 1, keys, width)
    found = same(lambda: block(x, Context.of(context)), block)
    for part in (x[:1], x[:, -1:], x[:0]):  # of others, nothing is seen
        own = block(part, Context.of(context[: len(part)]))
        assert torch.equal(own, found[: len(part), -part.shape[1] :])
    with in_float64():
        exact = block(x.double(), Context.of(context.double()))
    assert (found - exact).abs().max() <= 1e-2 * exact.std()


def test_values_that_are_no_numbers_harm_nobody() -> None:
    """Weights of a hostile artifact: nonsense, but no crash, and the same shapes."""
    x = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [-math.inf, math.nan], [1.0, 2.0]])
    layer = linear(2, 3)
    assert layer(x).shape == (4, 3)
    assert torch.equal(layer(x)[3], layer(x[3:])[0])
    assert LayerNorm(2, 1e-6).requires_grad_(requires_grad=False)(x).shape == x.shape
    assert Gelu()(x).shape == x.shape
    asked, own = heads(x.view(1, 4, 1, 2), SCORED), seen_by(x.view(1, 1, 4, 2), x.view(1, 1, 4, 2))
    assert attended(asked, *own, 4).shape == (1, 4, 1, 2)


def test_machine_code_is_what_runs_here() -> None:
    """Else the tests above would compare torch with itself."""
    pytest.importorskip("numba")
    assert (integer_loops.split is None) == (attention_loops.attend is None)


@pytest.mark.parametrize(
    ("loop", "rooms"),
    [
        (product_loops._multiply, {"packed", "sums", "wide"}),
        (half_loops._multiply, {"packed", "sums"}),
        (attention_loops._attend_by_many, {"weights", "packed"}),
        (across_loops._look_at, {"weights", "packed"}),
    ],
)
def test_rooms_live_as_long_as_tiles_have_their_addresses(
    loop: Callable[..., None], rooms: set[str]
) -> None:
    """Numba frees an array behind the last line that names it: that has to be behind all loops."""
    core = pytest.importorskip("numba").core
    identity = core.bytecode.FunctionIdentity.from_function(loop)
    code = core.interpreter.Interpreter(identity).interpret(core.bytecode.ByteCode(identity))
    core.postproc.PostProcessor(code).run(emit_dels=True)
    graph = core.analysis.compute_cfg_from_blocks(code.blocks)
    for place, block in code.blocks.items():
        freed = {line.value for line in block.body if isinstance(line, core.ir.Del)} & rooms
        behind = [place] if freed else []
        for at in behind:
            assert at not in graph.loops()
            behind += [then for then, _ in graph.successors(at) if then not in behind]
