"""Building a network takes no more memory than its artifact has tensors for, whatever it claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from tec_zarr.errors import ModelMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

SPARE = 1 << 17
"""Elements of constants that a network makes itself, and that no artifact has."""


class Budget(TorchFunctionMode):
    """While it is entered, torch makes about as many elements as the tensors of an artifact have.

    ModelMismatchError beyond that. (Building on the meta device does the same, but loads a second's
    worth of Python modules for some operations.)
    """

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        self.left = SPARE + 2 * sum(value.size for value in tensors.values())

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what torch returns
        del types
        if func in ELEMENTS and args:
            self.left -= ELEMENTS[func](args)
            if self.left < 0:
                raise ModelMismatchError("the artifact claims larger sizes than its tensors have")
        return func(*args, **kwargs or {})


def _elements(args: tuple[Any, ...]) -> int:
    """Elements of a shape that is given as one argument, or as several."""
    return math.prod(args[0] if isinstance(args[0], Sequence) else args)


ELEMENTS: dict[Callable[..., Any], Callable[[tuple[Any, ...]], int]] = {
    torch.empty: _elements,
    torch.zeros: _elements,
    torch.ones: _elements,
    torch.full: lambda args: math.prod(args[0]),
    torch.eye: lambda args: math.prod(args[:2]) if len(args) > 1 else args[0] ** 2,
    torch.arange: lambda args: args[-1],
}
"""How many elements the functions make that layers are built with."""
