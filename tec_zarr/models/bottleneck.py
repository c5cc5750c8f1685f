"""Integer tables of a factorised prior (Balle et al. 2018, appendix 6.1), the same on any machine.

The distribution function of a channel is a small network; its tables are made once, when a
checkpoint is converted, and are part of the artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tec_zarr.entropy import exact
from tec_zarr.errors import ModelMismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpmath import mpf
    from numpy.typing import NDArray

    from tec_zarr.entropy.tables import Tables

    Floats = NDArray[np.float64]

TAIL = 2.0**-17
"""Symbols below, or above, which there is less than this have no entry."""

SPANS = (32, 256, 2048)
"""How far from the median entries are looked for at most: the first span that leaves no tail."""


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """The distributions of some channels. The logit of x is computed layer by layer.

    x becomes u = softplus(matrix) x + bias, and then u + tanh(factor) tanh(u); the last layer has
    no factor.
    """

    matrices: Sequence[Floats]
    """(channels, outputs, inputs) of each layer."""

    biases: Sequence[Floats]
    """(channels, outputs, 1)."""

    factors: Sequence[Floats]
    """(channels, outputs, 1), of all layers but the last."""

    medians: Floats
    """(channels,): what is subtracted before rounding."""

    def __post_init__(self) -> None:
        sizes = [1, *(m.shape[1] for m in self.matrices)]
        channels = len(self.medians)
        for layer, matrix in enumerate(self.matrices):
            found = [v[layer].shape for v in (self.biases, self.factors) if layer < len(v)]
            if matrix.shape != (channels, sizes[layer + 1], sizes[layer]) or any(
                shape != (channels, sizes[layer + 1], 1) for shape in found
            ):
                raise ModelMismatchError(f"layer {layer} of a factorised prior is misshapen")
        if sizes[-1] != 1 or not len(self.biases) == len(self.matrices) == len(self.factors) + 1:
            raise ModelMismatchError("a factorised prior whose layers do not fit each other")

    def tables(self) -> Tables:
        """One row a channel."""
        wanted = np.arange(len(self.medians))
        rows: dict[int, tuple[Floats, int]] = {}
        for span in SPANS:
            borders = np.arange(-span, span + 2, dtype=np.float64) - 0.5
            inside = self.distribution(borders, wanted)
            for channel, values in zip(wanted.tolist(), inside, strict=True):
                rows[channel] = self._row(channel, values, borders)
            open_ended = (inside[:, 0] > TAIL / 2) | (inside[:, -1] < 1 - TAIL / 2)
            wanted = wanted[open_ended]
            if not len(wanted):
                break
        return exact.stacked([rows[channel] for channel in range(len(self.medians))])

    def distribution(self, places: Floats, channels: NDArray[np.int64]) -> Floats:
        """Probability of values below median + places (n,): (channels, n)."""
        logits = self.medians[channels, None, None] + places[None, None, :]
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            logits = np.logaddexp(matrix[channels], 0) @ logits + bias[channels]
            if layer < len(self.factors):
                logits = logits + np.tanh(self.factors[layer][channels]) * np.tanh(logits)
        result: Floats = np.exp(-np.logaddexp(0, -logits[:, 0]))
        return result

    def _row(self, channel: int, values: Floats, borders: Floats) -> tuple[Floats, int]:
        """Masses of a channel, without its tails, and the first symbol."""
        # A little more than is kept, so that which entries are kept does not depend on floats.
        near = np.flatnonzero((values > TAIL / 2) & (values < 1 - TAIL / 2))
        first, last = (int(near[0]), int(near[-1])) if len(near) else _crossing(values)
        first, last = max(0, first - 1), min(len(values) - 1, last + 1)
        part = slice(first, last + 1)
        points = exact.on_grid(values[part], lambda i: self._exactly(channel, borders[first + i]))
        low, high = int(TAIL * 2**exact.GRID), int((1 - TAIL) * 2**exact.GRID)
        below, above = np.flatnonzero(points <= low), np.flatnonzero(points >= high)
        start = int(below[-1]) if len(below) else 0
        end = int(above[0]) if len(above) else len(points) - 1
        return exact.masses(points[start : end + 1]), int(borders[first + start] + 0.5)

    def _exactly(self, channel: int, place: float) -> mpf:
        """One value of `distribution` with more digits."""
        import mpmath

        values = [mpmath.mpf(float(self.medians[channel])) + mpmath.mpf(place)]
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            weights = [[mpmath.log1p(mpmath.exp(w)) for w in r] for r in _mpf(matrix[channel])]
            sums = [mpmath.fdot(row, values) for row in weights]
            values = [s + b[0] for s, b in zip(sums, _mpf(bias[channel]), strict=True)]
            if layer < len(self.factors):
                factors = (mpmath.tanh(f[0]) for f in _mpf(self.factors[layer][channel]))
                values = [v + f * mpmath.tanh(v) for v, f in zip(values, factors, strict=True)]
        return 1 / (1 + mpmath.exp(-values[0]))


def _crossing(values: Floats) -> tuple[int, int]:
    """The border below the median and the one above it, where all mass is between two."""
    above = min(len(values) - 1, max(1, int((values < 0.5).sum())))
    return above - 1, above


def _mpf(matrix: Floats) -> list[list[mpf]]:
    import mpmath

    return [[mpmath.mpf(float(value)) for value in row] for row in matrix]
