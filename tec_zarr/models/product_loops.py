"""Products of int16 matrices in machine code, exact; where it is None, float64 is exact as well.

Rows are packed first, so that the innermost loop (`tile`) goes through memory in one line, and all
of them are taken beside one panel of weights after the other.

Where many rows come at once, seven products of halves do for eight (Strassen 1969, in Winograd's
form). Sums are taken modulo 2**32, which does no harm to what fits in int32 in the end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tec_zarr.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

GROUP = 8
"""Inputs that are taken at a time, four pairs: zeros make rows a multiple of it."""

PART = 384
"""Inputs whose products are added up in int32, whatever they are; sums of these are float64."""

BOTH = 2 * PART
"""Inputs of halves that are mixed, which are added up in int32 where rows are short enough."""

MANY = 128
"""Rows from which on halves are mixed."""

SHORT = 4
"""Rows that are taken together where more would be in vain."""

# Of seven products in their order: the sums they are added to and those they become (none, those of
# the tile, and three that are kept), whether they become rows, in the lower half, in the right half.
BEFORE, AFTER = (0, 2, 2, 2, 3, 2, 4), (2, 1, 2, 3, 1, 4, 1)
DONE = (False, True, False, False, True, True, True)
LOWER = (0, 0, 0, 0, 0, 1, 1)
RIGHT = (0, 0, 0, 0, 1, 1, 0)
STAGES = 7

PLAIN = (0, 1, -1, -2, 3, -3, -4)
"""What each is multiplied by: a quarter of weights, or below zero what is mixed of them."""

PACKED = (0, 1, 7, 6)
"""Which of them take upper and lower halves of rows, left and right; the eighth is in sums only."""


class Panels(NamedTuple):
    """Weights (n, k) as `multiply` takes them; zeros make n a multiple of the columns."""

    numbers: Numbers
    """Integers, int16, (panels, k / 2, columns, 2)."""

    unit: Numbers
    """Of each column, float32."""

    bias: Numbers
    """Of each column, float32."""

    length: float
    """Of the longest BOTH weights of a column, as a vector; infinite where halves cannot be mixed."""


def panels(numbers: Numbers, unit: Numbers, bias: Numbers) -> Panels:
    """Panels of int16 (n, k), their units and biases (n,), float32; k is a multiple of GROUP."""
    n, k = numbers.shape
    length = math.inf
    if n % (2 * COLUMNS) == k % BOTH == 0 and _mixable(numbers.reshape(2, n // 2, -1, 2, PART)):
        length = float(np.linalg.norm(numbers.reshape(n, -1, BOTH).astype(float), axis=2).max())
    more = (0, -n % COLUMNS)
    parts = np.pad(numbers, (more, (0, 0))).reshape(-1, COLUMNS, k // 2, 2)
    parts = np.ascontiguousarray(parts.transpose(0, 2, 1, 3))
    return Panels(parts, np.pad(unit, more), np.pad(bias, more), length)


def _mixable(halves: Numbers) -> bool:
    """Whether int16 holds the sums of halves of outputs and of inputs, the largest ones, that is."""
    left, right = halves.astype(np.int32)
    apart = right - left
    return bool(np.abs(apart[:, :, 1] - apart[:, :, 0]).max() < 2**15 and np.abs(apart).max() < 2**15)


def _multiply(numbers: Numbers, unit: Numbers, panels: Panels, out: Numbers) -> None:
    """Rows of float32: products of `numbers` (m, k) and panels, in their units, plus the bias."""
    few = len(numbers) < MANY or panels.length == np.inf
    if few or not multiply_mixed(numbers, unit, panels, out):
        multiply_plain(numbers, unit, panels, out)


def _multiply_plain(numbers: Numbers, unit: Numbers, panels: Panels, out: Numbers) -> None:
    (m, k), n, each = numbers.shape, out.shape[1], ROWS * COLUMNS
    height = 0
    while height < m:
        height += rows_of(m - height)
    packed = np.empty(height * k, np.int16)
    for begin in range(0, k, PART):
        width, first = min(PART, k - begin), 0
        while first < m:
            rows = rows_of(m - first)
            near = numbers.ctypes.data + 2 * (k * first + begin), 2 * k, m - first - 1
            to = packed.ctypes.data + 2 * (height * begin + first * width), width // GROUP
            if rows == SHORT:
                short_pack(near, to)
            else:
                pack(near, to)
            first += rows
    sums, none = np.zeros((2, each), np.int32), np.zeros(each)
    earlier, last = np.empty((-(-height // SHORT), each)), np.empty((ROWS, COLUMNS), np.float32)
    for panel in range(len(panels.numbers)):
        # Here, not above: numba frees an array behind the last line that names it.
        zero, now, far = sums.ctypes.data, sums.ctypes.data + 4 * each, panels.numbers.ctypes.data
        column = panel * COLUMNS
        whole = column + COLUMNS <= n
        columns = panels.unit.ctypes.data + 4 * column, panels.bias.ctypes.data + 4 * column
        for begin in range(0, k, PART):
            width, first, tile = min(PART, k - begin), 0, 0
            weights, size = far + 2 * COLUMNS * (panel * k + begin), 2 * COLUMNS * width
            while first < m:
                rows = rows_of(m - first)
                own = (packed.ctypes.data + 2 * (height * begin + first * width),)
                # While a panel is used, tile by tile, the one behind it comes from memory.
                fetch = weights + size + size * first // height
                taken = weights, width // GROUP, fetch, 2 * GROUP * COLUMNS * rows // height
                if rows == SHORT:
                    short_product(own, taken, (zero, now))
                else:
                    product(own, taken, (zero, now))
                room, end = earlier.ctypes.data + 8 * each * tile, min(rows, m - first) - 1
                units = unit.ctypes.data + 4 * first, columns[0], columns[1]
                out_at = out.ctypes.data + 4 * (n * first + column), 4 * n, end
                to_set = out_at if whole else (last.ctypes.data, 4 * COLUMNS, end)
                if begin + PART < k:
                    gather((now,), (room if begin else none.ctypes.data, room))
                elif begin:
                    finish((now, room), units, to_set)
                else:
                    finish_whole((now, room), units, to_set)
                if not whole and begin + PART >= k:
                    out[first : first + end + 1, column:] = last[: end + 1, : n - column]
                first += rows
                tile += 1


def _multiply_mixed(numbers: Numbers, unit: Numbers, panels: Panels, out: Numbers) -> bool:
    """Returns False, with nothing done, where rows are too long."""
    (m, k), n = numbers.shape, out.shape[1]
    half, parts = (m + 1) // 2, k // BOTH
    tiles, each, size = -(-half // ROWS), ROWS * COLUMNS, 2 * COLUMNS * PART
    packed = np.empty((parts, STAGES + 1, tiles * ROWS * PART), np.int16)
    if not lay(numbers, panels.length, packed):
        return False
    sums, none = np.zeros((2 + 3 * tiles, each), np.int32), np.zeros(each)
    earlier = np.empty((4, tiles, each) if parts > 1 else (4, 1, each))
    mixed = np.empty((4, size // 2), np.int16)
    for number in range(n // (2 * COLUMNS) * parts):
        panel, part = number // parts, number % parts
        mix_panels(panels.numbers, panel, part, mixed)
        for stage in range(STAGES):
            begin, end = (half, m) if LOWER[stage] else (0, half)
            column = panel * COLUMNS + RIGHT[stage] * (n // 2)
            columns = panels.unit.ctypes.data + 4 * column, panels.bias.ctypes.data + 4 * column
            # Here, not above: numba frees an array behind the last line that names it.
            near, zero, none_at = packed[part, stage].ctypes.data, sums.ctypes.data, none.ctypes.data
            room_at = earlier[2 * LOWER[stage] + RIGHT[stage]].ctypes.data
            first_at, jump = panels.numbers.ctypes.data, size * k // PART * (n // (2 * COLUMNS))
            far = first_at + 2 * size * number + PLAIN[stage] // 2 * jump + PLAIN[stage] % 2 * size
            far = far if PLAIN[stage] >= 0 else mixed[-1 - PLAIN[stage]].ctypes.data
            # The halves that come next are fetched from memory, a quarter with each of the last stages.
            quarter = stage - 3
            fetch = first_at + 2 * size * (number + 1) + quarter // 2 * jump + quarter % 2 * size
            fetch, step = (fetch, 2 * GROUP * COLUMNS // tiles) if stage >= 3 else (far, 0)
            before, after = BEFORE[stage], AFTER[stage]
            for tile in range(tiles):
                own = (near + 2 * tile * ROWS * PART,)
                taken = far, PART // GROUP, fetch + size * tile // tiles, step
                kept = 12 * each * tile
                to = zero + 4 * each * after + (kept if after > 1 else 0)
                product(own, taken, (zero + 4 * each * before + (kept if before > 1 else 0), to))
                if stage == 5:
                    x = 2 + 3 * tile
                    for c in range(each):
                        sums[1, c] = sums[x + 2, c] - sums[x, c] + sums[x + 1, c]
                first = begin + tile * ROWS
                if not DONE[stage] or first >= end:
                    continue
                now, room = zero + 4 * each, room_at + 8 * each * tile
                units = unit.ctypes.data + 4 * first, columns[0], columns[1]
                to_set = out.ctypes.data + 4 * (n * first + column), 4 * n, min(ROWS, end - first) - 1
                if part + 1 < parts:
                    gather((now,), (room if part else none_at, room))
                elif part:
                    finish((now, room), units, to_set)
                else:
                    finish_whole((now, room), units, to_set)
    return True


def _lay(numbers: Numbers, length: float, packed: Numbers) -> bool:
    """Pack halves of rows and of inputs and set their sums, unless rows are too long."""
    m, k = numbers.shape
    half = (m + 1) // 2
    for part in range(len(packed)):
        for first in range(0, half, ROWS):
            for lower in range(2):
                begin, end = (half + first, m) if lower else (first, half)
                begin = min(begin, m - 1)  # the last one comes again where there are none
                last = max(begin, min(begin + ROWS, end) - 1)
                at = part * BOTH
                for row in range(begin, last + 1):
                    if not fits(numbers[row, at : at + BOTH], length):
                        return False
                for right in range(2):
                    near = numbers.ctypes.data + 2 * (k * begin + at + right * PART)
                    to = packed[part, PACKED[2 * lower + right]].ctypes.data + 2 * first * PART
                    pack((near, 2 * k, last - begin), (to, PART // GROUP))
        mix_rows(packed[part])
    return True


def _fits(row: Numbers, length: float) -> bool:
    """Whether int32 holds sums of its products with weights, by Cauchy and Schwarz.

    Of squares that are added up, what is below 2**10 is taken for as much.
    """
    total = np.int32(0)
    for k in range(len(row)):
        one = np.int32(row[k])
        total = np.int32(total + np.int32(np.int32(one * one) >> np.int32(10)))
    return 2**10 * (total + len(row)) * length**2 < (2**31 - 1) ** 2


def _rows_of(left: int) -> int:
    """Rows that are taken next, of those that are left."""
    return SHORT if left <= SHORT or ROWS < left <= 2 * SHORT else ROWS


def _mix_rows(own: Numbers) -> None:
    """Set what is multiplied: sums of packed halves of rows and of inputs."""
    a, b, c, d = own[0], own[1], own[7], own[6]
    for k in range(own.shape[1]):
        own[3, k] = c[k] + d[k]
        own[2, k] = c[k] + d[k] - a[k]
        own[5, k] = a[k] - c[k]
        own[4, k] = b[k] - c[k] - d[k] + a[k]


def _mix_panels(numbers: Numbers, panel: int, part: int, out: Numbers) -> None:
    """Set sums of halves of inputs and of outputs."""
    begin, other = BOTH // 2 * part, len(numbers) // 2 + panel
    middle, end = begin + PART // 2, begin + BOTH // 2
    a, b = numbers[panel, begin:middle].reshape(-1), numbers[other, begin:middle].reshape(-1)
    c, d = numbers[panel, middle:end].reshape(-1), numbers[other, middle:end].reshape(-1)
    for k in range(len(a)):
        out[0, k] = a[k] + d[k] - b[k]
        out[1, k] = b[k] - a[k]
        out[2, k] = d[k] - b[k]
        out[3, k] = b[k] + c[k] - a[k] - d[k]


ROWS, COLUMNS = 0, 0
product: Any = None
short_product: Any = None
product_of_few: Any = None
pack: Any = None
short_pack: Any = None
gather: Any = None
finish: Any = None
finish_whole: Any = None
rows_of, mix_rows = compiled(_rows_of) or _rows_of, compiled(_mix_rows) or _mix_rows
lay, fits, mix_panels = compiled(_lay) or _lay, compiled(_fits) or _fits, compiled(_mix_panels) or _mix_panels
multiply_plain, multiply_mixed = compiled(_multiply_plain), compiled(_multiply_mixed)
multiply = compiled(_multiply)
if multiply is not None:
    from tec_zarr.models import tile

    HOST = tile.suitable()
    ROWS, COLUMNS = HOST.rows, HOST.columns
    product, product_of_few = tile.product(HOST), tile.product_of_few(HOST)
    short = HOST._replace(rows=SHORT)
    short_product, pack, short_pack = tile.product(short), tile.pack(HOST), tile.pack(short)
    gather = tile.gather(HOST)
    finish, finish_whole = tile.finish(HOST, whole=False), tile.finish(HOST, whole=True)
