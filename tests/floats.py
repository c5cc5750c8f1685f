"""The transformers of TEC-TT and FlexTEC in float64: what their integers stand for."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from torch.nn import functional

from tec_zarr.models import integers, transformer
from tec_zarr.models.integers import Digits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@contextmanager
def in_float64() -> Iterator[None]:
    """Every step of `models.integers` is its plain form in float64."""

    def digits(x: Tensor) -> Digits:
        return Digits(x.double(), x, x)

    def of(self: integers.Linear, x: Digits) -> Tensor:
        return functional.linear(x.high, self.weight.double(), self.bias.double())

    def forward(self: integers.Linear, x: Tensor) -> Tensor:
        return functional.linear(x.double(), self.weight.double(), self.bias.double())

    def normalised(self: integers.LayerNorm, x: Tensor) -> Tensor:
        affine = (self.weight.double(), self.bias.double())
        return functional.layer_norm(x.double(), self.normalized_shape, *affine, self.eps)

    def gelu(self: integers.Gelu, x: Tensor) -> Tensor:
        del self
        return functional.gelu(x)

    def attended(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen)

    patches: list[tuple[Any, dict[str, Any]]] = [
        (integers.Linear, {"of": of, "forward": forward}),
        (integers.LayerNorm, {"forward": normalised}),
        (integers.Gelu, {"forward": gelu}),
        (transformer, {"digits": digits, "attended": attended, "whole": lambda x, *_: x}),
    ]
    with ExitStack() as stack:
        for place, own in patches:
            stack.enter_context(mock.patch.multiple(place, **own))
        yield
