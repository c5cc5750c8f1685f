"""Attention in machine code; `integers.attended` does the same by torch, to the last bit.

Numbers of queries are (n, tokens, heads, d), of keys and values (n, heads, tokens, d), int16; units
are alike, without d. There may be room for more tokens behind those that are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tec_zarr.compiled import compiled
from tec_zarr.models import tile_here
from tec_zarr.models.integers import CERTAIN, COUNTED, LEAST, POWER, SHARED
from tec_zarr.models.tile_here import COLUMNS, GROUP, ROWS, SHORT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

pack: Any = tile_here.pack
short_pack: Any = tile_here.short_pack
product_of_few: Any = tile_here.product_of_few
short_product_of_few: Any = tile_here.short_product_of_few


def _attend(
    query: Numbers, query_unit: Numbers, keys: Numbers, key_unit: Numbers,
    values: Numbers, value_unit: Numbers, there: int, known: int, factor: np.float32, out: Numbers,
) -> None:  # fmt: skip
    """Sets what queries find, (n, tokens, heads, d) of float32; the first one sees `known` keys.

    Each query sees one key more than the one before, up to all that are `there`.
    """
    if query.shape[1] == 1:
        _attend_once(query, query_unit, keys, key_unit, values, value_unit, known, factor, out)
    else:  # panels are worth it where many queries see them
        _attend_all(
            query, query_unit, keys, key_unit, values, value_unit, there, known, factor, out
        )


def _attend_by_many(
    query: Numbers, query_unit: Numbers, keys: Numbers, key_unit: Numbers,
    values: Numbers, value_unit: Numbers, there: int, known: int, factor: np.float32, out: Numbers,
) -> None:  # fmt: skip
    """The same of several queries of each sequence."""
    count, tokens, heads, width = query.shape
    wide, seen_wide = -(-width // GROUP) * GROUP, -(-there // GROUP) * GROUP
    query = _filled(query, wide)
    key_panels = np.zeros((-(-there // COLUMNS), wide // 2, COLUMNS), np.int32)
    value_panels = np.zeros((-(-width // COLUMNS), seen_wide // 2, COLUMNS), np.int32)
    packed = np.empty(ROWS * max(wide, seen_wide), np.int16)
    scores = np.empty((ROWS, key_panels.shape[0] * COLUMNS), np.float32)
    found = np.empty((ROWS, value_panels.shape[0] * COLUMNS), np.float32)
    weights, share = np.zeros((ROWS, seen_wide), np.int16), np.empty(ROWS, np.float32)
    ones, units = (
        np.ones(max(ROWS, found.shape[1]), np.float32),
        np.ones(scores.shape[1], np.float32),
    )
    for i in range(count):
        for head in range(heads):
            turn(keys.view(np.int32)[i, head, :there], key_panels)
            join(values[i, head, :there], value_panels)
            units[:there] = key_unit[i, head, :there]
            for first in range(0, tokens, ROWS):
                left = min(ROWS, tokens - first)
                address = query.ctypes.data + 2 * wide * ((i * tokens + first) * heads + head)
                pack_few((address, 2 * wide * heads, left - 1), packed, wide // GROUP)
                multiply_few(packed, left, key_panels, ones, units, scores)
                for row in range(left):
                    seen = min(there, known + first + row)
                    scale = query_unit[i, first + row, head] * factor
                    own = weights[row]
                    share[row] = weigh(scores[row, :seen], value_unit[i, head, :seen], scale, own)
                    own[seen:] = 0
                address = weights.ctypes.data, 2 * seen_wide, left - 1
                pack_few(address, packed, seen_wide // GROUP)
                multiply_few(packed, left, value_panels, share, ones, found)
                out[i, first : first + left, head] = found[:left, :width]


def _attend_by_one(
    query: Numbers, query_unit: Numbers, keys: Numbers, key_unit: Numbers,
    values: Numbers, value_unit: Numbers, known: int, factor: np.float32, out: Numbers,
) -> None:  # fmt: skip
    """The same of one query of each sequence."""
    for i in range(query.shape[0]):
        for head in range(query.shape[2]):
            own_keys, own_values = keys[i, head, :known], values[i, head, :known]
            scale = query_unit[i, 0, head] * factor
            _find(
                query[i, 0, head], scale, own_keys, key_unit[i, head, :known],
                own_values, value_unit[i, head, :known], out[i, 0, head],
            )  # fmt: skip


def _filled_to(query: Numbers, wide: int) -> Numbers:
    """The same of so many features, of which the last are zero."""
    if query.shape[3] == wide:
        return query
    more = np.zeros((*query.shape[:3], wide), np.int16)
    more[:, :, :, : query.shape[3]] = query
    return more


def _pack_few(rows: tuple[int, int, int], packed: Numbers, turns: int) -> None:
    """Pack rows as `multiply_few` takes them, no more than a tile has; see `tile_ends.pack`."""
    if rows[2] < SHORT:
        short_pack(rows, (packed.ctypes.data, turns))
    else:
        pack(rows, (packed.ctypes.data, turns))


def _multiply_by(
    packed: Numbers, rows: int, panels: Numbers, unit: Numbers, units: Numbers, out: Numbers
) -> None:
    """Products of rows and panels, times units of rows and of columns, of which a panel is full."""
    for panel in range(len(panels)):
        begin = 4 * COLUMNS * panel
        own, far = (packed.ctypes.data,), (panels[panel].ctypes.data, 2 * panels.shape[1] // GROUP)
        both = unit.ctypes.data, units.ctypes.data + begin
        to = out.ctypes.data + begin, 4 * out.shape[1], rows - 1
        if rows <= SHORT:
            short_product_of_few(own, far, both, to)
        else:
            product_of_few(own, far, both, to)


def _find_by(
    query: Numbers, scale: np.float32, keys: Numbers, key_units: Numbers, values: Numbers,
    value_units: Numbers, out: Numbers,
) -> None:  # fmt: skip
    """What one query finds in one head."""
    count, width = len(keys), len(query)
    scores, weights = np.empty(count, np.float32), np.empty(count, np.int16)
    for k in range(count):
        own, total = keys[k], np.int32(0)
        for c in range(width):
            total = np.int32(total + np.int32(np.int32(query[c]) * np.int32(own[c])))
        scores[k] = np.float32(total) * key_units[k]
    share, sums = weigh(scores, value_units, scale, weights), np.zeros(width, np.int32)
    for k in range(count):
        weight, own = np.int32(weights[k]), values[k]
        for c in range(width):
            sums[c] = np.int32(sums[c] + np.int32(weight * np.int32(own[c])))
    for c in range(width):
        out[c] = np.float32(sums[c]) * share


def _turn_to(keys: Numbers, panels: Numbers) -> None:
    """Keys (tokens, d / 2) of pairs become the columns of panels."""
    columns = panels.shape[2]
    for k in range(keys.shape[0]):
        panel, column = panels[k // columns], k % columns
        for pair in range(keys.shape[1]):
            panel[pair, column] = keys[k, pair]


def _join_to(values: Numbers, panels: Numbers) -> None:
    """Features of values (tokens, d) become the columns of panels, pairs of tokens their lines."""
    columns, low = panels.shape[2], np.int32(0xFFFF)
    for begin in range(0, values.shape[1], columns):
        end = min(begin + columns, values.shape[1])
        for k in range(0, values.shape[0], 2):
            line, first = panels[begin // columns, k // 2], values[k, begin:end]
            for column in range(len(first)):
                line[column] = np.int32(first[column]) & low
            if k + 1 < values.shape[0]:
                second = values[k + 1, begin:end]
                for column in range(len(second)):
                    line[column] |= np.int32(np.int32(second[column]) << 16)


def _weigh_by(scores: Numbers, units: Numbers, scale: np.float32, weights: Numbers) -> np.float32:
    """Weights of keys and what a sum of them is to be multiplied by; see `integers.weighed`."""
    one, certain, least = np.float32(1), np.float32(CERTAIN), np.float32(LEAST)
    a, b, c, d = POWER
    # Magnitudes of floats are in the order of their bits, and a loop takes many bits at a time.
    bits, unit_bits, found = scores.view(np.int32), units.view(np.int32), np.empty(2, np.int32)
    best, top, whole = np.int32(-(2**31)), np.int32(0), np.int32(0)
    for k in range(len(scores)):
        best = max(best, np.int32(bits[k] ^ (np.int32(bits[k] >> 31) & np.int32(0x7FFFFFFF))))
        top = max(top, unit_bits[k])
    found[0], found[1] = best ^ (np.int32(best >> 31) & np.int32(0x7FFFFFFF)), top
    highest, widest = found.view(np.float32)
    most = np.float32(min(COUNTED, SHARED // len(scores)))
    part = most / widest
    for k in range(len(scores)):
        x = max((scores[k] - highest) * scale, least)
        near = np.rint(x)
        x -= near
        e = np.float32(one + x * (a + x * (b + x * (c + x * d)))).view(np.int32)
        e = np.int32(e + np.int32(np.int32(near) << np.int32(23))).view(np.float32)
        whole = np.int32(whole + np.int32(np.rint(e * certain)))
        weights[k] = np.int32(min(np.rint(e * (units[k] * part)), most))
    return widest / most * (certain / np.float32(whole))


turn, join = compiled(_turn_to) or _turn_to, compiled(_join_to) or _join_to
weigh, multiply_few = compiled(_weigh_by) or _weigh_by, compiled(_multiply_by) or _multiply_by
pack_few = compiled(_pack_few) or _pack_few
_find, _filled = compiled(_find_by) or _find_by, compiled(_filled_to) or _filled_to
_attend_once = compiled(_attend_by_one) or _attend_by_one
_attend_all = compiled(_attend_by_many) or _attend_by_many
attend = compiled(_attend)
