"""Arithmetic of transformers: exact, alike with and without machine code, near to float64."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tec_zarr.models import integer_loops, integers
from tec_zarr.models.integers import (
    ACTIVE,
    HEAVY,
    KEY,
    KEYS,
    VALUE,
    VALUES,
    Gelu,
    LayerNorm,
    Linear,
    attended,
    digits,
    faded,
    halves,
    prepare,
    product,
    whole,
)
from tests.plainly import plainly

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")

SCALES = st.sampled_from([0.0, 1e-38, 1e-12, 0.02, 1.0, 35.0, 1e4, 1e20])
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


def same(compute: Callable[[], Tensor]) -> Tensor:
    """What all ways of computing give, bit by bit."""
    found = compute()
    with plainly():
        assert torch.equal(found.view(torch.int32), compute().view(torch.int32))
    return found


@given(seed=SEEDS, count=ROWS, width=st.integers(1, 300), scale=SCALES)
def test_digits_are_the_rows(seed: int, count: int, width: int, scale: float) -> None:
    x = rows(seed, count, width, scale)
    high, low, unit = digits(x)
    with plainly():
        pairs = zip((high, low, unit), digits(x), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    number = 128 * high.double() + low
    assert number.abs().max() <= ACTIVE
    assert ((number * unit[:, None] - x).abs() <= 0.501 * unit[:, None]).all()
    assert high.int().abs().max() <= 127
    assert low.int().abs().max() <= 64


def test_weights_have_digits_that_pairs_of_products_do_not_overflow() -> None:
    high, low, _ = digits(rows(0, 50, 500, 1.0), HEAVY)
    assert max(high.int().abs().max(), low.int().abs().max()) <= 64
    assert 2 * 255 * 64 < 2**15


@pytest.mark.parametrize("width", [1, 2, 63, 768, 2000, 2001, 3072, 4100])
def test_products_are_exact_whatever_computes_them(width: int) -> None:
    for left_value, right_value in ((127, 64), (-127, 64), (-127, -64)):
        left = torch.full((50, width), left_value, dtype=torch.int8)
        right = torch.full((7, width), right_value, dtype=torch.int8)
        expected = torch.full((50, 7), width * left_value * right_value, dtype=torch.int32)
        assert torch.equal(product(left, right), expected)
        with plainly():
            assert torch.equal(product(left, right), expected)


def test_products_do_not_depend_on_what_float32_is_taken_for() -> None:
    """bfloat16 and TF32 hold the digits, and sums are of float32."""
    random = np.random.default_rng(0)
    left, right = (torch.from_numpy(random.integers(-64, 65, (40, 777), np.int8)) for _ in range(2))
    expected = left.long() @ right.long().T
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            with plainly():
                assert torch.equal(product(left, right).long(), expected)
    finally:
        torch.set_float32_matmul_precision(before)


@given(seed=SEEDS, count=ROWS, width=st.integers(1, 300), scale=SCALES)
def test_linear_layers_are_alike_and_near(seed: int, count: int, width: int, scale: float) -> None:
    layer, x = linear(width, 37), rows(seed, count, width, scale)
    found = same(lambda: layer(x))
    exact = functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    furthest = 3e-4 * x.double().norm(dim=1, keepdim=True) * layer.weight.norm(dim=1).double()
    assert ((found - exact).abs() <= furthest + 1e-6).all()


def test_a_row_does_not_depend_on_the_others() -> None:
    layer, x = linear(192, 100), rows(1, 200, 192, 3.0)
    together = layer(x)
    for part in (x[:1], x[:40], x[:130]):  # few rows take another way
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
    found = same(lambda: Gelu()(x))
    assert (found - functional.gelu(x.double())).abs().max() <= 1e-6 * 20
    assert (found - functional.gelu(x.double()))[x.abs() < 8].abs().max() <= 8e-7


def test_exponentials_are_near() -> None:
    t = torch.linspace(0, 0.5, 10_001)
    assert (faded(t, 7, 5) - torch.exp(-32 * t.double())).abs().max() <= 4e-6


@given(seed=SEEDS, tokens=st.integers(1, 20), scale=st.sampled_from([0.01, 1.0, 6.0]))
def test_attention_is_alike_and_near(seed: int, tokens: int, scale: float) -> None:
    torch.manual_seed(seed)
    query, keys, values = (scale * torch.randn(2, 3, tokens, 24) for _ in range(3))
    numbers = (whole(query, KEY, KEYS), whole(keys, KEY, KEYS), whole(values, VALUE, VALUES))
    for seen in (None, torch.ones((tokens, tokens), dtype=torch.bool).tril()):
        found = same(partial(attended, *numbers, seen))
        exact = functional.scaled_dot_product_attention(
            query.double(), keys.double(), values.double(), attn_mask=seen
        )
        assert (found - exact).abs().max() <= 4e-3 * scale * max(1, scale)


def test_the_widest_sums_of_attention_are_exact() -> None:
    """Integers of 128 features and 256 keys at their limits."""
    assert 128 * int(KEYS) ** 2 <= 2**53
    assert 256 * int(integers.CERTAIN) * int(VALUES) <= 2**53
    tall = torch.full((1, 1, 256, 128), 1e9)
    big = whole(tall, KEY, KEYS)
    assert (big @ big.mT == 128 * KEYS**2).all()
    found = attended(big, big, whole(tall, VALUE, VALUES), None)
    assert (found == VALUES / VALUE).all()


def test_values_that_are_no_numbers_harm_nobody() -> None:
    """Weights of a hostile artifact: nonsense, but no crash, and the same shapes."""
    x = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [-math.inf, math.nan], [1.0, 2.0]])
    layer = linear(2, 3)
    assert layer(x).shape == (4, 3)
    assert torch.equal(layer(x)[3], layer(x[3:])[0])
    assert LayerNorm(2, 1e-6).requires_grad_(requires_grad=False)(x).shape == x.shape
    assert Gelu()(x).shape == x.shape
    scores = whole(x.view(1, 1, 4, 2), KEY, KEYS)
    assert attended(scores, scores, scores, None).shape == (1, 1, 4, 2)


def test_machine_code_is_what_runs_here() -> None:
    """Else the tests above would compare torch with itself."""
    pytest.importorskip("numba")
    assert (integer_loops.split is None) == (integer_loops.weigh is None)
