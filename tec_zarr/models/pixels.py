"""Between stored values and what a network sees: normalised units, all bands, padded tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tec_zarr.errors import ConfigError
from tec_zarr.models import squares
from tec_zarr.models.spectrum import completed
from tec_zarr.tiling import padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tec_zarr.header import Replication
    from tec_zarr.models.model import Model


@dataclass(frozen=True, kw_only=True)
class Units:
    """How stored values become normalised units of a model, and back."""

    model: Model
    places: tuple[int, ...]
    """Place of each stored band among the model's bands."""

    scale: float
    offset: float
    """Digital number = stored * scale + offset."""

    series: int = 1
    """Independent series that the frames of a tile are."""

    @classmethod
    def of(
        cls, model: Model, bands: tuple[str, ...], scale: float, offset: float, series: int = 1
    ) -> Units:
        """Raise ConfigError for bands that the model does not code."""
        unknown = [band for band in bands if band not in model.bands]
        if unknown:
            raise ConfigError(
                f"the model codes {', '.join(model.bands)}, but the chunk has "
                f"{', '.join(unknown)}: store those apart, or name the bands with bands=[...]"
            )
        places = tuple(model.bands.index(band) for band in bands)
        return cls(model=model, places=places, scale=scale, offset=offset, series=series)

    def normalised(
        self,
        values: NDArray[np.float32],
        absent: NDArray[np.bool_],
        blocks: Sequence[Sequence[Replication]],
    ) -> Tensor:
        """Stored values (tiles, frames, band, y, x) as (tiles, frames, model band, y', x').

        `values` may be overwritten.
        Replicated bands, as each tile's `blocks` say, become smooth. Absent bands (tiles, frames,
        band) are estimated from the others, as the model's covariance says; y and x are padded to
        the model's stride by their last pixels.
        """
        model, device = self.model, self.model.mean.device
        gain, shift = self._affine()
        stored = torch.from_numpy(values).to(device)
        stored.sub_(shift.view(-1, 1, 1)).div_(gain.view(-1, 1, 1))
        squares.smooth(stored, blocks)
        here = np.zeros((*values.shape[:2], len(model.bands)), np.bool_)
        here[:, :, list(self.places)] = ~absent
        if not here.all() or list(self.places) != list(range(len(model.bands))):
            frames = stored.new_zeros((*here.shape, *values.shape[3:]))
            frames[:, :, list(self.places)] = stored
            stored = completed(
                frames * torch.from_numpy(here).to(device)[..., None, None], here, model.covariance
            )
        return self._padded(stored)

    def chosen(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """The stored bands of normalised frames, cut to `size` (y, x)."""
        cut = frames[..., : size[0], : size[1]]
        if list(self.places) == list(range(frames.shape[2])):
            return cut
        return cut[:, :, list(self.places)]

    def stored(self, frames: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Invert the units of `normalised`: round and clip stored bands to a native `dtype`."""
        gain, shift = self._affine()
        values = torch.addcmul(shift.view(-1, 1, 1), frames, gain.view(-1, 1, 1))
        if dtype.kind == "f":
            return values.cpu().numpy().astype(dtype)
        limits = np.iinfo(dtype)
        whole = values.round_().to(torch.float64 if dtype.itemsize > 2 else torch.float32)
        return whole.clamp_(limits.min, limits.max).cpu().numpy().astype(dtype)

    def _affine(self) -> tuple[Tensor, Tensor]:
        """Gain and shift of each stored band: stored = normalised * gain + shift."""
        places = list(self.places)
        mean, std = self.model.mean[places].double(), self.model.std[places].double()
        return (std / self.scale).float(), ((mean - self.offset) / self.scale).float()

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Size in pixels of what the network sees of a tile."""
        return padded(height, self.model.stride), padded(width, self.model.stride)

    def _padded(self, frames: Tensor) -> Tensor:
        height, width = frames.shape[3:]
        size = self.padded_size(height, width)
        down, right = size[0] - height, size[1] - width
        if not down and not right:
            return frames
        flat = functional.pad(frames.flatten(0, 1), (0, right, 0, down), mode="replicate")
        return flat.unflatten(0, frames.shape[:2])
