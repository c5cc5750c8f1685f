"""The transformers of TEC-TT and FlexTEC in float64: what their integers stand for."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.nn import functional

from tec_zarr.models import across_loops, attention, block_loops, integers, transformer
from tec_zarr.models.integers import Scaled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def room(self: attention.Attention, count: int, tokens: int) -> attention.Pairs:
    """For keys and values of float64, without units."""
    size, width = (count, self.heads, tokens), self.out.in_features // self.heads
    keys, values = (
        Scaled(torch.empty((*size, width), dtype=torch.float64), torch.empty(size))
        for _ in range(2)
    )
    return attention.Pairs(keys, values)


def across(self: attention.Across, x: Scaled, size: tuple[int, int], context: Scaled) -> Tensor:
    """Attention to a context, of which keys and values are made."""

    def heads(rows: Tensor) -> Tensor:
        rows = rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return rows.expand(size[0], *rows.shape[1:])

    there = context.numbers.double()
    told = (
        functional.linear(there, own.weight.double(), own.bias.double())
        for own in (self.key, self.value)
    )
    asked = self.query.of(x).view(*size, -1)
    keys, values = map(heads, told)
    found = functional.scaled_dot_product_attention(heads(asked), keys, values)
    return self.out(found.transpose(1, 2).flatten(2))


@contextmanager
def in_float64() -> Iterator[None]:
    """Every step of `models.integers` is its plain form in float64."""

    def scaled(x: Tensor, *_: int) -> Scaled:
        return Scaled(x.double(), x[:, 0])

    def of(self: integers.Linear, x: Scaled) -> Tensor:
        return functional.linear(x.numbers, self.weight.double(), self.bias.double())

    def forward(self: integers.Linear, x: Tensor) -> Tensor:
        return functional.linear(x.double(), self.weight.double(), self.bias.double())

    def normalised(self: integers.LayerNorm, x: Tensor) -> Tensor:
        affine = (self.weight.double(), self.bias.double())
        return functional.layer_norm(x.double(), self.normalized_shape, *affine, self.eps)

    def gelu(self: integers.Gelu, x: Tensor) -> Tensor:
        del self
        return functional.gelu(x)

    def attended(query: Scaled, keys: Scaled, values: Scaled, known: int) -> Tensor:
        asked = query.numbers.transpose(1, 2)
        places = torch.arange(keys.numbers.shape[2])
        seen = places < known + torch.arange(asked.shape[2])[:, None]
        found = functional.scaled_dot_product_attention(
            asked, keys.numbers, values.numbers, attn_mask=seen
        )
        return found.transpose(1, 2)

    patches: list[tuple[Any, dict[str, Any]]] = [
        (integers.Linear, {"of": of, "forward": forward}),
        (integers.LayerNorm, {"forward": normalised}),
        (integers.Gelu, {"forward": gelu}),
        (block_loops, {"advance": None}),
        (across_loops, {"context": None}),
        (attention.Attention, {"room": room}),
        (attention.Across, {"forward": across}),
        (attention, {"scaled": scaled, "attended": attended}),
        (transformer, {"scaled": scaled}),
    ]
    with ExitStack() as stack:
        for place, own in patches:
            stack.enter_context(mock.patch.multiple(place, **own))
        yield
