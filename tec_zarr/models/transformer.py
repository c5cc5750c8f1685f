"""Transformers that keep the keys and values of what they have seen. Tensors: (n, tokens, width).

Pre-norm blocks (Vaswani et al. 2017, Xiong et al. 2020): x + attention, then x + perceptron.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6
"""Of layer normalisation, as the published models were trained."""


class Pairs(NamedTuple):
    """What a query may attend to; each is (n or 1, heads, tokens, width / heads)."""

    keys: Tensor
    values: Tensor

    def and_then(self, later: Pairs) -> Pairs:
        """These, and behind them others."""
        return Pairs(*(torch.cat(both, 2) for both in zip(self, later, strict=True)))


class Attention(nn.Module):
    """Attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def pairs(self, x: Tensor) -> Pairs:
        """Keys and values of tokens."""
        return Pairs(self._split(self.key(x)), self._split(self.value(x)))

    def forward(self, x: Tensor, pairs: Pairs, seen: Tensor | None = None) -> Tensor:
        """`seen` (queries, keys) says what each token may attend to; None: to all."""
        query = self._split(self.query(x))
        if len(pairs.keys) < len(x):  # all share what they see: as if they were one sequence
            together = query.transpose(0, 1).flatten(1, 2)[None]
            found = functional.scaled_dot_product_attention(together, *pairs)
            found = found[0].unflatten(1, (len(x), -1)).transpose(0, 1)
        else:
            found = functional.scaled_dot_product_attention(query, *pairs, attn_mask=seen)
        return self.out(found.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """One attention and one perceptron."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width, EPSILON)
        self.attention = Attention(width, heads)
        self.between = nn.LayerNorm(width, EPSILON)
        inside = expansion * width
        self.perceptron = nn.Sequential(
            nn.Linear(width, inside), nn.GELU(), nn.Linear(inside, width)
        )

    def pairs(self, x: Tensor) -> Pairs:
        """What later tokens may see of these."""
        return self.attention.pairs(self.before(x))

    def forward(self, x: Tensor, pairs: Pairs, seen: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.before(x), pairs, seen)
        return x + self.perceptron(self.between(x))


class Layers(nn.Module):
    """A stack of layers, each of two blocks."""

    def __init__(self, number: int, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(Block(width, heads, expansion) for _ in range(2)) for _ in range(number)
        )

    def blocks(self) -> list[tuple[Block, Block]]:
        """The two blocks of each layer."""
        return [cast("tuple[Block, Block]", tuple(layer)) for layer in self.layers]  # type: ignore[arg-type]


class Encoder(Layers):
    """All tokens see each other, in both blocks of a layer."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.blocks():
            for block in layer:
                x = block(x, block.pairs(x))
        return x


@dataclass
class Memory:
    """What a layer of a decoder has seen."""

    context: Pairs
    past: Pairs | None = None
    """Of the tokens before the next one."""


class Decoder(Layers):
    """Tokens come one or some at a time: each sees itself and those before, then the context."""

    def memories(self, context: Tensor) -> list[Memory]:
        """Where to begin, given context (n or 1, tokens, width)."""
        return [Memory(across.attention.pairs(context)) for _, across in self.blocks()]

    def forward(self, x: Tensor, memories: list[Memory]) -> Tensor:
        """The next tokens of each sequence, (n, tokens, width); `memories` learn them."""
        for (own, across), memory in zip(self.blocks(), memories, strict=True):
            pairs = own.pairs(x)
            memory.past = pairs if memory.past is None else memory.past.and_then(pairs)
            known, later = memory.past.keys.shape[2], x.shape[1]
            shape = torch.ones((later, known), dtype=torch.bool, device=x.device)
            seen = None if later == 1 else shape.tril(known - later)
            x = across(own(x, memory.past, seen), memory.context)
        return x
