"""What goes before and behind products of a tile: rows are packed, sums become rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from tec_zarr.models import vectors
from tec_zarr.models.vectors import NOTHING, PAIR, SINGLE, TURN, WHOLE, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence


def pack(shape: Shape) -> Any:
    """A function for compiled loops that packs rows, as `product` takes them.

    Arguments: rows (address of the first, bytes from row to row, number of the last: it comes again
    for those beyond it); address of what they become; number of turns.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        rows, (to, turns) = vectors.taken_apart(builder, arguments)
        own, line = vectors.rows(builder, shape, rows), ir.VectorType(PAIR, TURN)
        with cgutils.for_range(builder, turns) as loop:
            offset = builder.mul(loop.index, WHOLE(4 * TURN))
            begin = builder.add(to, builder.mul(offset, WHOLE(shape.rows)))
            for number, row in enumerate(own):
                value = vectors.load(builder, builder.add(row, offset), line)
                vectors.store(builder, value, builder.add(begin, WHOLE(4 * TURN * number)))
        return NOTHING

    @intrinsic
    def called(_: Any, rows: Any, to: Any) -> Any:
        del rows, to
        return vectors.signature(3, 2), generate

    return called


def finish(shape: Shape) -> Any:
    """A function for compiled loops that sets rows to sums in their units, plus what is added.

    Arguments: address of sums, int32; addresses of units of rows, of units of columns, of what is
    added to columns; rows to be set (address of the first, bytes from row to row, number of the
    last).
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        (sums,), units, out = vectors.taken_apart(builder, arguments)
        places = vectors.places(builder, shape, sums)
        parts = (vectors.load(builder, place, vectors.of(PAIR, shape)) for place in places)
        found = [builder.sitofp(own, vectors.of(SINGLE, shape)) for own in parts]
        set_rows(builder, shape, found, units, out)
        return NOTHING

    @intrinsic
    def called(_: Any, sums: Any, units: Any, out: Any) -> Any:
        del sums, units, out
        return vectors.signature(1, 3, 3), generate

    return called


def set_rows(
    builder: Any, shape: Shape, found: Sequence[Any], units: Sequence[Any], out: Sequence[Any]
) -> None:
    """Set rows to what was found, float32, times the units of rows and of columns.

    With a third address in `units`, what is there is added.
    """
    unit, *columns = units
    ones = [
        vectors.repeated(builder, vectors.load(builder, own, SINGLE), shape)
        for own in vectors.rows(builder, shape, (unit, WHOLE(4), out[2]))
    ]
    to = vectors.rows(builder, shape, out)
    for number, own in reversed([*enumerate(found)]):  # rows beyond the last one come first
        row, vector = divmod(number, shape.vectors)
        offset = WHOLE(4 * shape.lanes * vector)
        places = (builder.add(at, offset) for at in columns)
        many, *more = (vectors.load(builder, place, vectors.of(SINGLE, shape)) for place in places)
        own = builder.fmul(builder.fmul(own, ones[row]), many)
        own = builder.fadd(own, more[0]) if more else own
        vectors.store(builder, own, builder.add(to[row], offset))
