"""Attention with several heads: to tokens of the same sequence, or to a context.

Both compute the same on every machine (`integers`), and are not for training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from tec_zarr.models import across_loops, block_loops
from tec_zarr.models.integers import (
    FOUND,
    SCORED,
    Linear,
    Product,
    Scaled,
    attended,
    carried,
    factor_of,
    scaled,
    weighed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Pairs(NamedTuple):
    """What a query may attend to, of n sequences: (n, heads, tokens, width / heads).

    There may be room for more tokens behind those that are there.
    """

    keys: Scaled
    values: Scaled

    def first(self, there: int) -> Pairs:
        """Those of the first tokens."""
        return Pairs(*(Scaled(*(part[:, :, :there] for part in own)) for own in self))

    def arrays(self) -> block_loops.Seen:
        """As loops take them."""
        return block_loops.Seen(*(part.numpy() for own in self for part in own))

    def copy(self) -> Pairs:
        """The same in a place of their own."""
        return Pairs(*(Scaled(*(part.clone() for part in own)) for own in self))


class Attention(nn.Module):
    """Attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (Linear(width, width) for _ in range(4))

    def room(self, count: int, tokens: int) -> Pairs:
        """For so many sequences of tokens."""
        size, device = (count, self.heads, tokens), self.out.weight.device
        whole, width = torch.int16, self.out.in_features // self.heads
        return Pairs(
            *(
                Scaled(
                    torch.empty((*size, width), dtype=whole, device=device),
                    torch.empty(size, device=device),
                )
                for _ in range(2)
            )
        )

    def keep(self, x: Scaled, size: Sequence[int], pairs: Pairs, begin: int) -> None:
        """Set keys and values of rows, from token `begin` on: `size` is (n, tokens)."""
        end = begin + size[1]
        for layer, largest, own in zip((self.key, self.value), (SCORED, FOUND), pairs, strict=True):
            for part, more in zip(own, self._split(layer.of(x), size, largest), strict=True):
                part[:, :, begin:end] = more.transpose(1, 2)

    def forward(self, x: Scaled, size: Sequence[int], pairs: Pairs, known: int) -> Tensor:
        """The first token of each sequence sees `known` pairs, each later one sees one more."""
        query = self._split(self.query.of(x), size, SCORED)
        return self.out(attended(query, *pairs, known).reshape(*size, self.out.in_features))

    def _split(self, x: Tensor, size: Sequence[int], largest: int) -> Scaled:
        width = x.shape[1] // self.heads
        numbers, unit = scaled(x.view(-1, width), largest)
        heads = numbers[:, :width].reshape(*size, self.heads, width)
        return Scaled(heads, unit.view(*size, self.heads))


class Context(NamedTuple):
    """What tokens of several sequences, or of all, look at: panels are None without loops."""

    rows: Scaled
    """(n or 1, tokens, width), and their units."""

    panels: across_loops.Context | None

    @classmethod
    def of(cls, x: Tensor) -> Context:
        """That of rows (n or 1, tokens, width) of float32."""
        numbers, unit = scaled(x.flatten(0, 1))
        rows = Scaled(numbers.unflatten(0, x.shape[:2]), unit.view(x.shape[:2]))
        if across_loops.context is None or x.device.type != "cpu":
            return cls(rows, None)
        return cls(rows, across_loops.context(*(part.numpy() for part in rows)))


class Across(nn.Module):
    """Attention to a context, of which keys and values are never made.

    With keys K c of a context c, q (K c) = (K^T q) c: each head carries its query to the context.
    Biases of keys change all scores of a query alike, and so nothing. What a head finds of values
    V c + b is V of what it finds of c, plus b, as all its weights together are 1.
    """

    carry: list[Product]
    tell: list[Product]

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = Linear(width, width), Linear(width, width)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)

    def prepare(self) -> None:
        """Make integers of the weights of keys and values, head by head."""
        keys, values = (own.weight.detach().chunk(self.heads) for own in (self.key, self.value))
        none = torch.zeros_like(self.key.bias)
        self.carry = [Product(key.T.contiguous(), none) for key in keys]
        biases = self.value.bias.detach().chunk(self.heads)
        self.tell = [Product(*own) for own in zip(values, biases, strict=True)]

    def forward(self, x: Scaled, size: Sequence[int], context: Scaled) -> Tensor:
        """What tokens find: rows of `size` (n, tokens) look at (n or 1, tokens, width)."""
        width, several = self.out.in_features, len(context.unit)
        size = (several, size[0] * size[1] // max(1, several))
        asked = scaled(self.query.of(x).view(-1, width // self.heads))
        heads = (part.unflatten(0, (-1, self.heads)).unbind(1) for part in asked)
        rows = [own.of(Scaled(*head)) for own, *head in zip(self.carry, *heads, strict=True)]
        numbers, unit = scaled(torch.cat(rows), carried(width))
        shape = (self.heads, *size, width)
        seen = context.numbers[:, None, :, :width].double()
        scores = numbers[:, :width].view(shape).transpose(0, 1).double() @ seen.mT
        scores = scores.float() * context.unit[:, None, None]
        scale = unit.view(shape[:-1]).transpose(0, 1) * factor_of(width // self.heads)
        all_seen = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device)
        weights, share = weighed(scores, context.unit[:, None], scale, all_seen)
        found = scaled(((weights @ seen).float() * share).transpose(0, 1).reshape(-1, width))
        heads = (part.chunk(self.heads) for part in found)
        rows = [own.of(Scaled(*head)) for own, *head in zip(self.tell, *heads, strict=True)]
        return self.out(torch.cat(rows, 1))
