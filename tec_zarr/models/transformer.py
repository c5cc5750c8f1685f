"""Transformers that keep the keys and values of what they have seen. Tensors: (n, tokens, width).

Pre-norm blocks (Vaswani et al. 2017, Xiong et al. 2020): x + attention, then x + perceptron. They
compute the same on every machine (`integers`), and are not for training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from tec_zarr.models import block_loops
from tec_zarr.models.integers import (
    FOUND,
    SCORED,
    Gelu,
    LayerNorm,
    Linear,
    Scaled,
    attended,
    factor_of,
    scaled,
)
from tec_zarr.runtime import side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from tec_zarr.models.product_loops import Panels

EPSILON = 1e-6
"""Of layer normalisation, as the published models were trained."""

WORTH = 4
"""Sequences that are worth a thread."""


class Pairs(NamedTuple):
    """What a query may attend to, of n sequences or 1: (n, heads, tokens, width / heads).

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
        shared = len(pairs.keys.unit) < size[0]  # as if all were one sequence
        query = self._split(self.query.of(x), (1, size[0] * size[1]) if shared else size, SCORED)
        return self.out(attended(query, *pairs, known).reshape(*size, self.out.in_features))

    def _split(self, x: Tensor, size: Sequence[int], largest: int) -> Scaled:
        width = x.shape[1] // self.heads
        numbers, unit = scaled(x.view(-1, width), largest)
        heads = numbers[:, :width].reshape(*size, self.heads, width)
        return Scaled(heads, unit.view(*size, self.heads))


class Block(nn.Module):
    """One attention and one perceptron."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.before = LayerNorm(width, EPSILON)
        self.attention = Attention(width, heads)
        self.between = LayerNorm(width, EPSILON)
        inside = expansion * width
        self.perceptron = nn.Sequential(Linear(width, inside), Gelu(), Linear(inside, width))

    def forward(self, x: Tensor, pairs: Pairs, known: int, begin: int | None = None) -> Tensor:
        """What becomes of tokens (n, tokens, width): the first of each sequence sees `known` pairs.

        Each later one sees one more. Where `begin` is given, these tokens are among the pairs, from
        there on, and are set here.
        """
        there = pairs.keys.unit.shape[2] if begin is None else begin + x.shape[1]
        if block_loops.advance is not None and x.device.type == "cpu":
            seen = pairs.arrays()
            factor = np.float32(factor_of(seen.keys.shape[3]))
            x = x.clone(memory_format=torch.contiguous_format)
            start = -1 if begin is None else begin
            block_loops.advance(
                x.numpy(), self.weights, seen, start, there, known, factor, np.float32(EPSILON)
            )
            return x
        rows, size = scaled(self.before(x).flatten(0, 1)), x.shape[:2]
        if begin is not None:
            self.attention.keep(rows, size, pairs, begin)
        x = x + self.attention(rows, size, pairs.first(there), known)
        return x + self.perceptron(self.between(x))

    def remember(self, x: Scaled, size: Sequence[int]) -> Pairs:
        """Keys and values of rows of a context, whose `size` is (n, tokens)."""
        pairs = self.attention.room(*size)
        if block_loops.remember is not None and x.unit.device.type == "cpu":
            block_loops.remember(*(part.numpy() for part in x), self.weights, pairs.arrays())
        else:
            self.attention.keep(x, size, pairs, 0)
        return pairs

    @cached_property
    def weights(self) -> block_loops.Weights:
        """As loops take them."""
        before, between = (
            block_loops.Normal(*(part.detach().numpy() for part in (norm.weight, norm.bias)))
            for norm in (self.before, self.between)
        )
        own = self.attention
        layers = own.query, own.key, own.value, own.out, self.perceptron[0], self.perceptron[2]
        query, key, value, out, inside, outside = (
            cast("Panels", layer.integers) for layer in layers
        )
        return block_loops.Weights(before, query, key, value, out, between, inside, outside)


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
                x = block(x, block.attention.room(*x.shape[:2]), x.shape[1], 0)
        return x


@dataclass
class Memory:
    """What a layer of a decoder has seen."""

    context: Pairs
    past: Pairs
    count: int = 0
    """Of tokens in the past."""

    def copy(self) -> Memory:
        """One to go on with while this one stays."""
        return replace(self, past=self.past.copy())


class Decoder(Layers):
    """Tokens come one or some at a time: each sees itself and those before, then the context.

    Sequences are dealt out to threads, and each thread takes its own through all layers.
    """

    def memories(self, context: Tensor, count: int, tokens: int) -> list[list[Memory]]:
        """Where `count` sequences of `tokens` begin, given context (count or 1, tokens, width).

        There is a list for each part of the sequences, which has what each layer has seen.
        """
        parts = max(1, min(torch.get_num_threads(), count // WORTH))
        counts = [len(part) for part in torch.arange(count).tensor_split(parts)]
        contexts = context.tensor_split(parts) if len(context) > 1 else [context]
        pairs = side_by_side(self._seen, contexts)
        pairs = pairs if len(pairs) == parts else pairs * parts
        return [
            [
                Memory(seen, own.attention.room(number, tokens))
                for seen, (own, _) in zip(part, self.blocks(), strict=True)
            ]
            for part, number in zip(pairs, counts, strict=True)
        ]

    def forward(self, x: Tensor, memories: list[list[Memory]]) -> Tensor:
        """The next tokens of each sequence, (n, tokens, width); `memories` learn them."""
        parts = list(zip(x.tensor_split(len(memories)), memories, strict=True))
        return torch.cat(side_by_side(lambda part: self._go_on(*part), parts))

    def _seen(self, context: Tensor) -> list[Pairs]:
        """What each layer sees of a context."""
        rows, size = scaled(context.flatten(0, 1)), context.shape[:2]
        return [across.remember(rows, size) for _, across in self.blocks()]

    def _go_on(self, x: Tensor, memories: list[Memory]) -> Tensor:
        for (own, across), memory in zip(self.blocks(), memories, strict=True):
            x = own(x, memory.past, memory.count + 1, memory.count)
            memory.count += x.shape[1]
            x = across(x, memory.context, memory.context.keys.unit.shape[2])
        return x
