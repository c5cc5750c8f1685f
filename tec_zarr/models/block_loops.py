"""A block of a transformer in machine code; `transformer.Block` does the same by torch, bit by bit.

One call has a block's dozen of steps behind it, which a reader takes for a few rows at a time. Rows
go from step to step in small parts where steps are single passes, so that they stay at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.compiled import compiled
from tec_zarr.models.attention_loops import attend
from tec_zarr.models.integer_loops import bend, normalise, split
from tec_zarr.models.integers import ACTIVE, FOUND, RANGE, SCORED, TAIL
from tec_zarr.models.product_loops import Panels, multiply

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

AT_HAND = 16
"""Rows that go through single passes together."""

LIMITS = tuple(map(np.float32, (ACTIVE, SCORED, FOUND, *RANGE)))


class Normal(NamedTuple):
    """Of a layer normalisation, float32 (width,)."""

    weight: Numbers
    bias: Numbers


class Weights(NamedTuple):
    """Of a block."""

    before: Normal
    query: Panels
    key: Panels
    value: Panels
    out: Panels
    between: Normal
    inside: Panels
    outside: Panels


class Seen(NamedTuple):
    """Keys and values, int16 (n or 1, heads, tokens, d), and their units, float32."""

    keys: Numbers
    key_unit: Numbers
    values: Numbers
    value_unit: Numbers


def _advance(
    x: Numbers, weights: Weights, seen: Seen, begin: int, there: int, known: int,
    factor: np.float32, epsilon: np.float32,
) -> None:  # fmt: skip
    """Tokens (n, tokens, width), float32, become what the block makes of them.

    Where `begin` is not negative they first add their keys and values to those that are seen, from
    there on. There are `there` keys, of which the first token sees `known`, each later one one more.
    """
    count, tokens, width = x.shape
    flat = x.reshape((count * tokens, width))
    rows, (several, heads, _, size) = len(flat), seen.keys.shape
    active, scored, found = LIMITS[:3]
    room, unit = np.empty((rows, width), np.float32), np.empty(rows, np.float32)
    numbers, asked = np.empty((rows, width), np.int16), np.empty((rows * heads, size), np.int16)
    asked_unit = np.empty(rows * heads, np.float32)
    _normal(flat, weights.before, epsilon, room, numbers, unit)
    if begin >= 0:
        _multiply(numbers, unit, weights.key, room)
        _split(room.reshape((-1, size)), asked, asked_unit, scored)
        _keep(asked, asked_unit, seen.keys, seen.key_unit, begin)
        _multiply(numbers, unit, weights.value, room)
        _split(room.reshape((-1, size)), asked, asked_unit, found)
        _keep(asked, asked_unit, seen.values, seen.value_unit, begin)
    _multiply(numbers, unit, weights.query, room)
    _split(room.reshape((-1, size)), asked, asked_unit, scored)
    each = rows // several  # all are one sequence where they see the same
    query, query_unit = (
        asked.reshape((several, each, heads, size)),
        asked_unit.reshape((several, each, heads)),
    )
    attend(
        query, query_unit, seen.keys, seen.key_unit, seen.values, seen.value_unit, there, known,
        factor, room.reshape((several, each, heads, size)), weights.query.numbers.shape[2],
    )  # fmt: skip
    _split(room, numbers, unit, active)
    _multiply(numbers, unit, weights.out, room)
    _add(flat, room)
    _normal(flat, weights.between, epsilon, room, numbers, unit)
    wide = np.empty((rows, 2 * weights.outside.numbers.shape[1]), np.float32)
    wide_numbers = np.empty(wide.shape, np.int16)
    _multiply(numbers, unit, weights.inside, wide)
    bent = np.empty((AT_HAND, wide.shape[1]), np.float32)  # in place, it would go one by one
    for first in range(0, rows, AT_HAND):
        last = min(first + AT_HAND, rows)
        own = bent[: last - first]
        bend(wide[first:last], own, TAIL)
        _split(own, wide_numbers[first:last], unit[first:last], active)
    _multiply(wide_numbers, unit, weights.outside, room)
    _add(flat, room)


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


def _multiply_by(numbers: Numbers, unit: Numbers, panels: Panels, out: Numbers) -> None:
    """Products of rows and panels."""
    multiply(numbers, unit, panels.numbers, panels.unit, panels.bias, out)


def _keep_in(numbers: Numbers, unit: Numbers, seen: Numbers, seen_unit: Numbers, at: int) -> None:
    """Heads of rows, (rows * heads, d), go where they are seen, from token `at` on."""
    count, heads = seen.shape[:2]
    tokens = len(unit) // (count * heads)
    own = numbers.reshape((count, tokens, heads, -1))
    own_unit = unit.reshape((count, tokens, heads))
    for i in range(count):
        for token in range(tokens):
            for head in range(heads):
                seen[i, head, at + token] = own[i, token, head]
                seen_unit[i, head, at + token] = own_unit[i, token, head]


def _add_to(x: Numbers, more: Numbers) -> None:
    for row in range(len(x)):
        for k in range(x.shape[1]):
            x[row, k] += more[row, k]


_normal, _split = compiled(_normal_of) or _normal_of, compiled(_split_to) or _split_to
_multiply, _keep = compiled(_multiply_by) or _multiply_by, compiled(_keep_in) or _keep_in
_add = compiled(_add_to) or _add_to
advance = compiled(_advance)
