"""The innermost loop of products of int16 matrices: some rows times a panel of columns.

Processors can multiply neighbouring int16 and add the products to int32 in one instruction, but
compilers find it only where a loop is laid out for it and all sums stay in registers. So this loop
is written in LLVM's terms, for numba. It names no instruction, and is right on every processor.

Numba keeps machine code by the file of a loop, and does not see changes in what that loop calls:
after a change here `make clean`, or delete *.nbc and *.nbi.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, config
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

WHOLE, PAIR, HALF = ir.IntType(64), ir.IntType(32), ir.IntType(16)
SINGLE, DOUBLE = ir.FloatType(), ir.DoubleType()
NOTHING = ir.Constant(ir.IntType(8).as_pointer(), None)
"""What numba has for None."""

LINE = 64
"""Bytes that memory gives at once."""


class Shape(NamedTuple):
    """What registers hold: sums of so many rows and vectors of columns."""

    rows: int
    vectors: int
    lanes: int

    turn: int
    """Pairs of inputs in a turn of the loop, a power of two."""

    lines: int
    """Of memory that a turn asks for."""

    @property
    def columns(self) -> int:
        """Of a panel."""
        return self.vectors * self.lanes


WIDE, NARROW, PLAIN = Shape(8, 3, 16, 1, 3), Shape(6, 2, 8, 4, 2), Shape(6, 2, 8, 1, 1)
"""For 32 registers of 512 bits, for 16 of 256 (AVX2), and for processors of other kinds."""


def suitable() -> Shape:
    """What suits the processor that numba makes code for."""
    given: str | None = config.CPU_FEATURES  # type: ignore[attr-defined]
    host: str = codegen.get_host_cpu_features()  # type: ignore[no-untyped-call]
    features = (host if given is None else given).split(",")
    if "+avx512bw" in features:
        return WIDE
    return NARROW if "+avx2" in features else PLAIN


def product(shape: Shape, part: int) -> Any:
    """A function for compiled loops that sets products of rows and a panel, float32.

    Arguments: rows (address of the first, bytes from row to row, number of the last: rows beyond it
    are taken for it); a panel (address of (pairs, columns, 2), number of pairs), and behind it an
    address that memory is to be fetched from and how far to go with each turn; addresses of units
    of rows, of units of columns, of what is added to columns, and of room for (rows, columns) of
    float64; rows to be set (address of the first, bytes from row to row). `part` inputs are added
    up in int32.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        rows, panel, (unit, units, bias, room), out = _taken_apart(builder, arguments)
        places = [
            builder.add(room, WHOLE(8 * shape.lanes * k)) for k in range(shape.rows * shape.vectors)
        ]
        single, double = _vector(SINGLE, shape), _vector(DOUBLE, shape)
        at, step = (_rows(builder, shape, rows), panel[0], *panel[2:]), WHOLE(part // 2)
        end = _least(builder, step, panel[1])
        for own, place in zip(_add(builder, shape, at, (WHOLE(0), end)), places, strict=True):
            _store(builder, builder.sitofp(own, double), place)
        with _turns(builder, (step, panel[1], step)) as begin:
            end = _least(builder, builder.add(begin, step), panel[1])
            for own, place in zip(_add(builder, shape, at, (begin, end)), places, strict=True):
                before = _load(builder, place, double)
                _store(builder, builder.fadd(before, builder.sitofp(own, double)), place)
        found = (builder.fptrunc(_load(builder, place, double), single) for place in places)
        _finish(builder, shape, found, (unit, units, bias), (*out, rows[2]))
        return NOTHING

    return _function(generate, (3, 4, 4, 2))


def product_of_few(shape: Shape) -> Any:
    """The same of so few inputs that int32 holds the sums of all.

    Arguments are shorter: no memory is to be fetched, nothing is added, no room is needed.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        rows, panel, units, out = _taken_apart(builder, arguments)
        at = _rows(builder, shape, rows), panel[0]
        sums = _add(builder, shape, at, (WHOLE(0), panel[1]))
        found = (builder.sitofp(own, _vector(SINGLE, shape)) for own in sums)
        _finish(builder, shape, found, units, (*out, rows[2]))
        return NOTHING

    return _function(generate, (3, 2, 2, 2))


def _function(generate: Any, counts: Sequence[int]) -> Any:
    """What loops call: four tuples of so many numbers."""

    @intrinsic
    def called(_: Any, rows: Any, panel: Any, columns: Any, out: Any) -> Any:
        del rows, panel, columns, out
        kinds = (types.UniTuple(types.int64, count) for count in counts)  # type: ignore[no-untyped-call]
        return types.void(*kinds), generate

    return called


def _finish(
    builder: Any, shape: Shape, found: Iterable[Any], units: Sequence[Any], out: Sequence[Any]
) -> None:
    """Set rows to what was found, float32, times the units of rows and of columns.

    With a third address in `units`, what is there is added.
    """
    unit, *columns = units
    ones = [
        _repeated(builder, _load(builder, own, SINGLE), shape)
        for own in _rows(builder, shape, (unit, WHOLE(4), out[2]))
    ]
    to = _rows(builder, shape, out)
    for number, own in enumerate(found):
        row, vector = divmod(number, shape.vectors)
        offset = WHOLE(4 * shape.lanes * vector)
        places = (builder.add(at, offset) for at in columns)
        many, *more = (_load(builder, place, _vector(SINGLE, shape)) for place in places)
        own = builder.fmul(builder.fmul(own, ones[row]), many)
        own = builder.fadd(own, more[0]) if more else own
        _store(builder, own, builder.add(to[row], offset))


def _taken_apart(builder: Any, arguments: Any) -> Iterator[list[Any]]:
    return (cgutils.unpack_tuple(builder, own) for own in arguments)  # type: ignore[no-untyped-call]


def _add(builder: Any, shape: Shape, at: Sequence[Any], pairs: tuple[Any, Any]) -> list[Any]:
    """Sums of products, given addresses of rows and of a panel, from one pair to another.

    Behind the panel may follow what `product` says of memory.
    """
    begin, stop = pairs
    rows, panel, *fetch = at
    sums = [ir.Constant(_vector(PAIR, shape), None)] * (shape.rows * shape.vectors)
    rest = builder.and_(builder.sub(stop, begin), WHOLE(shape.turn - 1))
    if shape.turn > 1:
        whole = builder.sub(stop, rest)
        sums = _add_by(builder, shape, at, (begin, whole, shape.turn), sums)
        begin, fetch = whole, []
    return _add_by(builder, shape, (rows, panel, *fetch), (begin, stop, 1), sums)


def _add_by(
    builder: Any, shape: Shape, at: Sequence[Any], pairs: tuple[Any, Any, int], sums: Sequence[Any]
) -> list[Any]:
    """Sums and what there is from one pair to another, so many in a turn."""
    (start, stop, step), (rows, panel, *fetch) = pairs, at
    width = 4 * shape.columns
    begin = [start, builder.add(panel, builder.mul(start, WHOLE(width)))]
    if fetch:
        turns = builder.sdiv(start, WHOLE(step))
        begin.append(builder.add(fetch[0], builder.mul(turns, fetch[1])))
    before = builder.block
    test, loop, end = map(builder.append_basic_block, ("test", "pairs", "end"))
    builder.branch(test)
    builder.position_at_end(test)
    phis = [builder.phi(first.type) for first in (*begin, *sums)]
    (index, place, *asked), own = phis[: len(begin)], phis[len(begin) :]
    builder.cbranch(builder.icmp_signed("<", index, stop), loop, end)
    builder.position_at_end(loop)
    for line in range(shape.lines if fetch else 0):
        _ask_for(builder, builder.add(asked[0], WHOLE(LINE * line)))
    done = own
    for k in range(step):
        if k:
            index, place, *done = _settled(builder, (index, place, *done))
        line = builder.add(place, WHOLE(k * width))
        done = _add_pair(builder, shape, (rows, builder.add(index, WHOLE(k)), line), done)
    following = [builder.add(index, WHOLE(step)), builder.add(place, WHOLE(step * width)), *done]
    following[2:2] = [builder.add(asked[0], fetch[1])] if fetch else []
    builder.branch(test)
    for phi, first, later in zip(phis, [*begin, *sums], following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, loop)
    builder.position_at_end(end)
    return own


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


@contextmanager
def _turns(builder: Any, span: tuple[Any, Any, Any]) -> Iterator[Any]:
    """A loop from start to stop by steps; what is built within is its body."""
    start, stop, step = span
    before = builder.block
    test, loop, end = map(builder.append_basic_block, ("test", "turn", "done"))
    builder.branch(test)
    builder.position_at_end(test)
    index = builder.phi(WHOLE)
    index.add_incoming(start, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), loop, end)
    builder.position_at_end(loop)
    yield index
    index.add_incoming(builder.add(index, step), builder.block)
    builder.branch(test)
    builder.position_at_end(end)


def _least(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def _vector(kind: Any, shape: Shape) -> Any:
    return ir.VectorType(kind, shape.lanes)


def _rows(builder: Any, shape: Shape, rows: Sequence[Any]) -> list[Any]:
    """The addresses of rows."""
    first, step, last = rows
    numbers = (_least(builder, WHOLE(row), last) for row in range(shape.rows))
    return [builder.add(first, builder.mul(step, number)) for number in numbers]


def _add_pair(builder: Any, shape: Shape, at: Sequence[Any], sums: Sequence[Any]) -> list[Any]:
    """Sums and the products of one pair of inputs: rows, number of the pair, address in a panel."""
    rows, index, line = at
    vector = ir.VectorType(HALF, 2 * shape.lanes)
    starts = (builder.add(line, WHOLE(4 * shape.lanes * k)) for k in range(shape.vectors))
    columns = [_load(builder, start, vector) for start in starts]
    offset = builder.mul(index, WHOLE(4))
    pairs = [_load(builder, builder.add(row, offset), PAIR) for row in rows]
    values = [builder.bitcast(_repeated(builder, pair, shape), vector) for pair in pairs]
    products = [_products(builder, own, column, shape) for own in values for column in columns]
    return [builder.add(own, product) for own, product in zip(sums, products, strict=True)]


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def _ask_for(builder: Any, address: Any) -> None:
    """Let the processor fetch a line of memory; any address will do."""
    place = builder.inttoptr(address, NOTHING.type)
    kind = ir.FunctionType(ir.VoidType(), [NOTHING.type, PAIR, PAIR, PAIR])
    fetch = builder.module.declare_intrinsic("llvm.prefetch", [NOTHING.type], kind)
    builder.call(fetch, [place, *map(PAIR, (0, 2, 1))])  # to read, into the second cache, data


def _repeated(builder: Any, value: Any, shape: Shape) -> Any:
    one = ir.Constant(_vector(value.type, shape), ir.Undefined)
    one = builder.insert_element(one, value, PAIR(0))
    return builder.shuffle_vector(one, one, ir.Constant(_vector(PAIR, shape), [0] * shape.lanes))


def _products(builder: Any, left: Any, right: Any, shape: Shape) -> Any:
    """Of neighbouring int16, added two by two: the form that LLVM has an instruction for."""
    wide = ir.VectorType(PAIR, 2 * shape.lanes)
    both = builder.mul(builder.sext(left, wide), builder.sext(right, wide))
    even, odd = (
        builder.shuffle_vector(
            both,
            both,
            ir.Constant(_vector(PAIR, shape), [2 * k + side for k in range(shape.lanes)]),
        )
        for side in (0, 1)
    )
    return builder.add(even, odd)
