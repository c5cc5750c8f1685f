"""Transformers that keep the keys and values of what they have seen. Tensors: (n, tokens, width).

Pre-norm blocks (Vaswani et al. 2017, Xiong et al. 2020): x + attention, then x + perceptron. They
compute the same on every machine (`integers`), and are not for training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn

from tec_zarr.models.integers import (
    KEY,
    KEYS,
    VALUE,
    VALUES,
    Digits,
    Gelu,
    LayerNorm,
    Linear,
    attended,
    digits,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

EPSILON = 1e-6
"""Of layer normalisation, as the published models were trained."""


class Pairs(NamedTuple):
    """What a query may attend to: integers, float64 (n or 1, heads, tokens, width / heads)."""

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
        self.query, self.key, self.value, self.out = (Linear(width, width) for _ in range(4))

    def pairs(self, x: Digits, size: Sequence[int]) -> Pairs:
        """Keys and values of rows, which are the tokens of sequences: `size` is (n, tokens)."""
        return Pairs(
            self._split(whole(self.key.of(x), KEY, KEYS), size),
            self._split(whole(self.value.of(x), VALUE, VALUES), size),
        )

    def forward(
        self, x: Digits, size: Sequence[int], pairs: Pairs, seen: Tensor | None = None
    ) -> Tensor:
        """`seen` (queries, keys) says what each token may attend to; None: to all."""
        query = self._split(whole(self.query.of(x), KEY, KEYS), size)
        if len(pairs.keys) < size[0]:  # all share what they see: as if they were one sequence
            together = query.transpose(0, 1).flatten(1, 2)[None]
            found = attended(together, *pairs, None)[0].unflatten(1, size).transpose(0, 1)
        else:
            found = attended(query, *pairs, seen)
        return self.out(found.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor, size: Sequence[int]) -> Tensor:
        parts = x.view(*size, self.heads, x.shape[1] // self.heads)
        return parts.transpose(1, 2).contiguous()


class Block(nn.Module):
    """One attention and one perceptron."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.before = LayerNorm(width, EPSILON)
        self.attention = Attention(width, heads)
        self.between = LayerNorm(width, EPSILON)
        inside = expansion * width
        self.perceptron = nn.Sequential(Linear(width, inside), Gelu(), Linear(inside, width))

    def rows(self, x: Tensor) -> Digits:
        """What attention sees of tokens."""
        return digits(self.before(x).flatten(0, 1))

    def forward(self, x: Tensor, rows: Digits, pairs: Pairs, seen: Tensor | None = None) -> Tensor:
        """`rows` are those of `x`; `pairs`, what they may see."""
        x = x + self.attention(rows, x.shape[:2], pairs, seen)
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
                rows = block.rows(x)
                x = block(x, rows, block.attention.pairs(rows, x.shape[:2]))
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
        rows, size = digits(context.flatten(0, 1)), context.shape[:2]
        return [Memory(across.attention.pairs(rows, size)) for _, across in self.blocks()]

    def forward(self, x: Tensor, memories: list[Memory]) -> Tensor:
        """The next tokens of each sequence, (n, tokens, width); `memories` learn them."""
        for (own, across), memory in zip(self.blocks(), memories, strict=True):
            rows = own.rows(x)
            pairs = own.attention.pairs(rows, x.shape[:2])
            memory.past = pairs if memory.past is None else memory.past.and_then(pairs)
            known, later = memory.past.keys.shape[2], x.shape[1]
            shape = torch.ones((later, known), dtype=torch.bool, device=x.device)
            seen = None if later == 1 else shape.tril(known - later)
            x = own(x, rows, memory.past, seen)
            x = across(x, across.rows(x), memory.context)
        return x
