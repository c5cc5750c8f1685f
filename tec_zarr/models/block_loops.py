"""A block of a transformer in machine code; `transformer.Block` does the same by torch, bit by bit.

One call has a block's dozen of steps behind it, which a reader takes for a few rows at a time. Rows
go from step to step in small parts where steps are single passes, so that they stay at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.compiled import compiled
from tec_zarr.models import across_loops, attention_loops, integer_loops, product_loops
from tec_zarr.models.across_loops import AcrossWeights, Context  # noqa: TC001
from tec_zarr.models.integers import ACTIVE, FOUND, RANGE, SCORED, TAIL
from tec_zarr.models.product_loops import Panels  # noqa: TC001

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

attend: Any = attention_loops.attend
attend_across: Any = across_loops.attend_across
normalise: Any = integer_loops.normalise
split: Any = integer_loops.split
bend: Any = integer_loops.bend
multiply: Any = product_loops.multiply

AT_HAND = 16
"""Rows that go through single passes together."""

LIMITS = tuple(map(np.float32, (ACTIVE, SCORED, FOUND, *RANGE)))


class Normal(NamedTuple):
    """Of a layer normalisation, float32 (width,)."""

    weight: Numbers
    bias: Numbers


class Around(NamedTuple):
    """Weights of a block that are not of its attention."""

    before: Normal
    between: Normal
    inside: Panels
    outside: Panels


class Weights(NamedTuple):
    """Of an attention."""

    query: Panels
    key: Panels
    value: Panels
    out: Panels


class Seen(NamedTuple):
    """Keys and values, int16 (n, heads, tokens, d), and their units, float32."""

    keys: Numbers
    key_unit: Numbers
    values: Numbers
    value_unit: Numbers


def _advance(
    x: Numbers, around: Around, weights: Weights, seen: Seen, places: tuple[int, int, int],
    factor: np.float32, epsilon: np.float32,
) -> None:  # fmt: skip
    """Tokens (n, tokens, width), float32, become what the block makes of them.

    `places`: they set their keys and values among those that are seen, from there on; so many are
    there then; so many the first token sees, each later one one more.
    """
    rows = x.reshape((-1, x.shape[2]))
    room, numbers = np.empty(rows.shape, np.float32), np.empty(rows.shape, np.int16)
    unit = np.empty(len(rows), np.float32)
    _normal(rows, around.before, epsilon, room, numbers, unit)
    begin, there, known = places
    asked, asked_unit = _room(seen, len(rows))
    _learn(weights, seen, begin, room, numbers, unit, asked, asked_unit)
    multiply(numbers, unit, weights.query, room)
    _part(room, asked, asked_unit, LIMITS[1])
    attend(
        asked, asked_unit, seen.keys, seen.key_unit, seen.values, seen.value_unit, there, known,
        factor, room.reshape(asked.shape),
    )  # fmt: skip
    _go_on(rows, around, weights.out, epsilon, room, numbers, unit)


def _advance_across(
    x: Numbers, around: Around, weights: AcrossWeights, seen: Context, most: np.float32,
    factor: np.float32, epsilon: np.float32,
) -> None:  # fmt: skip
    """The same of tokens that look at a context."""
    rows = x.reshape((-1, x.shape[2]))
    room, numbers = np.empty(rows.shape, np.float32), np.empty(rows.shape, np.int16)
    unit = np.empty(len(rows), np.float32)
    _normal(rows, around.before, epsilon, room, numbers, unit)
    multiply(numbers, unit, weights.query, room)
    attend_across(room, weights, seen, most, factor)
    _go_on(rows, around, weights.out, epsilon, room, numbers, unit)


def _go_on_with(
    rows: Numbers, around: Around, out: Panels, epsilon: np.float32,
    room: Numbers, numbers: Numbers, unit: Numbers,
) -> None:  # fmt: skip
    """Rows take what their heads found, which is in `room`, and go through the perceptron."""
    _split(room, numbers, unit, LIMITS[0])
    multiply(numbers, unit, out, room)
    _add(rows, room)
    _normal(rows, around.between, epsilon, room, numbers, unit)
    _think(around.inside, around.outside, room, numbers, unit)
    _add(rows, room)


def _learn_from(
    weights: Weights, seen: Seen, begin: int, room: Numbers, numbers: Numbers, unit: Numbers,
    asked: Numbers, asked_unit: Numbers,
) -> None:  # fmt: skip
    """Set keys and values of rows of integers, from token `begin` on."""
    multiply(numbers, unit, weights.key, room)
    _part(room, asked, asked_unit, LIMITS[1])
    _keep(asked, asked_unit, seen.keys, seen.key_unit, begin)
    multiply(numbers, unit, weights.value, room)
    _part(room, asked, asked_unit, LIMITS[2])
    _keep(asked, asked_unit, seen.values, seen.value_unit, begin)


def _room_for(seen: Seen, rows: int) -> tuple[Numbers, Numbers]:
    """For integers of the heads of rows, and for their units."""
    count, heads, _, size = seen.keys.shape
    numbers = np.empty((count, rows // count, heads, size), np.int16)
    return numbers, np.empty((count, rows // count, heads), np.float32)


def _think_of(
    inside: Panels, outside: Panels, room: Numbers, numbers: Numbers, unit: Numbers
) -> None:
    """What a perceptron makes of rows of integers goes to `room`."""
    rows = len(numbers)
    wide = np.empty((rows, 2 * outside.numbers.shape[1]), np.float32)
    wide_numbers = np.empty(wide.shape, np.int16)
    bent = np.empty((AT_HAND, wide.shape[1]), np.float32)  # in place, it would go one by one
    multiply(numbers, unit, inside, wide)
    for first in range(0, rows, AT_HAND):
        last = min(first + AT_HAND, rows)
        own = bent[: last - first]
        bend(wide[first:last], own, TAIL)
        _split(own, wide_numbers[first:last], unit[first:last], LIMITS[0])
    multiply(wide_numbers, unit, outside, room)


def _part_of(room: Numbers, heads: Numbers, unit: Numbers, largest: np.float32) -> None:
    """Integers of the heads of rows."""
    size = heads.shape[3]
    _split(room.reshape((-1, size)), heads.reshape((-1, size)), unit.reshape(-1), largest)


def _normal_of(
    x: Numbers, normal: Normal, epsilon: np.float32, room: Numbers, numbers: Numbers, unit: Numbers
) -> None:
    """Integers of normalised rows."""
    for first in range(0, len(x), AT_HAND):
        last = first + AT_HAND
        own = room[first:last]
        normalise(x[first:last], normal.weight, normal.bias, own, epsilon)
        _split(own, numbers[first:last], unit[first:last], LIMITS[0])


def _split_to(x: Numbers, numbers: Numbers, unit: Numbers, largest: np.float32) -> None:
    """Integers of rows."""
    split(x, numbers, unit, largest, LIMITS[3], LIMITS[4])


def _keep_in(own: Numbers, own_unit: Numbers, seen: Numbers, seen_unit: Numbers, at: int) -> None:
    """Heads of rows, (n, tokens, heads, d), go where they are seen, from token `at` on."""
    count, tokens, heads = own_unit.shape
    for i in range(count):
        for token in range(tokens):
            for head in range(heads):
                seen_unit[i, head, at + token] = own_unit[i, token, head]
                for k in range(own.shape[3]):
                    seen[i, head, at + token, k] = own[i, token, head, k]


def _add_to(x: Numbers, more: Numbers) -> None:
    for row in range(len(x)):
        for k in range(x.shape[1]):
            x[row, k] += more[row, k]


_normal, _split = compiled(_normal_of) or _normal_of, compiled(_split_to) or _split_to
_part, _keep = compiled(_part_of) or _part_of, compiled(_keep_in) or _keep_in
_room, _learn = compiled(_room_for) or _room_for, compiled(_learn_from) or _learn_from
_think, _add = compiled(_think_of) or _think_of, compiled(_add_to) or _add_to
_go_on = compiled(_go_on_with) or _go_on_with
advance, advance_across = compiled(_advance), compiled(_advance_across)
