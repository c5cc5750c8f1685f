"""The innermost loop of products of int16 matrices: some rows times a panel of columns.

Processors can multiply neighbouring int16 and add the products to int32 in one instruction, but
compilers find it only where a loop is laid out for it and all sums stay in registers. So this loop
is written in LLVM's terms, for numba. It names no instruction, and is right on every processor.

Numba keeps machine code by the file of a loop, and does not see changes in what that loop calls:
after a change here `make clean`, or delete *.nbc and *.nbi.
"""

from __future__ import annotations

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

TURN = 4
"""Pairs of inputs in a turn of the loop."""


class Shape(NamedTuple):
    """What registers hold: sums of so many rows and vectors of columns."""

    rows: int
    vectors: int
    lanes: int

    lines: int
    """Of memory that a turn asks for."""

    apart: bool
    """Whether pairs of a turn are kept apart: vectors are registers, and one pair fills them."""

    @property
    def columns(self) -> int:
        """Of a panel."""
        return self.vectors * self.lanes


WIDE, NARROW, PLAIN = (
    Shape(8, 3, 16, 12, apart=True),
    Shape(6, 2, 8, 2, apart=True),
    Shape(6, 2, 8, 4, apart=False),
)
"""For 32 registers of 512 bits, for 16 of 256 (AVX2), and for processors of other kinds."""


def suitable() -> Shape:
    """What suits the processor that numba makes code for."""
    given: str | None = config.CPU_FEATURES  # type: ignore[attr-defined]
    host: str = codegen.get_host_cpu_features()  # type: ignore[no-untyped-call]
    features = (host if given is None else given).split(",")
    if "+avx512bw" in features:
        return WIDE
    return NARROW if "+avx2" in features else PLAIN


def product(shape: Shape) -> Any:
    """A function for compiled loops that adds products of packed rows and a panel to sums, int32.

    Arguments: address of rows, (turns, rows, TURN, 2); a panel (address of (turns, TURN, columns, 2),
    number of turns), and behind it an address that memory is to be fetched from and how far to go
    with each turn; addresses of sums and of where the new ones are set, (rows, columns). All sums
    are taken modulo 2**32. There is one turn at least.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        (rows,), (panel, turns, *fetch), (before, after) = _taken_apart(builder, arguments)
        sums = [
            _load(builder, place, _vector(PAIR, shape)) for place in _places(builder, shape, before)
        ]
        sums = _add(builder, shape, (rows, panel, *fetch), turns, sums)
        for own, place in zip(sums, _places(builder, shape, after), strict=True):
            _store(builder, own, place)
        return NOTHING

    @intrinsic
    def called(_: Any, rows: Any, panel: Any, sums: Any) -> Any:
        del rows, panel, sums
        return _numbers(1, 4, 2), generate

    return called


def pack(shape: Shape) -> Any:
    """A function for compiled loops that packs rows, as `product` takes them.

    Arguments: rows (address of the first, bytes from row to row, number of the last: it comes again
    for those beyond it); address of what they become; number of turns.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        rows, (to, turns) = _taken_apart(builder, arguments)
        own, line = _rows(builder, shape, rows), ir.VectorType(PAIR, TURN)
        with cgutils.for_range(builder, turns) as loop:  # type: ignore[no-untyped-call]
            offset = builder.mul(loop.index, WHOLE(4 * TURN))
            begin = builder.add(to, builder.mul(offset, WHOLE(shape.rows)))
            for number, row in enumerate(own):
                value = _load(builder, builder.add(row, offset), line)
                _store(builder, value, builder.add(begin, WHOLE(4 * TURN * number)))
        return NOTHING

    @intrinsic
    def called(_: Any, rows: Any, to: Any) -> Any:
        del rows, to
        return _numbers(3, 2), generate

    return called


def gather(shape: Shape) -> Any:
    """A function for compiled loops that adds sums, int32, to those of earlier parts, float64.

    Arguments: address of sums; addresses of those of earlier parts and of the new ones, alike.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        (sums,), (before, after) = _taken_apart(builder, arguments)
        to = _places(builder, shape, after, 8)
        for own, place in zip(_total(builder, shape, sums, before), to, strict=True):
            _store(builder, own, place)
        return NOTHING

    @intrinsic
    def called(_: Any, sums: Any, room: Any) -> Any:
        del sums, room
        return _numbers(1, 2), generate

    return called


def finish(shape: Shape, *, whole: bool) -> Any:
    """A function for compiled loops that sets rows to sums in their units, plus what is added.

    Arguments: addresses of sums, int32, and of those of earlier parts, float64, which is not looked
    at if sums are `whole`; addresses of units of rows, of units of columns, of what is added to
    columns; rows to be set (address of the first, bytes from row to row, number of the last).
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        (sums, before), units, out = _taken_apart(builder, arguments)
        single = _vector(SINGLE, shape)
        if whole:
            places = _places(builder, shape, sums)
            parts = (_load(builder, place, _vector(PAIR, shape)) for place in places)
            found = (builder.sitofp(own, single) for own in parts)
        else:
            parts = _total(builder, shape, sums, before)
            found = (builder.fptrunc(own, single) for own in parts)
        _finish(builder, shape, found, units, out)
        return NOTHING

    @intrinsic
    def called(_: Any, sums: Any, units: Any, out: Any) -> Any:
        del sums, units, out
        return _numbers(2, 3, 3), generate

    return called


def product_of_few(shape: Shape) -> Any:
    """A function for compiled loops that sets rows to their products with a panel, in their units.

    Arguments: address of rows, a panel, as for `product`; addresses of units of rows and of columns;
    rows to be set, as for `finish`. Sums of all products are in int32.
    """

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        (rows,), (panel, turns), units, out = _taken_apart(builder, arguments)
        sums = [ir.Constant(_vector(PAIR, shape), None)] * (shape.rows * shape.vectors)
        sums = _add(builder, shape, (rows, panel), turns, sums)
        found = (builder.sitofp(own, _vector(SINGLE, shape)) for own in sums)
        _finish(builder, shape, found, units, out)
        return NOTHING

    @intrinsic
    def called(_: Any, rows: Any, panel: Any, units: Any, out: Any) -> Any:
        del rows, panel, units, out
        return _numbers(1, 2, 2, 3), generate

    return called


def _numbers(*counts: int) -> Any:
    """The type of a function of tuples of so many numbers."""
    kinds = (types.UniTuple(types.int64, count) for count in counts)  # type: ignore[no-untyped-call]
    return types.void(*kinds)


def _total(builder: Any, shape: Shape, sums: Any, before: Any) -> Iterator[Any]:
    """Sums and those of earlier parts, float64, given addresses of both."""
    double = _vector(DOUBLE, shape)
    places = _places(builder, shape, sums), _places(builder, shape, before, 8)
    for own, earlier in zip(*places, strict=True):
        part = builder.sitofp(_load(builder, own, _vector(PAIR, shape)), double)
        yield builder.fadd(_load(builder, earlier, double), part)


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
    for number, own in reversed([*enumerate(found)]):
        row, vector = divmod(number, shape.vectors)
        offset = WHOLE(4 * shape.lanes * vector)
        places = (builder.add(at, offset) for at in columns)
        many, *more = (_load(builder, place, _vector(SINGLE, shape)) for place in places)
        own = builder.fmul(builder.fmul(own, ones[row]), many)
        own = builder.fadd(own, more[0]) if more else own
        _store(builder, own, builder.add(to[row], offset))


def _taken_apart(builder: Any, arguments: Any) -> Iterator[list[Any]]:
    return (cgutils.unpack_tuple(builder, own) for own in arguments)  # type: ignore[no-untyped-call]


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


def _least(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def _vector(kind: Any, shape: Shape) -> Any:
    return ir.VectorType(kind, shape.lanes)


def _rows(builder: Any, shape: Shape, rows: Sequence[Any]) -> list[Any]:
    """The addresses of rows."""
    first, step, last = rows
    numbers = (_least(builder, WHOLE(row), last) for row in range(shape.rows))
    return [builder.add(first, builder.mul(step, number)) for number in numbers]


def _places(builder: Any, shape: Shape, first: Any, size: int = 4) -> list[Any]:
    """The addresses of vectors of sums, each of so many bytes."""
    step = size * shape.lanes
    return [builder.add(first, WHOLE(step * k)) for k in range(shape.rows * shape.vectors)]


def _add_pair(builder: Any, shape: Shape, at: Sequence[Any], sums: Sequence[Any]) -> list[Any]:
    """Sums and products of one pair of inputs, given addresses of that of each row and in a panel."""
    rows, line = at
    vector = ir.VectorType(HALF, 2 * shape.lanes)
    starts = (builder.add(line, WHOLE(4 * shape.lanes * k)) for k in range(shape.vectors))
    columns = [_load(builder, start, vector) for start in starts]
    pairs = [_load(builder, row, PAIR) for row in rows]
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
