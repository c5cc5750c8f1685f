"""Maps cut into windows of tokens, and what surrounds each window. Maps are (n, channel, y, x)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from tec_zarr.models.layers import gathered, scattered

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 4
"""Places of a window along y and x, all of which become tokens."""

MARGIN = 2
"""Places around a window that belong to its surroundings."""


def to_windows(maps: Tensor) -> Tensor:
    """(n, windows, tokens, channel), row by row; y and x are multiples of SIDE."""
    return gathered(maps, SIDE).permute(0, 3, 4, 1, 2).flatten(1, 2)


def from_windows(windows: Tensor, rows: int) -> Tensor:
    """Invert `to_windows`; `rows` are the windows along y."""
    return scattered(windows.unflatten(1, (rows, -1)).permute(0, 3, 4, 1, 2).contiguous(), SIDE)


def surroundings(maps: Tensor) -> Tensor:
    """Each window with its margin, (n, windows, tokens, channel).

    Maps go on beyond their edges as if mirrored at the last place.
    """
    wide = functional.pad(maps, (MARGIN,) * 4, mode="reflect")
    size = SIDE + 2 * MARGIN
    cut = wide.unfold(2, size, SIDE).unfold(3, size, SIDE)
    return cut.permute(0, 2, 3, 4, 5, 1).flatten(3, 4).flatten(1, 2)


def repacked(tokens: Tensor) -> Tensor:
    """Latent Repacking: token k gets part k of the channels of all tokens, (..., token, channel).

    Its own inverse. Channels are a multiple of tokens.
    """
    parts = tokens.unflatten(-1, (tokens.shape[-2], -1))
    return parts.transpose(-3, -2).flatten(-2)
