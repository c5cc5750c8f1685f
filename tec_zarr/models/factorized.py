"""TEC-FP: a transform of single frames and a prior whose table rows need no float.

The official models use strided convolutions and one row a channel; the bundled one codes patches,
with rows chosen by the magnitudes of integers already decoded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tec_zarr.errors import ModelMismatchError
from tec_zarr.models import loops
from tec_zarr.models.activity import EXACT, Activity
from tec_zarr.models.artifact import VERSION, Artifact
from tec_zarr.models.interpolation import Interpolation
from tec_zarr.models.model import TABLE_FIELDS, Banded, configured, filled
from tec_zarr.models.prior_check import check_order, check_prior
from tec_zarr.models.priors import ActivityPrior, Coded, Grid, Prior, StaticPrior
from tec_zarr.models.sparse import sparse_of
from tec_zarr.models.transforms import MOST_MISSED, PatchTransform, StridedTransform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tec_zarr.models.coding import Coder, Ints

LAYOUTS = ("strided", "patch")

DROPPED_PEAK = 3
"""A tile is coded whole if a table's certainty would drop a symbol of this magnitude ..."""

DROPPED_SHARE = 0.02
"""... or symbols whose squares sum to this share of the number of symbols."""


@dataclass(frozen=True, kw_only=True)
class FactorizedConfig:
    """What the tensors of a TEC-FP artifact do not say by themselves."""

    bands: tuple[str, ...]
    """Bands of a frame, in the order of the network's input."""

    layout: Literal["strided", "patch"]
    """Kind of transform."""

    width: int
    """Channels inside the transform (N of the papers)."""

    latents: int
    """Strided: channels of the latent (M). Patch: leading channels that are grouped again."""

    qualities: tuple[float, ...]
    """The quality that each quality code stands for."""

    reach: int = 0
    """Patch: leading channels that the branches see and correct."""

    depth: int = 0
    """Patch: hidden layers of a branch."""

    groups: tuple[tuple[int, ...], ...] = ()
    """Patch: channels of each context group of the coarse and of the fine map."""

    certain: int = 0
    """Patch: the first row that is not certain."""


class Factorized(Banded):
    """A TEC-FP model, on one device, in evaluation mode."""

    def __init__(self, config: FactorizedConfig) -> None:
        super().__init__(config)
        self.config = config
        bands = len(config.bands)
        self.transform: StridedTransform | PatchTransform
        if config.layout == "strided":
            self.transform = StridedTransform(bands, config.width, config.latents)
        else:
            sizes = (config.width, config.latents, config.reach, config.depth)
            self.transform = PatchTransform(bands, *sizes, len(config.qualities))
        self.wide: Prior
        """In float64, exact whatever precision the process has chosen for float32."""
        self.narrow: Prior
        """In float32, where that is exact."""

    @property
    def stride(self) -> int:
        """Tile sides are padded to a multiple of it, in pixels."""
        return max(self.transform.strides)

    def grid(self, tiles: int, frames: int, size: tuple[int, int]) -> Grid:
        """Latent sizes of a batch of tiles of `size` (y, x) pixels, multiples of `stride`."""
        sizes = tuple((size[0] // s, size[1] // s) for s in self.transform.strides)
        return Grid(tiles, frames, sizes, self.mean.device)

    def analyse(self, frames: Tensor, quality: int, whole: Ints | None = None) -> Coded:
        """Symbols of frames, (tiles, frames, band, y, x) in normalised units.

        All channels if `whole` (tiles,) says so of any tile, or if tiles would suffer without.
        """
        cuts = None if whole is not None and whole.any() else self.wide.cuts(quality)
        maps, missed, turns = self.transform.analysis(frames.flatten(0, 1), quality, cuts)
        if missed is not None:
            much = _misses_much(missed.unflatten(0, frames.shape[:2]))
            whole = much.to("cpu", torch.int32).numpy()
            if whole.any():
                return self.analyse(frames, quality, whole)
        found = self.transform.symbols(maps, quality)
        symbols = tuple(m.unflatten(0, frames.shape[:2]) for m in found)
        return Coded(symbols, np.zeros(len(frames), np.int32) if whole is None else whole, turns)

    def code(self, coder: Coder, coded: Coded | None, grid: Grid, quality: int) -> Coded:
        """Write `coded`, or read it if None; returns what readers see."""
        exact = torch.get_float32_matmul_precision() == "highest"
        seen = (self.narrow if exact else self.wide).code(coder, coded, grid, quality)
        return seen if coded is None else seen._replace(turns=coded.turns)

    def harmed(self, given: Coded, seen: Coded) -> Ints:
        """(tiles,): 1 where what the tables call certain costs too much, or cost too much before.

        `seen` is what `code` made of `given`.
        """
        harmed = given.whole.astype(np.bool_)
        for before, after in zip(given.maps, seen.maps, strict=True):
            peaks, energies = _lost(before, after)
            count = before.shape[1] * before[0, 0, 0].numel()
            sizes = np.array([after.shape[2], before.shape[2] - after.shape[2]]) * count
            harm = (peaks >= DROPPED_PEAK) | (energies > DROPPED_SHARE * sizes)
            harmed |= harm.any(1)
        return harmed.astype(np.int32)

    def synthesise(self, coded: Coded, quality: int) -> Tensor:
        """Frames (tiles, frames, band, y, x) in normalised units, from what readers see."""
        tiles, frames = coded.maps[0].shape[:2]
        maps = tuple(m.flatten(0, 1) for m in coded.maps)
        return self.transform.synthesis(maps, quality, coded.turns).unflatten(0, (tiles, frames))

    def sides(self, coded: Coded) -> list[bytes]:
        """What each tile stores beside its symbols."""
        return self.transform.pack(coded.turns, len(coded.whole))

    def with_sides(self, coded: Coded, sides: Sequence[bytes]) -> Coded:
        """Add what the tiles stored beside their symbols; FormatError if it cannot be."""
        return coded._replace(turns=self.transform.unpack(sides, coded.maps[0].shape[1]))

    @classmethod
    def from_artifact(cls, artifact: Artifact, device: torch.device | None = None) -> Factorized:
        """Build the model; ModelMismatchError if tensors are missing, left over or misshapen."""
        config = _config(artifact.fields["config"])
        if config.depth > len(artifact.tensors):
            raise ModelMismatchError(
                f"{len(artifact.tensors)} tensors make no {config.depth} layers"
            )
        model, integers = filled(lambda: cls(config), artifact, "prior.")
        if config.layout == "patch":
            check_prior(integers, config.groups, len(config.qualities), PatchTransform.group)
            for name in ("transform.order", "transform.lead_order"):
                check_order(name, artifact.tensors[name])
        device = device or torch.device("cpu")
        model.set_priors(integers, device)
        return model.to(device)

    def set_priors(self, integers: Mapping[str, NDArray[Any]], device: torch.device) -> None:
        """Build the prior from its integers by name, in every type that is exact for them."""
        try:
            wide = prior_of(self.config, integers, device, torch.float64)
            narrow = prior_of(self.config, integers, device, torch.float32)
        except KeyError as err:
            raise ModelMismatchError(f"the artifact lacks the tensor {err}") from err
        largest = wide.largest()
        if largest >= EXACT[torch.float64]:
            raise ModelMismatchError("the integers of the artifact's prior are too large")
        self.wide, self.narrow = wide, narrow if largest < EXACT[torch.float32] else wide

    def to_artifact(
        self, integers: Mapping[str, NDArray[Any]], card: Mapping[str, Any], *, half: bool
    ) -> Artifact:
        """Pack the model; `integers` are the prior's tensors, `half` stores matrices as float16."""
        tensors: dict[str, NDArray[Any]] = dict(integers)
        for name, value in self.state_dict().items():
            wide = value.detach().cpu().numpy()
            tensors[name] = wide.astype(np.float16) if half and wide.ndim == 4 else wide
        tensors |= {f"tables.{name}": getattr(self.tables, name) for name in TABLE_FIELDS}
        fields = {"version": VERSION, "family": "fp", "config": asdict(self.config)}
        return Artifact(fields, tensors, card)


def _misses_much(missed: Tensor) -> Tensor:
    """Whether each tile would suffer from a cut, (tiles,), by (tiles, frames, places)."""
    place, mean = MOST_MISSED
    places = missed.flatten(1)
    return (places.amax(1) > place) | (places.mean(1) > mean)


def _lost(given: Tensor, seen: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest magnitude and sum of squares of what readers miss of each tile's symbols, (tiles, 2).

    Of channels that they see, and of those that they do not.
    """
    peaks, energies = np.zeros((2, len(given), 2))
    if loops.lose and given.device.type == "cpu":
        loops.lose(given.numpy(), seen.numpy(), peaks, energies)
        return peaks, energies
    kept, cut = given.tensor_split([seen.shape[2]], 2)
    for place, lost in enumerate((kept - seen, cut)):
        if lost.any():
            flat = lost.flatten(1).double()
            peaks[:, place] = flat.abs().amax(1).cpu().numpy()
            energies[:, place] = flat.square().sum(1).cpu().numpy()
    return peaks, energies


def _config(values: Mapping[str, Any]) -> FactorizedConfig:
    config = configured(FactorizedConfig, values)
    if config.layout not in LAYOUTS:
        raise ModelMismatchError(f"the artifact has layout {config.layout!r}: upgrade tec-zarr")
    return config


def prior_of(
    config: FactorizedConfig,
    integers: Mapping[str, NDArray[Any]],
    device: torch.device,
    dtype: torch.dtype,
) -> Prior:
    """The prior of a configuration, from its integer tensors by name."""
    if config.layout == "strided":
        return StaticPrior(config.latents)
    exact = {name: torch.from_numpy(v).to(device, dtype) for name, v in integers.items()}
    activities = tuple(
        tuple(_activity(exact, f"prior.{level}.{group}.") for group in range(first, len(channels)))
        for level, (first, channels) in enumerate(zip((1, 0), config.groups, strict=True))
    )
    return ActivityPrior(
        groups=config.groups,
        first=_interpolation(exact),
        activities=activities,
        logs=exact["prior.logs"],
        upward=exact["prior.upward"],
        upward_bias=exact["prior.upward_bias"],
        extents=exact["prior.extents"].long(),
        certain=config.certain,
        sparse=sparse_of(
            config.certain, {name.removeprefix("prior."): v for name, v in integers.items()}
        ),
        last=int(exact["prior.last"]),
    )


def _interpolation(exact: Mapping[str, Tensor]) -> Interpolation:
    names = ("gain", "bias", "weight", "hidden_bias", "out")
    gain, bias, weight, hidden_bias, out = (exact[f"prior.0.0.{name}"] for name in names)
    kinds = zip(bias, hidden_bias, strict=True)
    weight = weight[:, :, None, None]
    return Interpolation(gain.long(), tuple(Activity(b, weight, h, out) for b, h in kinds))


def _activity(exact: Mapping[str, Tensor], prefix: str) -> Activity:
    names = ("bias", "weight", "hidden_bias", "out")
    return Activity(*(exact[prefix + name] for name in names))
