"""Attention to a context in machine code; `attention.Across` does the same by torch, bit by bit.

Queries are carried to the context, head by head, and what they find there becomes values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.compiled import compiled
from tec_zarr.models import attention_loops, integer_loops, product_loops
from tec_zarr.models.integers import ACTIVE, RANGE
from tec_zarr.models.product_loops import Panels
from tec_zarr.models.tile_here import COLUMNS, GROUP, ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

split: Any = integer_loops.split
multiply: Any = product_loops.multiply
turn, join, weigh = attention_loops.turn, attention_loops.join, attention_loops.weigh
pack_few, multiply_few = attention_loops.pack_few, attention_loops.multiply_few

LARGEST, LEAST, MOST = map(np.float32, (ACTIVE, *RANGE))

AT_HAND = 32
"""Rows that go together: what their heads carry is as large as that many rows for each head."""


class Context(NamedTuple):
    """Of n sequences or 1, as heads look at it."""

    keys: Numbers
    """Tokens are columns of panels, int32 of pairs of features, (n, panels, pairs, columns)."""

    values: Numbers
    """Features are columns of panels, int32 of pairs of tokens, (n, panels, pairs, columns)."""

    unit: Numbers
    """Of each token, float32, (n, tokens)."""


class AcrossWeights(NamedTuple):
    """Of an attention to a context; the last two have an axis of heads in front."""

    query: Panels
    out: Panels
    carry: Panels
    tell: Panels


def _context(numbers: Numbers, unit: Numbers) -> Context:
    """That of integers (n, tokens, width), int16, and their units (n, tokens)."""
    count, there, width = numbers.shape
    keys = np.zeros((count, -(-there // COLUMNS), width // 2, COLUMNS), np.int32)
    pairs = -(-there // GROUP) * GROUP // 2
    values = np.zeros((count, -(-width // COLUMNS), pairs, COLUMNS), np.int32)
    for i in range(count):
        turn(numbers[i].view(np.int32), keys[i])
        join(numbers[i], values[i])
    return Context(keys, values, unit)


def _attend_across(
    asked: Numbers, weights: AcrossWeights, seen: Context, most: np.float32, factor: np.float32
) -> None:
    """What rows (n * tokens, width) ask, float32, becomes what they find of values."""
    each = len(asked) // len(seen.unit)
    for first in range(0, len(asked), AT_HAND):
        own = asked[first : first + AT_HAND]
        numbers, unit = carried(own, weights.carry, most)
        found, found_unit = look(
            numbers, unit, len(weights.carry.unit), seen, (first, each), factor
        )
        hear(found, found_unit, weights.tell, own)


def _carried(asked: Numbers, carry: Panels, most: np.float32) -> tuple[Numbers, Numbers]:
    """The queries of each head, carried: integers (heads * rows, width) and their units."""
    (rows, width), heads = asked.shape, len(carry.unit)
    size = width // heads
    numbers = np.zeros((rows * heads, -(-size // GROUP) * GROUP), np.int16)
    unit = np.empty(rows * heads, np.float32)
    split(asked.reshape((rows * heads, size)), numbers, unit, LARGEST, LEAST, MOST)
    own, own_unit = np.empty((rows, numbers.shape[1]), np.int16), np.empty(rows, np.float32)
    far = np.empty((heads * rows, width), np.float32)
    for head in range(heads):
        for row in range(rows):
            own_unit[row] = unit[row * heads + head]
            own[row] = numbers[row * heads + head]
        multiply(own, own_unit, of_head(carry, head), far[head * rows : (head + 1) * rows])
    found, found_unit = np.empty(far.shape, np.int16), np.empty(len(far), np.float32)
    split(far, found, found_unit, most, LEAST, MOST)
    return found, found_unit


def _look_at(
    asked: Numbers, asked_unit: Numbers, heads: int, seen: Context, place: tuple[int, int],
    factor: np.float32,
) -> tuple[Numbers, Numbers]:  # fmt: skip
    """What carried queries find: integers (heads * rows, width) and their units.

    `place` is the number of the first row, and how many rows look at each sequence.
    """
    width, there, rows = asked.shape[1], seen.unit.shape[1], len(asked) // heads
    told, told_unit = np.empty(asked.shape, np.int16), np.empty(len(asked), np.float32)
    pairs, columns = seen.values.shape[2], seen.values.shape[1] * COLUMNS
    packed = np.empty(ROWS * max(width, 2 * pairs), np.int16)
    scores = np.empty((ROWS, seen.keys.shape[1] * COLUMNS), np.float32)
    found = np.empty(ROWS * columns, np.float32)
    weights, share = np.zeros((ROWS, 2 * pairs), np.int16), np.empty(ROWS, np.float32)
    ones = np.ones(max(ROWS, columns), np.float32)
    units = np.ones(scores.shape[1], np.float32)
    for row in range(rows):
        i = (place[0] + row) // place[1]
        units[:there] = seen.unit[i]
        for head in range(0, heads, ROWS):
            left, first = min(ROWS, heads - head), head * rows + row
            address = asked.ctypes.data + 2 * width * first, 2 * width * rows, left - 1
            pack_few(address, packed, width // GROUP)
            multiply_few(packed, left, seen.keys[i], ones, units, scores)
            for k in range(left):
                scale = asked_unit[first + k * rows] * factor
                share[k] = weigh(scores[k, :there], seen.unit[i], scale, weights[k])
            address = weights.ctypes.data, 4 * pairs, left - 1
            pack_few(address, packed, 2 * pairs // GROUP)
            multiply_few(packed, left, seen.values[i], share, ones, found.reshape((ROWS, columns)))
            for k in range(left):
                own, at = found[k * columns : k * columns + width], first + k * rows
                split(
                    own.reshape((1, width)), told[at : at + 1], told_unit[at : at + 1],
                    LARGEST, LEAST, MOST,
                )  # fmt: skip
    return told, told_unit


def _hear_of(found: Numbers, unit: Numbers, tell: Panels, out: Numbers) -> None:
    """Rows become the values of what their heads found."""
    rows, heads = len(out), len(tell.unit)
    size = out.shape[1] // heads
    room = np.empty((rows, size), np.float32)
    for head in range(heads):
        begin, end = head * rows, (head + 1) * rows
        multiply(found[begin:end], unit[begin:end], of_head(tell, head), room)
        out[:, head * size : (head + 1) * size] = room


def _of_head(panels: Panels, head: int) -> Panels:
    return Panels(panels.numbers[head], panels.mixed[head], panels.unit[head], panels.bias[head])


of_head, carried = compiled(_of_head) or _of_head, compiled(_carried) or _carried
look, hear = compiled(_look_at) or _look_at, compiled(_hear_of) or _hear_of
context, attend_across = compiled(_context), compiled(_attend_across)
