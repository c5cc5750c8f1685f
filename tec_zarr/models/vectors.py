"""Vectors in LLVM's terms, for numba: no instruction is named, and they are right everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WHOLE, PAIR, HALF = ir.IntType(64), ir.IntType(32), ir.IntType(16)
SINGLE = ir.FloatType()
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


def signature(*counts: int) -> Any:
    """The type of a function of tuples of so many numbers."""
    kinds = (types.UniTuple(types.int64, count) for count in counts)  # type: ignore[no-untyped-call]
    return types.void(*kinds)


def taken_apart(builder: Any, arguments: Any) -> Iterator[list[Any]]:
    """The numbers of each tuple."""
    return (cgutils.unpack_tuple(builder, own) for own in arguments)  # type: ignore[no-untyped-call]


def least(builder: Any, one: Any, other: Any) -> Any:
    """The smaller one of two integers."""
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def of(kind: Any, shape: Shape) -> Any:
    """The type of a vector."""
    return ir.VectorType(kind, shape.lanes)


def rows(builder: Any, shape: Shape, rows: Sequence[Any]) -> list[Any]:
    """The addresses of rows."""
    first, step, last = rows
    numbers = (least(builder, WHOLE(row), last) for row in range(shape.rows))
    return [builder.add(first, builder.mul(step, number)) for number in numbers]


def places(builder: Any, shape: Shape, first: Any) -> list[Any]:
    """The addresses of vectors of sums."""
    step = 4 * shape.lanes
    return [builder.add(first, WHOLE(step * k)) for k in range(shape.rows * shape.vectors)]


def load(builder: Any, address: Any, kind: Any) -> Any:
    """What is at an address, a multiple of four."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def store(builder: Any, value: Any, address: Any) -> None:
    """Set what is at an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def repeated(builder: Any, value: Any, shape: Shape) -> Any:
    """A vector of one value."""
    one = ir.Constant(of(value.type, shape), ir.Undefined)
    one = builder.insert_element(one, value, PAIR(0))
    return builder.shuffle_vector(one, one, ir.Constant(of(PAIR, shape), [0] * shape.lanes))
