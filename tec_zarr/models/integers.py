"""Arithmetic of transformers that is the same on every machine, to the last bit.

What machines do differently is the order of sums, and functions such as exp. Here long sums are of
integers that their type holds exactly, so that no order matters; a row of float32 becomes such
integers by its own unit. Functions are polynomials. What is left, single sums, products, quotients
and roots, IEEE 754 rounds in one way.

    row of float32 -> unit, integers -> exact products -> row of float32

Activations have 12 bits. Weights have up to 14, as many as leave sums in int32: processors have
instructions for products of int16 that are added up there (`product_loops`). Without machine code
the products are of float64. Loops in machine code do the rest where numba is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from tec_zarr.models import integer_loops, product_loops
from tec_zarr.models.tile_here import GROUP

if TYPE_CHECKING:
    from tec_zarr.models.product_loops import Panels

ACTIVE = 2**11 - 1
"""Largest integer of an activation."""

HEAVY = 1_040_000
"""Largest sum of magnitudes of a row of weights, before they are rounded: each of up to `LONGEST`
changes by half of one at most, and ACTIVE * (HEAVY + LONGEST / 2) < 2**31."""

LONGEST = 2**14
"""Inputs that a linear layer may have."""

WEIGHT = 2**13 - 1
"""Largest integer of a weight."""

RANGE = (2.0**-60, 2.0**60)
"""Bounds of the largest value of a row, so that its unit and products of units are normal."""

ERROR = (1, 0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)
"""1 - erf(x) is this polynomial to the power -16, 3e-7 off at most: Abramowitz and Stegun 1964,
7.1.28."""

TAIL = np.array([2 ** (1 / 16 - k / 2) * a for k, a in enumerate(ERROR)], np.float32)
"""The same of what a normal distribution has beyond x."""

WIDEST = 128
"""Features that a head may have."""

SCORED = 2**12 - 1
"""Largest integer of a query or a key: sums of `WIDEST` products are below 2**31."""

FOUND = ACTIVE
"""Largest integer of a value."""

SHARED = 2**20
"""Most that all keys count together: with so many integers, sums of values are below 2**31."""

COUNTED = 2**15 - 1
"""Largest integer that one key counts."""

POWER = np.array([0.69312419, 0.24024099, 0.05590642, 0.00958285], np.float32)
"""1 + x * (the first + x * (the second ...)) is 2**x from -0.5 to 0.5, 3e-6 of it off at most."""

LEAST = -32.0
"""Exponent of two below which keys do not count."""

CERTAIN = 2.0**16
"""Of integers that are added up to the sum of exponentials, the largest."""


class Scaled(NamedTuple):
    """Rows of integers (rows, n), int16, in units (rows,), float32; zeros fill the last GROUP."""

    numbers: Tensor
    unit: Tensor


def scaled(x: Tensor, largest: int = ACTIVE) -> Scaled:
    """The nearest integers of rows (rows, n), float32, whose largest one is `largest`."""
    if integer_loops.split is not None and _plain(x):
        numbers, unit = _room(x), torch.empty(len(x))
        arrays = (part.numpy() for part in (x, numbers, unit))
        integer_loops.split(*arrays, *map(np.float32, (largest, *RANGE)))
        return Scaled(numbers, unit)
    return _in_units(x, x.abs().amax(1).clamp_(*RANGE) * _single(1 / largest), largest)


def _in_units(x: Tensor, unit: Tensor, largest: float) -> Scaled:
    numbers = _room(x)
    numbers[:, : x.shape[1]] = (x * (_one(x) / unit)[:, None]).round_().clamp_(-largest, largest)
    return Scaled(numbers, unit)


def _room(x: Tensor) -> Tensor:
    """For the integers of rows."""
    rows, count = x.shape
    numbers = torch.empty((rows, count + -count % GROUP), dtype=torch.int16, device=x.device)
    numbers[:, count:] = 0
    return numbers


class Product:
    """x @ weight.T + bias in integers; weight is (outputs, n), float32, bias (outputs,)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        numbers, unit = weights(weight.detach())
        self.bias, self.outputs = bias.detach(), len(weight)
        self.integers: Panels | Scaled
        if product_loops.multiply is None or numbers.device.type != "cpu":
            self.integers = Scaled(numbers.double(), unit)
        else:
            parts = (part.numpy() for part in (numbers, unit, self.bias))
            self.integers = product_loops.panels(*parts)

    def of(self, x: Scaled) -> Tensor:
        """The rows (rows, outputs) of float32 that rows of integers become."""
        multiply, weights = product_loops.multiply, self.integers
        if multiply is None or isinstance(weights, Scaled):
            numbers, unit = cast("Scaled", weights)
            return (x.numbers.double() @ numbers.T).float() * x.unit[:, None] * unit + self.bias
        found = torch.empty((len(x.unit), self.outputs))
        multiply(*(part.contiguous().numpy() for part in x), weights, found.numpy())
        return found


class Linear(nn.Linear):
    """x @ weight.T + bias in integers; needs `prepare`."""

    product: Product

    def prepare(self) -> None:
        """Make integers of the weights, float32, where they are."""
        self.product = Product(self.weight, self.bias)

    def of(self, x: Scaled) -> Tensor:
        """The rows (rows, n) of float32 that rows of integers become."""
        return self.product.of(x)

    def forward(self, x: Tensor) -> Tensor:
        """The same of float32 (..., n)."""
        return self.of(scaled(x.flatten(0, -2))).unflatten(0, x.shape[:-1])


def prepare(model: nn.Module) -> None:
    """Make integers of all weights that are multiplied in integers."""
    for layer in model.modules():
        if callable(own := getattr(layer, "prepare", None)):
            own()


def weights(x: Tensor) -> Scaled:
    """The nearest integers of rows (outputs, n), float32, in the smallest units that are safe."""
    bounds = halves(x.abs()) * _single(1 / HEAVY), x.abs().amax(1) * _single(1 / WEIGHT)
    return _in_units(x, torch.maximum(*bounds).clamp_(*RANGE), WEIGHT)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation of rows whose sums are taken by halves, in one order."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if integer_loops.normalise is not None and _plain(rows):
            found = torch.empty_like(rows)
            parts = (rows, self.weight, self.bias, found)
            integer_loops.normalise(*(part.numpy() for part in parts), np.float32(self.eps))
            return found.view(x.shape)
        share = _single(1 / rows.shape[1])
        apart = rows - (halves(rows) * share)[:, None]
        spread = halves(apart * apart) * share + _single(self.eps)
        spread = spread.double().sqrt().float()  # torch's own of float32 may be an ulp off
        inverse = _one(x) / spread
        return (apart * inverse[:, None] * self.weight + self.bias).view(x.shape)


def halves(x: Tensor) -> Tensor:
    """Sums of rows (rows, n): the second half is added to the first, and so on."""
    size = 1 << max(0, x.shape[1] - 1).bit_length()
    while size > 1:
        size //= 2
        head = x[:, :size].clone()
        head[:, : x.shape[1] - size] += x[:, size:]
        x = head
    return x[:, 0]


class Gelu(nn.Module):
    """x * Phi(x) (Hendrycks and Gimpel 2016), 2e-6 off at most."""

    def forward(self, x: Tensor) -> Tensor:
        *factors, t = TAIL.tolist()
        for a in reversed(factors):
            t = a + x.abs() * t
        for _ in range(4):
            t = t * t
        tail = _one(x) / t
        return x * torch.where(x < 0, tail, 1 - tail)


def power(x: Tensor) -> Tensor:
    """2**x of float32 from LEAST to 0: a polynomial of what is left of the nearest integer."""
    whole = x.round()
    x, found = x - whole, torch.zeros_like(x)
    for a in reversed(POWER.tolist()):
        found = x * (a + found)
    return ((1 + found).view(torch.int32) + (whole.int() << 23)).view(torch.float32)


def attended(query: Scaled, keys: Scaled, values: Scaled, known: int) -> Tensor:
    """What queries (n, tokens, heads, d) find, float32 alike; units have no d.

    Keys and values are (n, heads, tokens, d).

    The first query of each sequence sees `known` keys, each later one sees one more, up to all.
    """
    tokens, width = query.numbers.shape[1::2]
    asked, asked_unit = query.numbers.transpose(1, 2), query.unit.transpose(1, 2)
    scores = (asked.double() @ keys.numbers.double().mT).float() * keys.unit[:, :, None]
    places = torch.arange(keys.unit.shape[2], device=keys.unit.device)
    seen = places < known + torch.arange(tokens, device=places.device)[:, None]
    weights, share = weighed(scores, values.unit, asked_unit * factor_of(width), seen)
    return ((weights @ values.numbers.double()).float() * share).transpose(1, 2)


def factor_of(width: int) -> float:
    """What scores of heads so wide are multiplied by, for powers of two."""
    return _single(math.log2(math.e) / math.sqrt(width))


def carried(width: int) -> int:
    """Largest integer of a query that is carried to contexts so wide: sums are below 2**31."""
    return min(ACTIVE, (2**31 - 1) // (ACTIVE * width))


def weighed(scores: Tensor, units: Tensor, scale: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of keys (n, heads, queries, keys), integers, and what their sums of values are worth.

    A key that is seen counts 2**(score * scale), over that of the best one, times the unit of its
    value. Weights have up to 15 bits, and less where keys are many.
    """
    scores = scores.masked_fill(~seen, -torch.inf)
    e = power(((scores - scores.amax(-1, keepdim=True)) * scale[..., None]).clamp_(min=LEAST))
    whole = (e * CERTAIN).round_().double().sum(-1, keepdim=True).float()
    units = torch.where(seen, units[:, :, None], 0)
    top = units.amax(-1, keepdim=True)
    most = (SHARED // seen.sum(-1, keepdim=True)).clamp_(max=COUNTED).float()
    weights = torch.minimum((e * (units * (most / top))).round_(), most)
    return weights.double(), top / most * (CERTAIN * _one(e) / whole)


def _single(x: float) -> float:
    """The nearest number of float32."""
    return float(np.float32(x))


def _one(x: Tensor) -> Tensor:
    """For quotients: torch would take a number's from an inverse of its own."""
    return torch.ones((), device=x.device)


def _plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.is_contiguous()
