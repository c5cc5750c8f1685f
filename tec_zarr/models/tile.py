"""The innermost loop of products of int16 matrices: some rows times a panel of columns.

Processors can multiply neighbouring int16 and add the products to int32 in one instruction, but
compilers find it only where a loop is laid out for it and all sums stay in registers. So this loop
is written in LLVM's terms, for numba. It names no instruction, and is right on every processor.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Sequence

WHOLE, PAIR, HALF = ir.IntType(64), ir.IntType(32), ir.IntType(16)


class Shape(NamedTuple):
    """What registers hold: sums of so many rows and vectors of columns."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        """Of a panel."""
        return self.vectors * self.lanes


WIDE, NARROW = Shape(8, 3, 16), Shape(6, 2, 8)
"""For 32 registers of 512 bits, and for 16 of 256."""


@cache
def columns() -> int:
    """Of panels that suit this processor."""
    return (WIDE if binding.get_host_cpu_features().get("avx512bw") else NARROW).columns


def tile(shape: Shape) -> Any:
    """A function for compiled loops that sets sums (rows, columns), int32, given addresses.

    Its arguments: the first row, the bytes from row to row, the number of the last row (rows beyond
    it are taken for it), a panel (pairs, columns, 2), the number of its pairs, the sums.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        first, step, last, panel, pairs, found = arguments
        rows = [_row(builder, first, step, last, row) for row in range(shape.rows)]
        before, loop, end = builder.block, *map(builder.append_basic_block, ("pairs", "end"))
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(WHOLE)
        sums = [builder.phi(_sums(shape)) for _ in range(shape.rows * shape.vectors)]
        done = _add_pair(builder, shape, (rows, panel, index), sums)
        following = builder.add(index, WHOLE(1))
        for phi, begin, later in zip(
            [index, *sums], [WHOLE(0)] + [ir.Constant(_sums(shape), None)] * len(sums),
            [following, *done], strict=True,
        ):  # fmt: skip
            phi.add_incoming(begin, before)
            phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_signed("<", following, pairs), loop, end)
        builder.position_at_end(end)
        for number, own in enumerate(done):
            address = builder.add(found, WHOLE(4 * shape.lanes * number))
            builder.store(own, builder.inttoptr(address, own.type.as_pointer()), align=4)
        return ir.Constant(ir.IntType(8).as_pointer(), None)  # what numba has for None

    @intrinsic
    def called(_: Any, first: Any, step: Any, last: Any, panel: Any, pairs: Any, sums: Any) -> Any:
        del first, step, last, panel, pairs, sums
        return types.void(*[types.int64] * 6), generate

    return called


def _sums(shape: Shape) -> Any:
    return ir.VectorType(PAIR, shape.lanes)


def _row(builder: Any, first: Any, step: Any, last: Any, row: int) -> Any:
    """The address of a row."""
    number = builder.select(builder.icmp_signed("<", WHOLE(row), last), WHOLE(row), last)
    return builder.add(first, builder.mul(step, number))


def _add_pair(
    builder: Any, shape: Shape, at: tuple[Any, Any, Any], sums: Sequence[Any]
) -> list[Any]:
    """Sums and the products of one pair of inputs."""
    rows, panel, index = at
    vector = ir.VectorType(HALF, 2 * shape.lanes)
    begin = builder.add(panel, builder.mul(index, WHOLE(4 * shape.columns)))
    starts = (builder.add(begin, WHOLE(4 * shape.lanes * k)) for k in range(shape.vectors))
    columns = [_load(builder, start, vector) for start in starts]
    offset = builder.mul(index, WHOLE(4))
    pairs = [_load(builder, builder.add(row, offset), PAIR) for row in rows]
    values = [builder.bitcast(_repeated(builder, pair, shape), vector) for pair in pairs]
    products = [_products(builder, own, column, shape) for own in values for column in columns]
    return [builder.add(own, product) for own, product in zip(sums, products, strict=True)]


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def _repeated(builder: Any, value: Any, shape: Shape) -> Any:
    one = builder.insert_element(ir.Constant(_sums(shape), ir.Undefined), value, PAIR(0))
    return builder.shuffle_vector(one, one, ir.Constant(_sums(shape), [0] * shape.lanes))


def _products(builder: Any, left: Any, right: Any, shape: Shape) -> Any:
    """Of neighbouring int16, added two by two: the form that LLVM has an instruction for."""
    wide = ir.VectorType(PAIR, 2 * shape.lanes)
    both = builder.mul(builder.sext(left, wide), builder.sext(right, wide))
    even, odd = (
        builder.shuffle_vector(
            both, both, ir.Constant(_sums(shape), [2 * k + side for k in range(shape.lanes)])
        )
        for side in (0, 1)
    )
    return builder.add(even, odd)
