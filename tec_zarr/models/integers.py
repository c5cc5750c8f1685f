"""Arithmetic of transformers that is the same on every machine, to the last bit.

What machines do differently is the order of sums, and functions such as exp. Here long sums are of
integers that their type holds exactly, so that no order matters; a row of float32 becomes such
integers by its own unit. Functions are polynomials. What is left, single sums, products, quotients
and roots, IEEE 754 rounds in one way.

    row of float32 -> unit, integers -> exact products -> row of float32

Integers have up to 16 bits. Rows of activations and of weights are no longer, as vectors, than what
leaves all sums of their products in int32, by the inequality of Cauchy and Schwarz. Processors have
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

if TYPE_CHECKING:
    from tec_zarr.models.product_loops import Panels

LARGEST = 2**15 - 1
"""Largest integer of an activation or a weight."""

LENGTH = 46_200
"""Largest Euclidean length of a row of them, before they are rounded: each changes by half of one,
so that the square of what they have then is below 2**31, for rows of up to `LONGEST`."""

LONGEST = 2**16
"""Integers that a row may have."""

UNITS = (2.0**-75, 2.0**45)
"""Bounds of units: squares of rows in them and products of two of them are normal."""

ERROR = (0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)
"""Of the error function, 3e-7 off at most: Abramowitz and Stegun 1964, 7.1.28."""

TAIL = np.array([a * math.sqrt(0.5) ** k for k, a in enumerate(ERROR, 1)], np.float32)
"""The same of what a normal distribution has beyond x."""

WIDEST = 128
"""Features that a head may have."""

SCORED = 2**12 - 1
"""Largest integer of a query or a key: sums of `WIDEST` products are below 2**31."""

FOUND = 8000
"""Largest integer of a value: 2**18 of them and half a one for each key are below 2**31."""

CERTAIN = 2.0**16
"""Of integers that are added up to the sum of exponentials, the largest."""


class Scaled(NamedTuple):
    """Rows of integers (rows, n) in units (rows,), float32; int16, and a zero makes n even."""

    numbers: Tensor
    unit: Tensor


def limits(largest: int | None = None) -> tuple[np.float32, ...]:
    """Of integers whose products are all added up, or of those up to `largest`.

    The shares of a row's largest value and of its length that are the least unit; bounds of units;
    the largest integer, and the largest where a row is too large for its unit.
    """
    length = LENGTH if largest is None else math.inf
    largest = largest or LARGEST
    few = LENGTH // math.isqrt(LONGEST)
    return tuple(map(np.float32, (1 / largest, 1 / length, *UNITS, largest, few)))


def scaled(x: Tensor, largest: int | None = None) -> Scaled:
    """The nearest integers of rows (rows, n), float32, within `limits`."""
    own, numbers = limits(largest), _room(x)
    if integer_loops.split is not None and _plain(x):
        unit = torch.empty(len(x))
        integer_loops.split(x.numpy(), numbers.numpy(), unit.numpy(), own)
        return Scaled(numbers, unit)
    share_of_largest, share_of_length, least, most, top, few = map(float, own)
    unit = x.abs().amax(1) * share_of_largest
    if share_of_length:
        lengths = halves(x * x).double().sqrt().float()
        unit = torch.maximum(unit, lengths * share_of_length)
    limit = torch.where(unit > most, few, top)[:, None]
    unit = unit.clamp_(least, most)
    whole = (x * (torch.ones_like(unit) / unit)[:, None]).round_()
    numbers[:, : x.shape[1]] = torch.minimum(torch.maximum(whole, -limit), limit)
    return Scaled(numbers, unit)


def _room(x: Tensor) -> Tensor:
    """For the integers of rows."""
    rows, count = x.shape
    numbers = torch.empty((rows, count + count % 2), dtype=torch.int16, device=x.device)
    numbers[:, count:] = 0
    return numbers


class Linear(nn.Linear):
    """x @ weight.T + bias in integers; needs `prepare`."""

    integers: Panels | Scaled

    def of(self, x: Scaled) -> Tensor:
        """The rows (rows, n) of float32 that rows of integers become."""
        multiply, weights = product_loops.multiply, self.integers
        if multiply is None or isinstance(weights, Scaled):
            numbers, unit = cast("Scaled", weights)
            return (x.numbers.double() @ numbers.T).float() * x.unit[:, None] * unit + self.bias
        found = torch.empty((len(x.unit), self.out_features))
        multiply(x.numbers.numpy(), x.unit.numpy(), weights, found.numpy())
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The same of float32 (..., n)."""
        return self.of(scaled(x.flatten(0, -2))).unflatten(0, x.shape[:-1])


def prepare(model: nn.Module) -> None:
    """Make integers of the weights of all linear layers, float32, where they are."""
    for layer in model.modules():
        if isinstance(layer, Linear):
            numbers, unit = scaled(layer.weight.detach())
            if product_loops.multiply is None or numbers.device.type != "cpu":
                layer.integers = Scaled(numbers.double(), unit)
            else:
                parts = (part.numpy() for part in (numbers, unit, layer.bias.detach()))
                layer.integers = product_loops.panels(*parts)


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
        return (apart / spread[:, None] * self.weight + self.bias).view(x.shape)


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
    """x * Phi(x) (Hendrycks and Gimpel 2016), 1e-6 off at most."""

    def forward(self, x: Tensor) -> Tensor:
        z, (*factors, last) = x.abs(), TAIL.tolist()
        tail = torch.full((), last, device=x.device)
        for a in (*reversed(factors), 1):
            tail = a + z * tail
        for _ in range(4):
            tail = tail * tail
        tail = torch.full((), 0.5, device=x.device) / tail
        return x * torch.where(x < 0, tail, 1 - tail)


def faded(t: Tensor, degree: int, squares: int) -> Tensor:
    """exp(-t) for t of float32 from 0 to 0.5 by Taylor's polynomial, then squared so often."""
    e = 1 - t * _single(1 / degree)
    for k in range(degree - 1, 0, -1):
        e = 1 - t * _single(1 / k) * e
    for _ in range(squares):
        e = e * e
    return e


def attended(query: Scaled, keys: Scaled, values: Scaled, known: int) -> Tensor:
    """What queries (n, tokens, heads, d) find, float32 alike; units have no d.

    Keys and values are (n, heads, tokens, d).

    The first query of each sequence sees `known` keys, each later one sees one more, up to all.
    """
    tokens, width = query.numbers.shape[1::2]
    factor = factor_of(width)
    asked, asked_unit = query.numbers.transpose(1, 2), query.unit.transpose(1, 2)
    scores = (asked.double() @ keys.numbers.double().mT).float() * keys.unit[:, :, None]
    places = torch.arange(keys.unit.shape[2], device=keys.unit.device)
    seen = places < known + torch.arange(tokens, device=places.device)[:, None]
    weights, share = weighed(
        scores.masked_fill(~seen, -torch.inf), values.unit, asked_unit * factor
    )
    return ((weights @ values.numbers.double()).float() * share).transpose(1, 2)


def factor_of(width: int) -> float:
    """What scores of heads so wide are multiplied by, over 32."""
    return _single(1 / (32 * math.sqrt(width)))


def weighed(scores: Tensor, units: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of keys (n, heads, queries, keys), integers, and what their sums of values are worth.

    A key counts exp(score * 32 * scale), over that of the best one, times the unit of its value;
    those below exp(-16) do not. Weights have up to 15 bits, and less where they are many.
    """
    best = scores.amax(-1, keepdim=True)
    t = ((best - scores) * scale[..., None]).clamp_(max=0.5)
    e = torch.where(t < 0.5, faded(t, 7, 5), 0)
    whole = (e * CERTAIN).round_().double().sum(-1, keepdim=True)
    e = e * units[:, :, None]
    unit = e.amax(-1, keepdim=True) * _single(1 / LARGEST)
    weights = (e * (torch.ones_like(unit) / unit)).round_().clamp_(max=LARGEST).long()
    total = weights.sum(-1, keepdim=True)
    shift = torch.zeros_like(total)
    for bits in range(18, 24):  # of 256 keys and 15 bits
        shift = shift + (total >> bits > 0).long()
    weights = (weights + ((1 << shift) >> 1)) >> shift
    share = unit * (1 << (shift + 16)).float() / whole.float()
    return weights.double(), share


def _single(x: float) -> float:
    """The nearest number of float32."""
    return float(np.float32(x))


def _plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.is_contiguous()
