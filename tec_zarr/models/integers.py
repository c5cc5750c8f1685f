"""Arithmetic of transformers that is the same on every machine, to the last bit.

What machines do differently is the order of sums, and functions such as exp. Here long sums are of
integers that their type holds exactly, so that no order matters; a row of float32 becomes such
integers by its own unit. Functions are polynomials. What is left, single sums, products, quotients
and roots, IEEE 754 rounds in one way.

    row of float32 -> unit, integers -> exact products -> row of float32

Activations have 14 bits. Weights have up to 16, as many as leave sums in int32: processors have
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
from tec_zarr.models.half_loops import PART
from tec_zarr.models.tile_here import GROUP

if TYPE_CHECKING:
    from tec_zarr.models.product_loops import Panels

ACTIVE = 2**13 - 1
"""Largest integer of an activation."""

HEAVY = 261_900
"""Largest sum of magnitudes of a part of a row of weights, before they are rounded: each changes by
half of one at most, and ACTIVE * (HEAVY + PART / 2) < 2**31 with some room for float32."""

LARGEST = 2**15 - 1
"""Largest integer of a weight."""

RANGE = (2.0**-60, 2.0**60)
"""Bounds of the largest value of a row, so that its unit and products of units are normal."""

ERROR = (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""Of the error function, 1.5e-7 off at most: Abramowitz and Stegun 1964, 7.1.26."""

TAIL = np.array([ERROR[0] * math.sqrt(0.5), *(a / 2 for a in ERROR[1:])], np.float32)
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
    numbers[:, : x.shape[1]] = (x / unit[:, None]).round_().clamp_(-largest, largest)
    return Scaled(numbers, unit)


def _room(x: Tensor) -> Tensor:
    """For the integers of rows."""
    rows, count = x.shape
    numbers = torch.empty((rows, count + -count % GROUP), dtype=torch.int16, device=x.device)
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
            numbers, unit = weights(layer.weight.detach())
            if product_loops.multiply is None or numbers.device.type != "cpu":
                layer.integers = Scaled(numbers.double(), unit)
            else:
                parts = (part.numpy() for part in (numbers, unit, layer.bias.detach()))
                layer.integers = product_loops.panels(*parts)


def weights(x: Tensor) -> Scaled:
    """The nearest integers of rows (outputs, n), float32, in the smallest units that are safe."""
    sums = [halves(part.abs()) for part in x.split(PART, 1)]
    bounds = torch.stack(sums).amax(0) * _single(1 / HEAVY), x.abs().amax(1) * _single(1 / LARGEST)
    return _in_units(x, torch.maximum(*bounds).clamp_(*RANGE), LARGEST)


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
    """x * Phi(x) (Hendrycks and Gimpel 2016), 7e-7 off at most."""

    def forward(self, x: Tensor) -> Tensor:
        p, *factors = TAIL.tolist()
        one = torch.ones((), device=x.device)
        t, tail = one / (1 + p * x.abs()), torch.zeros((), device=x.device)
        for a in reversed(factors):
            tail = t * (a + tail)
        tail = tail * faded((x * x * (1 / 128)).clamp_(max=0.5), 6, 6)
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
    weights = (e / unit).round_().clamp_(max=LARGEST).long()
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
