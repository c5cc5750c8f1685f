"""Transformers that keep the keys and values of what they have seen. Tensors: (n, tokens, width).

Pre-norm blocks (Vaswani et al. 2017, Xiong et al. 2020): x + attention, then x + perceptron. They
compute the same on every machine (`integers`), and are not for training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn

from tec_zarr.models.integers import (
    FOUND,
    SCORED,
    Gelu,
    LayerNorm,
    Linear,
    Scaled,
    attended,
    scaled,
)
from tec_zarr.runtime import side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

EPSILON = 1e-6
"""Of layer normalisation, as the published models were trained."""

WORTH = 4
"""Sequences that are worth a thread."""


class Pairs(NamedTuple):
    """What a query may attend to, of n sequences or 1: (n, heads, tokens, width / heads)."""

    keys: Scaled
    values: Scaled

    def and_then(self, later: Pairs) -> Pairs:
        """These, and behind them others."""
        both = zip(self, later, strict=True)
        return Pairs(*(Scaled(*map(_joined, own, more)) for own, more in both))


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts, 2)


class Attention(nn.Module):
    """Attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (Linear(width, width) for _ in range(4))

    def pairs(self, x: Scaled, size: Sequence[int]) -> Pairs:
        """Keys and values of rows, which are the tokens of sequences: `size` is (n, tokens)."""
        keys, values = self.key.of(x), self.value.of(x)
        both = (self._split(keys, size, SCORED), self._split(values, size, FOUND))
        return Pairs(
            *(Scaled(*(part.transpose(1, 2).contiguous() for part in own)) for own in both)
        )

    def forward(self, x: Scaled, size: Sequence[int], pairs: Pairs, known: int) -> Tensor:
        """The first token of each sequence sees `known` pairs, each later one sees one more."""
        shared = len(pairs.keys.unit) < size[0]  # as if all were one sequence
        query = self._split(self.query.of(x), (1, size[0] * size[1]) if shared else size, SCORED)
        return self.out(attended(query, *pairs, known).reshape(*size, self.out.in_features))

    def _split(self, x: Tensor, size: Sequence[int], largest: int) -> Scaled:
        numbers, unit = scaled(x.view(-1, x.shape[1] // self.heads), largest)
        return Scaled(
            numbers.view(*size, self.heads, numbers.shape[1]), unit.view(*size, self.heads)
        )


class Block(nn.Module):
    """One attention and one perceptron."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.before = LayerNorm(width, EPSILON)
        self.attention = Attention(width, heads)
        self.between = LayerNorm(width, EPSILON)
        inside = expansion * width
        self.perceptron = nn.Sequential(Linear(width, inside), Gelu(), Linear(inside, width))

    def rows(self, x: Tensor) -> Scaled:
        """What attention sees of tokens."""
        return scaled(self.before(x).flatten(0, 1))

    def forward(self, x: Tensor, rows: Scaled, pairs: Pairs, known: int) -> Tensor:
        """`rows` are those of `x`; `pairs`, what they may see, the first one only `known` ones."""
        x = x + self.attention(rows, x.shape[:2], pairs, known)
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
                x = block(x, rows, block.attention.pairs(rows, x.shape[:2]), x.shape[1])
        return x


@dataclass
class Memory:
    """What a layer of a decoder has seen."""

    context: Pairs
    past: Pairs | None = None
    """Of the tokens before the next one."""


class Decoder(Layers):
    """Tokens come one or some at a time: each sees itself and those before, then the context.

    Sequences are dealt out to threads, and each thread takes its own through all layers.
    """

    def memories(self, context: Tensor, count: int) -> list[list[Memory]]:
        """Where `count` sequences begin, given context (count or 1, tokens, width).

        There is a list for each part of the sequences, which has what each layer has seen.
        """
        parts = max(1, min(torch.get_num_threads(), count // WORTH))
        if len(context) == 1:
            shared = self._begin(context)
            return [[replace(memory) for memory in shared] for _ in range(parts)]
        return side_by_side(self._begin, context.tensor_split(parts))

    def forward(self, x: Tensor, memories: list[list[Memory]]) -> Tensor:
        """The next tokens of each sequence, (n, tokens, width); `memories` learn them."""
        parts = list(zip(x.tensor_split(len(memories)), memories, strict=True))
        return torch.cat(side_by_side(lambda part: self._go_on(*part), parts))

    def _begin(self, context: Tensor) -> list[Memory]:
        rows, size = scaled(context.flatten(0, 1)), context.shape[:2]
        return [Memory(across.attention.pairs(rows, size)) for _, across in self.blocks()]

    def _go_on(self, x: Tensor, memories: list[Memory]) -> Tensor:
        for (own, across), memory in zip(self.blocks(), memories, strict=True):
            rows = own.rows(x)
            pairs = own.attention.pairs(rows, x.shape[:2])
            memory.past = pairs if memory.past is None else memory.past.and_then(pairs)
            known = memory.past.keys.unit.shape[2] - x.shape[1] + 1
            x = own(x, rows, memory.past, known)
            x = across(x, across.rows(x), memory.context, memory.context.keys.unit.shape[2])
        return x
