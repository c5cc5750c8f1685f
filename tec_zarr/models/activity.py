"""Table rows from the magnitudes of integers that are already decoded: no float takes part.

The scale of a symbol is forecast from its neighbourhood, as image coders have long done (ECECOW,
Wu 1997), here by a small network over the logarithms of magnitudes:

    |earlier groups| -> log table -> 3x3 -> relu -> 1x1 -> + bias[quality, channel] -> row

All weights are integers and no sum can leave the integers that float32 holds exactly (float64 for
models with larger weights), so that matrix products are exact in any order and give the same row on
every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tec_zarr.errors import ModelMismatchError
from tec_zarr.models import loops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LOG_UNIT = 8
"""Steps an octave of the logarithms of magnitudes, and of the hidden units."""

ROW_UNIT = 4
"""Rows an octave of scale."""

FIRST_OCTAVE = -5
"""log2 of the (Laplacian) scale, in quantisation steps, of row 0."""

WEIGHT_BITS = 8
"""Binary digits of the weights below one."""

FINE = 2.0 ** (WEIGHT_BITS + LOG_UNIT.bit_length() - 1)
"""Units of biases in an octave."""

LOG_ENTRIES = 4096
"""Larger magnitudes share the last entry of the log table."""

LOG_LIMIT = 255
"""Log magnitudes and what stands for them in a context are cut to this."""

HIDDEN_LIMIT = 1023
"""Hidden units are cut to this."""

MOST_SPREAD = 0.4
"""Share of magnitudes other than zero up to which single ones take less time than a product."""

EXACT = {torch.float32: 2.0**24, torch.float64: 2.0**53}
"""Integers below it are exact in a type, and so are their sums."""


def log_table() -> Tensor:
    """round(LOG_UNIT * log2(1 + magnitude)), a constant of artifacts (shipped, never rebuilt)."""
    magnitudes = torch.arange(LOG_ENTRIES, dtype=torch.float64)
    return torch.round(LOG_UNIT * torch.log2(1 + magnitudes))


def logarithms(symbols: Tensor, table: Tensor) -> Tensor:
    """Log magnitudes of integer symbols, (n, c, y, x) floats holding integers."""
    if loops.look_up and symbols.device.type == "cpu":
        found = torch.empty(symbols.shape, dtype=table.dtype)
        loops.look_up(symbols.reshape(-1).numpy(), table.numpy(), found.view(-1).numpy())
        return found
    magnitudes = symbols.abs().clamp_(max=len(table) - 1)
    if symbols.device.type == "cpu":  # twice as fast as indexing
        return torch.from_numpy(table.numpy().take(magnitudes.numpy(), mode="clip"))
    return table[magnitudes]


def shifted(total: Tensor, bits: int) -> Tensor:
    """Floor division by a power of two, exact on integers."""
    return torch.floor(total * 2.0**-bits)


def neighbourhood(logs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Hidden units: a 3x3 convolution with replicated borders, in units of LOG_UNIT, cut.

    `logs` are maps (n, c, y, x), to be joined along channels; `weight` is (hidden, all c, 3, 3),
    `bias` (hidden,). A library convolution may choose an algorithm that is not exact. Where few
    magnitudes are not zero, only these are looked at; else one product, then nine shifted sums.
    """
    local = logs[0].device.type == "cpu"
    if loops.spread and local and _filled(logs) < MOST_SPREAD:
        return _spread(logs, weight, bias)
    hidden, channels = weight.shape[:2]
    height, width = logs[0].shape[2:]
    taps = weight.permute(2, 3, 0, 1).reshape(9 * hidden, channels)
    products = (taps @ torch.cat(list(logs), 1).flatten(2)).view(-1, 9, hidden, height, width)
    if loops.gather and local:
        found = torch.empty_like(products[:, 0])
        loops.gather(products.numpy(), bias.numpy(), _limits(found), found.numpy())
        return found
    padded = functional.pad(products.flatten(1, 2), (1, 1, 1, 1), mode="replicate")
    padded = padded.view(-1, 9, hidden, height + 2, width + 2)
    total = bias.view(-1, 1, 1).expand_as(products[:, 0]).clone()
    for tap in range(9):
        y, x = divmod(tap, 3)
        total += padded[:, tap, :, y : y + height, x : x + width]
    return shifted(total, WEIGHT_BITS).clamp_(0, HIDDEN_LIMIT)


def _spread(logs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """What `neighbourhood` returns, from the magnitudes that are not zero; channels-last."""
    hidden, channels = weight.shape[:2]
    count, _, height, width = logs[0].shape
    taps = weight.flip(3).permute(1, 2, 3, 0).reshape(channels, 3, 3 * hidden)
    sums = bias.new_zeros(count, height, (width + 4) * hidden)
    for part, own in zip(logs, taps.split([len(part[0]) for part in logs]), strict=True):
        loops.spread(part.numpy(), own.numpy(), sums.numpy())
    found = bias.new_empty(count, height, width, hidden)
    loops.settle(sums.numpy(), bias.numpy(), _limits(found), found.numpy())
    return found.permute(0, 3, 1, 2)


def _filled(logs: Sequence[Tensor]) -> float:
    """About what share of magnitudes is not zero: every eighth line tells."""
    lines = [part.numpy()[:, :, ::8] for part in logs]
    return sum(map(np.count_nonzero, lines)) / max(1, sum(part.size for part in lines))


def _limits(units: Tensor) -> NDArray[Any]:
    """A hidden unit, and the largest number of them, in the type of `units`."""
    return np.array([2.0**-WEIGHT_BITS, HIDDEN_LIMIT], units.numpy().dtype)


@dataclass(frozen=True, eq=False)
class Activity:
    """The forecast of one group of channels; all tensors are floats holding integers."""

    bias: Tensor
    """(quality codes, channels), in units of 2**-11 octaves above FIRST_OCTAVE."""

    weight: Tensor | None = None
    """(hidden, earlier channels, 3, 3), in units of 2**-WEIGHT_BITS; None: no context."""

    hidden_bias: Tensor | None = None
    """(quality codes, hidden), in units of 2**-11 octaves."""

    out: Tensor | None = None
    """(channels, hidden), in units of 2**-WEIGHT_BITS."""

    def rows(self, logs: Sequence[Tensor], quality: int, channels: int, last: int) -> Tensor:
        """Rows 0..last (int32) of the first `channels` channels; broadcasts to (n, channels, y, x).

        `logs` are log magnitudes of the earlier maps, (n, c, y, x), to be joined along channels;
        maps may be cut to their first channels, the others count as zero.
        """
        bias = self.bias[quality, :channels]
        unit = 2.0 ** (1 - WEIGHT_BITS - (LOG_UNIT // ROW_UNIT).bit_length())
        if self.weight is None or not logs:
            return (bias.view(1, -1, 1, 1) * unit).floor_().clamp_(0, last).int()
        mixed = self._context(logs, quality, channels)
        if loops.to_rows and mixed.device.type == "cpu":
            rows = torch.empty(mixed.shape, dtype=torch.int32)
            places = (len(mixed), channels, -1)
            loops.to_rows(
                mixed.view(places).numpy(), bias.numpy(), unit, last, rows.view(places).numpy()
            )
            return rows
        return mixed.add_(bias.view(1, -1, 1, 1)).mul_(unit).floor_().clamp_(0, last).int()

    def _context(self, logs: Sequence[Tensor], quality: int, channels: int) -> Tensor:
        """What the neighbourhood adds to the bias, (n, channels, y, x)."""
        if self.weight is None or self.hidden_bias is None or self.out is None:
            raise ModelMismatchError("a context network has a weight without a bias or an output")
        weight = self.weight[:, : sum(part.shape[1] for part in logs)]
        hidden = neighbourhood(logs, weight, self.hidden_bias[quality])
        mixed = self.out[:channels] @ hidden.flatten(2)
        return mixed.view(-1, channels, *hidden.shape[2:])

    def largest(self) -> float:
        """Bound on the magnitude of every sum."""
        most = float(self.bias.abs().max())
        if self.weight is not None and self.hidden_bias is not None and self.out is not None:
            most += float(self.out.abs().sum(1).max()) * HIDDEN_LIMIT
            hidden = float(self.weight.abs().sum((1, 2, 3)).max()) * LOG_LIMIT
            most = max(most, hidden + float(self.hidden_bias.abs().max()))
        return most
