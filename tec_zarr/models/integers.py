"""Arithmetic of transformers that is the same on every machine, to the last bit.

What machines do differently is the order of sums, and functions such as exp. Here long sums are of
integers that their type holds exactly, so that no order matters; a row of float32 becomes such
integers by its own unit. Functions are polynomials. What is left, single sums, products, quotients
and roots, IEEE 754 rounds in one way.

    row of float32 -> unit, digits (int8) -> exact products -> row of float32

Activations have 15 bits, weights 14, each as two digits of base 128, so that a product of matrices
is three of int8: processors have units for that which are many times faster than float64. The
product of both lower digits is left out. Loops in machine code do the rest where numba is.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tec_zarr.models import integer_loops

BASE = 128
"""Of the digits of integers. A higher digit counts so many lower ones."""

ACTIVE = 127 * BASE
"""Largest integer of an activation: higher digits are in -127..127, lower ones in -64..64."""

HEAVY = 63 * BASE
"""Largest integer of a weight: processors without exact sums of int8 add pairs in int16, and
2 * 255 * 64 fits."""

RANGE = (2.0**-100, 2.0**100)
"""Bounds of the largest value of a row, so that its unit is a normal number."""

EXACT = 2000
"""Products of digits whose sum float32 holds exactly: 127 * 64 * 2000 < 2**24."""

FEW = 48
"""So few rows are multiplied by all digits at once, more of them not by both lower digits."""

CERTAIN = 2.0**16
"""The weight of the best key, an integer as all weights."""

ERROR = (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""Of the error function, 1.5e-7 off at most: Abramowitz and Stegun 1964, 7.1.26."""

TAIL = np.array([ERROR[0] * math.sqrt(0.5), *(a / 2 for a in ERROR[1:])], np.float32)
"""The same of what a normal distribution has beyond x."""

WIDEST = 128
"""Features that a head may have."""

KEY, KEYS = 2.0**13, 2.0**23
"""Integers of a unit in keys and queries, and the largest: sums of `WIDEST` products are exact."""

VALUE, VALUES = 2.0**19, 2.0**29
"""The same for values, whose sums are over up to 256 keys."""


class Digits(NamedTuple):
    """Rows of integers: high * BASE + low, int8 (rows, n), in units (rows,), float32."""

    high: Tensor
    low: Tensor
    unit: Tensor


def digits(x: Tensor, largest: int = ACTIVE) -> Digits:
    """The nearest integers of rows (rows, n), float32, whose largest one is `largest`."""
    if integer_loops.split is not None and _plain(x):
        rows, count = x.shape
        high, low = torch.empty((2, rows, count), dtype=torch.int8)
        unit = torch.empty(rows)
        arrays = (part.numpy() for part in (x, high, low, unit))
        integer_loops.split(*arrays, np.float32(largest), *map(np.float32, RANGE))
        return Digits(high, low, unit)
    unit = x.abs().amax(1).clamp_(*RANGE) * _single(1 / largest)
    whole = (x / unit[:, None]).round_().clamp_(-largest, largest)
    high = (whole * (1 / BASE)).round_()
    low = whole.sub_(high * BASE)
    return Digits(high.to(torch.int8), low.to(torch.int8), unit)


class Linear(nn.Linear):
    """x @ weight.T + bias in integers; needs `prepare`."""

    integers: _Weights

    def of(self, x: Digits) -> Tensor:
        """The rows (rows, n) of float32 that rows of digits become."""
        weights = self.integers
        if len(x.unit) < FEW:  # reading the weights is what takes time
            first, low = product(torch.cat([x.high, x.low]), weights.both).chunk(2)
            low = low[:, low.shape[1] // 2 :].contiguous()
        else:
            first, low = product(x.high, weights.both), product(x.low, weights.high)
        return _settled(first, low, x.unit, weights)

    def forward(self, x: Tensor) -> Tensor:
        """The same of float32 (..., n)."""
        return self.of(digits(x.flatten(0, -2))).unflatten(0, x.shape[:-1])


class _Weights(NamedTuple):
    both: Tensor
    """Lower digits (n, k), then the higher ones, int8."""

    high: Tensor
    """The higher ones alone."""

    unit: Tensor
    bias: Tensor


def prepare(model: nn.Module) -> None:
    """Make integers of the weights of all linear layers, float32, where they are."""
    for layer in model.modules():
        if isinstance(layer, Linear):
            found = digits(layer.weight.detach().contiguous(), HEAVY)
            both = torch.cat([found.low, found.high])
            unit = found.unit * BASE  # of a product with a higher digit
            own = _Weights(both, both[len(found.high) :], unit, layer.bias.detach())
            layer.integers = own


def product(left: Tensor, right: Tensor) -> Tensor:
    """The product left @ right.T of int8, (m, k) and (n, k), as int32 (m, n); exact."""
    if left.device.type == "cpu" and min(right.shape) >= 8 and _has_products():
        return torch._int_mm(left, right.T)
    return _slowly(left, right)


def _slowly(left: Tensor, right: Tensor) -> Tensor:
    """The same of float32, in parts that it holds exactly."""
    parts = zip(left.split(EXACT, 1), right.split(EXACT, 1), strict=True)
    products = [(a.float() @ b.float().T).to(torch.int32) for a, b in parts]
    return torch.stack(products).sum(0, dtype=torch.int32)


@cache
def _has_products() -> bool:
    """Whether torch multiplies int8 here, and without overflow on the way."""
    left = torch.full((32, 256), -127, dtype=torch.int8)
    right = torch.full((64, 256), 64, dtype=torch.int8)
    right[::2] *= -1
    try:
        found = torch._int_mm(left, right.T)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(found, _slowly(left, right))


def _settled(first: Tensor, low: Tensor, unit: Tensor, weights: _Weights) -> Tensor:
    """Rows of float32 of three products of digits; `first` are those of the activations' high."""
    if integer_loops.settle is not None and first.device.type == "cpu":
        rows = torch.empty(low.shape)
        parts = (first, low, unit, weights.unit, weights.bias, rows)
        integer_loops.settle(*(part.numpy() for part in parts), np.float32(BASE))
        return rows
    mixed, high = first.chunk(2, 1)
    return (high.float() * BASE + (mixed + low).float()) * unit[
        :, None
    ] * weights.unit + weights.bias


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
        if integer_loops.bend is not None and _plain(x):
            found = torch.empty_like(x)
            integer_loops.bend(x.numpy(), found.numpy(), TAIL)
            return found
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


def attended(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    """What queries find, float32 (n, heads, queries, d); all are float64, of `whole` numbers.

    Keys and values are (n, heads, keys, d). `seen` (queries, keys) says what may be attended to.
    """
    scores = query @ keys.mT
    scale = 1 / (KEY * KEY * math.sqrt(query.shape[-1]))
    weights, total = _weighed(scores, scale, seen)
    return ((weights @ values) / total * (1 / VALUE)).float()


def whole(x: Tensor, unit: float, largest: float) -> Tensor:
    """Integers of float32, as float64."""
    return (x * unit).round_().clamp_(-largest, largest).double()


def _weighed(scores: Tensor, scale: float, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights (..., queries, keys), integers up to CERTAIN, and their sums (..., queries, 1)."""
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    best, scale = scores.amax(-1, keepdim=True), scale / 32
    if integer_loops.weigh is not None and _plain(scores):
        total = torch.empty_like(best)
        parts = (scores.view(-1, scores.shape[-1]), best.view(-1), total.view(-1))
        integer_loops.weigh(*(part.numpy() for part in parts), scale)
        return scores, total
    weights = faded(((best - scores) * scale).float().clamp_(max=0.5), 7, 5)
    weights = (weights * CERTAIN).round_().double()
    return weights, weights.sum(-1, keepdim=True)


def _single(x: float) -> float:
    """The nearest number of float32."""
    return float(np.float32(x))


def _plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.is_contiguous()
