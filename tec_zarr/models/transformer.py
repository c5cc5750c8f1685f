"""Transformers that keep the keys and values of what they have seen. Tensors: (n, tokens, width).

Pre-norm blocks (Vaswani et al. 2017, Xiong et al. 2020): x + attention, then x + perceptron. They
compute the same on every machine (`integers`), and are not for training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from tec_zarr.models import across_loops, block_loops
from tec_zarr.models.attention import Across, Attention, Context, Pairs
from tec_zarr.models.integers import Gelu, LayerNorm, Linear, carried, factor_of, scaled
from tec_zarr.models.product_loops import Panels
from tec_zarr.runtime import side_by_side

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6
"""Of layer normalisation, as the published models were trained."""

WORTH = 4
"""Sequences that are worth a thread."""


class Perceptive(nn.Module):
    """The half of a block that all blocks share: a perceptron behind an attention."""

    def __init__(self, attention: nn.Module, width: int, expansion: int) -> None:
        super().__init__()
        self.before = LayerNorm(width, EPSILON)
        self.attention = attention
        self.between = LayerNorm(width, EPSILON)
        inside = expansion * width
        self.perceptron = nn.Sequential(Linear(width, inside), Gelu(), Linear(inside, width))

    @cached_property
    def around(self) -> block_loops.Around:
        """Weights that are not of the attention, as loops take them."""
        before, between = (
            block_loops.Normal(*(part.detach().numpy() for part in (norm.weight, norm.bias)))
            for norm in (self.before, self.between)
        )
        return block_loops.Around(before, between, *panels(self.perceptron[0], self.perceptron[2]))


def panels(*layers: nn.Module) -> list[Panels]:
    """Weights as loops take them."""
    return [cast("Panels", cast("Linear", layer).product.integers) for layer in layers]


class Block(Perceptive):
    """Tokens look at each other, or at those before them."""

    attention: Attention

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__(Attention(width, heads), width, expansion)

    def forward(self, x: Tensor, pairs: Pairs, known: int, begin: int) -> Tensor:
        """What becomes of tokens (n, tokens, width): the first of each sequence sees `known` pairs.

        Each later one sees one more. These tokens are set here, among the pairs, from `begin` on.
        """
        there = begin + x.shape[1]
        if block_loops.advance is not None and x.device.type == "cpu":
            seen = pairs.arrays()
            factor = np.float32(factor_of(seen.keys.shape[3]))
            x = x.clone(memory_format=torch.contiguous_format)
            places = begin, there, known
            block_loops.advance(
                x.numpy(), self.around, self.weights, seen, places, factor, np.float32(EPSILON)
            )
            return x
        rows, size = scaled(self.before(x).flatten(0, 1)), x.shape[:2]
        self.attention.keep(rows, size, pairs, begin)
        x = x + self.attention(rows, size, pairs.first(there), known)
        return x + self.perceptron(self.between(x))

    @cached_property
    def weights(self) -> block_loops.Weights:
        """Of the attention, as loops take them."""
        own = self.attention
        return block_loops.Weights(*panels(own.query, own.key, own.value, own.out))


class AcrossBlock(Perceptive):
    """Tokens look at a context."""

    attention: Across

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__(Across(width, heads), width, expansion)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """What becomes of tokens (n, tokens, width)."""
        if block_loops.advance_across is not None and context.panels is not None:
            x = x.clone(memory_format=torch.contiguous_format)
            width, heads = x.shape[2], self.attention.heads
            numbers = np.float32(factor_of(width // heads)), np.float32(EPSILON)
            most = np.float32(carried(width))
            block_loops.advance_across(
                x.numpy(), self.around, self.weights, context.panels, most, *numbers
            )
            return x
        rows, size = scaled(self.before(x).flatten(0, 1)), x.shape[:2]
        x = x + self.attention(rows, size, context.rows).view(x.shape)
        return x + self.perceptron(self.between(x))

    @cached_property
    def weights(self) -> across_loops.AcrossWeights:
        """Of the attention, as loops take them: those of all heads lie behind each other."""
        own = self.attention
        heads = (
            Panels(
                *map(np.stack, zip(*(cast("Panels", head.integers) for head in part), strict=True))
            )
            for part in (own.carry, own.tell)
        )
        return across_loops.AcrossWeights(*panels(own.query, own.out), *heads)


class Encoder(nn.Module):
    """All tokens see each other, in both blocks of a layer."""

    def __init__(self, number: int, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(Block(width, heads, expansion) for _ in range(2)) for _ in range(number)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for block in cast("list[Block]", layer):
                x = block(x, block.attention.room(*x.shape[:2]), x.shape[1], 0)
        return x


@dataclass
class Memory:
    """What a decoder has seen of some sequences."""

    context: Context
    past: list[Pairs]
    """Of each layer."""

    count: int = 0
    """Of tokens in the past."""

    def copy(self) -> Memory:
        """One to go on with while this one stays."""
        return replace(self, past=[own.copy() for own in self.past])


class Decoder(nn.Module):
    """Tokens come one or some at a time: each sees itself and those before, then the context.

    Sequences are dealt out to threads, and each thread takes its own through all layers.
    """

    def __init__(self, number: int, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList((Block(width, heads, expansion), AcrossBlock(width, heads, expansion)))
            for _ in range(number)
        )

    def memories(self, context: Tensor, count: int, tokens: int) -> list[Memory]:
        """Where `count` sequences of `tokens` begin, given context (count or 1, tokens, width).

        There is one for each part of the sequences.
        """
        parts = max(1, min(torch.get_num_threads(), count // WORTH))
        counts = [len(part) for part in torch.arange(count).tensor_split(parts)]
        contexts = context.tensor_split(parts) if len(context) > 1 else [context]
        seen = side_by_side(Context.of, contexts)
        seen = seen if len(seen) == parts else seen * parts
        return [
            Memory(own, [block.attention.room(number, tokens) for block, _ in self.blocks()])
            for own, number in zip(seen, counts, strict=True)
        ]

    def forward(self, x: Tensor, memories: list[Memory]) -> Tensor:
        """The next tokens of each sequence, (n, tokens, width); `memories` learn them."""
        parts = list(zip(x.tensor_split(len(memories)), memories, strict=True))
        return torch.cat(side_by_side(lambda part: self._go_on(*part), parts))

    def blocks(self) -> list[tuple[Block, AcrossBlock]]:
        """The two blocks of each layer."""
        return [cast("tuple[Block, AcrossBlock]", tuple(layer)) for layer in self.layers]  # type: ignore[arg-type]

    def _go_on(self, x: Tensor, memory: Memory) -> Tensor:
        for (own, across), past in zip(self.blocks(), memory.past, strict=True):
            x = own(x, past, memory.count + 1, memory.count)
            x = across(x, memory.context)
        memory.count += x.shape[1]
        return x
