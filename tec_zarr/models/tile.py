"""The innermost loop of products of int16 matrices: some rows times a panel of columns.

Processors can multiply neighbouring int16 and add the products to int32 in one instruction, but
compilers find it only where a loop is laid out for it and all sums stay in registers. So this loop
is written in LLVM's terms, for numba. It names no instruction, and is right on every processor.

Numba keeps machine code by the file of a loop, and does not see changes in what that loop calls:
after a change here, in `tile_ends` or in `vectors`: `make clean`, or delete *.nbc and *.nbi.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.extending import intrinsic

from tec_zarr.models import vectors
from tec_zarr.models.tile_ends import set_rows
from tec_zarr.models.vectors import HALF, LINE, NOTHING, PAIR, SINGLE, TURN, WHOLE, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence


def product(shape: Shape) -> Any:
    """A function for compiled loops that adds products of packed rows and a panel to sums, int32.

    Arguments: address of rows, (turns, rows, TURN, 2); a panel (address of (turns, TURN, columns,
    2), number of turns, one at least), and behind it an address that memory is to be fetched from
    and how far to go with each turn; addresses of sums and of where the new ones are set, (rows,
    columns). All sums are taken modulo 2**32.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        (rows,), (panel, turns, *fetch), (before, after) = vectors.taken_apart(builder, arguments)
        own = vectors.places(builder, shape, before)
        sums = [vectors.load(builder, place, vectors.of(PAIR, shape)) for place in own]
        sums = _add(builder, shape, (rows, panel, *fetch), turns, sums)
        for own, place in zip(sums, vectors.places(builder, shape, after), strict=True):
            vectors.store(builder, own, place)
        return NOTHING

    @intrinsic
    def called(_: Any, rows: Any, panel: Any, sums: Any) -> Any:
        del rows, panel, sums
        return vectors.signature(1, 4, 2), generate

    return called


def product_of_few(shape: Shape) -> Any:
    """A function for compiled loops that sets rows to their products with a panel, in their units.

    Arguments: address of rows, a panel, as for `product`; addresses of units of rows and of
    columns; rows to be set, as for `finish`. Sums of all products are in int32.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        (rows,), (panel, turns), units, out = vectors.taken_apart(builder, arguments)
        sums = [ir.Constant(vectors.of(PAIR, shape), None)] * (shape.rows * shape.vectors)
        sums = _add(builder, shape, (rows, panel), turns, sums)
        found = [builder.sitofp(own, vectors.of(SINGLE, shape)) for own in sums]
        set_rows(builder, shape, found, units, out)
        return NOTHING

    @intrinsic
    def called(_: Any, rows: Any, panel: Any, units: Any, out: Any) -> Any:
        del rows, panel, units, out
        return vectors.signature(1, 2, 2, 3), generate

    return called


def _add(
    builder: Any, shape: Shape, at: Sequence[Any], turns: Any, sums: Sequence[Any]
) -> list[Any]:
    """Sums and products of so many turns, given addresses of rows and of a panel.

    Behind them may follow what `product` says of memory.
    """
    at, step = at[:3], at[3:]
    before, (loop, end) = builder.block, map(builder.append_basic_block, ("turn", "end"))
    builder.branch(loop)
    builder.position_at_end(loop)
    first = [turns, *at, *sums]
    phis = [builder.phi(value.type) for value in first]
    left, *places = phis[: 1 + len(at)]
    for line in range(shape.lines if step else 0):
        _ask_for(builder, builder.add(places[2], WHOLE(LINE * line)))
    (row, panel), done = places[:2], phis[1 + len(at) :]
    for k in range(TURN):
        if k and shape.apart:
            row, panel, *done = _settled(builder, (row, panel, *done))
        pairs = [builder.add(row, WHOLE(4 * (TURN * number + k))) for number in range(shape.rows)]
        line = builder.add(panel, WHOLE(4 * shape.columns * k))
        done = _add_pair(builder, shape, (pairs, line), done)
    steps = WHOLE(4 * TURN * shape.rows), WHOLE(4 * TURN * shape.columns), *step
    places = [builder.add(place, far) for place, far in zip(places, steps, strict=True)]
    later = [builder.sub(left, WHOLE(1)), *places, *done]
    builder.cbranch(builder.icmp_signed(">", later[0], WHOLE(0)), loop, end)
    for phi, one, other in zip(phis, first, later, strict=True):
        phi.add_incoming(one, before)
        phi.add_incoming(other, loop)
    builder.position_at_end(end)
    return done


def _settled(builder: Any, values: Sequence[Any]) -> list[Any]:
    """The same values, after which come later steps: compilers mix them, and registers overflow.

    Registers are named as x86 calls its own, and have to be as wide as values.
    """
    kind = ir.LiteralStructType([value.type for value in values])
    places = ["=" + ("r" if value.type == WHOLE else "v") for value in values]
    places += map(str, range(len(values)))
    none = ir.InlineAsm(ir.FunctionType(kind, list(kind.elements)), "", ",".join(places))
    found = builder.call(none, values)
    return [builder.extract_value(found, k) for k in range(len(values))]


def _add_pair(builder: Any, shape: Shape, at: Sequence[Any], sums: Sequence[Any]) -> list[Any]:
    """Sums and products of one pair of inputs, given its addresses in each row and in a panel."""
    rows, line = at
    vector = ir.VectorType(HALF, 2 * shape.lanes)
    starts = (builder.add(line, WHOLE(4 * shape.lanes * k)) for k in range(shape.vectors))
    columns = [vectors.load(builder, start, vector) for start in starts]
    pairs = [vectors.load(builder, row, PAIR) for row in rows]
    values = [builder.bitcast(vectors.repeated(builder, pair, shape), vector) for pair in pairs]
    products = [_products(builder, own, column, shape) for own in values for column in columns]
    return [builder.add(own, product) for own, product in zip(sums, products, strict=True)]


def _ask_for(builder: Any, address: Any) -> None:
    """Let the processor fetch a line of memory; any address will do."""
    place = builder.inttoptr(address, NOTHING.type)
    kind = ir.FunctionType(ir.VoidType(), [NOTHING.type, PAIR, PAIR, PAIR])
    fetch = builder.module.declare_intrinsic("llvm.prefetch", [NOTHING.type], kind)
    builder.call(fetch, [place, *map(PAIR, (0, 2, 1))])  # to read, into the second cache, data


def _products(builder: Any, left: Any, right: Any, shape: Shape) -> Any:
    """Of neighbouring int16, added two by two: the form that LLVM has an instruction for."""
    wide = ir.VectorType(PAIR, 2 * shape.lanes)
    both = builder.mul(builder.sext(left, wide), builder.sext(right, wide))
    even, odd = (
        builder.shuffle_vector(
            both,
            both,
            ir.Constant(vectors.of(PAIR, shape), [2 * k + side for k in range(shape.lanes)]),
        )
        for side in (0, 1)
    )
    return builder.add(even, odd)
