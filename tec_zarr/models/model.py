"""What the rest of the package may ask of any model, and how a configuration leaves an artifact."""

from __future__ import annotations

from copy import copy
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

import torch
from torch import nn

from tec_zarr.entropy.tables import Tables
from tec_zarr.errors import ConfigError, FormatError, ModelMismatchError
from tec_zarr.models.artifact import VERSION, Artifact
from tec_zarr.models.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from tec_zarr.models.coding import GuardedCoder, Ints
    from tec_zarr.models.priors import Coded, Grid

TABLE_FIELDS = ("cdf", "sizes", "offsets")
"""Fields of `Tables`, as tensors of an artifact named `tables.<field>`."""

Config = TypeVar("Config")
Net = TypeVar("Net", bound="Banded")


class Model(Protocol):
    """A model of any family, on one device, in evaluation mode."""

    tables: Tables
    identity: bytes
    """The first 16 bytes of the artifact's hash."""
    mean: Tensor
    std: Tensor
    """(band,): normalised units = (digital numbers - mean) / std."""
    covariance: Tensor
    """(band, band): of normalised units, for bands that are absent; the identity: they are zero."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of a frame, in the order of the network's input."""

    @property
    def qualities(self) -> tuple[float, ...]:
        """The quality that each quality code stands for."""

    @property
    def stride(self) -> int:
        """Tile sides are padded to a multiple of it, in pixels."""

    def layers(self, quality: int) -> tuple[float, ...]:
        """The quality that each layer of a chunk brings, given its quality code."""

    def by_frame(self, lower: Sequence[int]) -> Self:
        """The model of a chunk whose steps lie so many codes below its quality code; none: itself.

        ConfigError if it has one quality for all frames of a chunk.
        """

    def grid(self, tiles: int, frames: int, size: tuple[int, int]) -> Grid:
        """Latent sizes of a batch of tiles of `size` (y, x) pixels, multiples of `stride`."""

    def analyse(self, frames: Tensor, quality: int, whole: Ints | None = None) -> Coded:
        """Latents of frames, (tiles, frames, band, y, x) in normalised units.

        Nothing is left out of the tiles that `whole` (tiles,) names.
        """

    def code(self, coder: GuardedCoder, coded: Coded | None, grid: Grid, quality: int) -> Coded:
        """Write `coded`, or read it if None; returns what readers see.

        `coder` is that of the first layer; it knows those above it.
        """

    def harmed(self, given: Coded, seen: Coded) -> Ints:
        """(tiles,): 1 for tiles to be coded whole, having seen what readers would see."""

    def sides(self, coded: Coded) -> list[bytes]:
        """What each tile stores beside its symbols."""

    def with_sides(self, coded: Coded, sides: Sequence[bytes]) -> Coded:
        """Add what the tiles stored beside their symbols; FormatError if it cannot be."""

    def synthesise(self, coded: Coded, quality: int) -> Tensor:
        """Frames (tiles, frames, band, y, x) in normalised units, from what readers see."""

    @classmethod
    def from_artifact(cls, artifact: Artifact, device: torch.device | None = None) -> Self:
        """Build the model; ModelMismatchError if tensors are missing, left over or misshapen."""


class Options(Protocol):
    """What the configurations of all families have."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of a frame, in the order of the network's input."""

    @property
    def qualities(self) -> tuple[float, ...]:
        """The quality that each quality code stands for."""


class Banded(nn.Module):
    """What models of all families hold: bands and their statistics, tables, identity."""

    tables: Tables
    mean: Tensor
    std: Tensor
    covariance: Tensor
    framewise: bool = False
    """Whether the frames of a chunk may have qualities of their own."""

    lower: tuple[int, ...] = ()
    """How many codes each step of a series lies below the quality code of a chunk; () for none."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.bands, self.qualities = options.bands, options.qualities
        self.identity = bytes(16)
        count = len(options.bands)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))
        self.register_buffer("covariance", torch.eye(count))

    def layers(self, quality: int) -> tuple[float, ...]:
        """The quality that each layer of a chunk brings: there is one."""
        return (self.qualities[quality],)

    def by_frame(self, lower: Sequence[int]) -> Self:
        """The same model for a chunk whose steps lie so many codes below its quality code."""
        if not lower:
            return self
        if not self.framewise:
            raise ConfigError("the model has one quality for all frames of a chunk")
        model = copy(self)
        model.lower = tuple(lower)
        return model

    def code_of(self, quality: int, frame: int) -> int:
        """The quality code of a frame of a tile, or of a step, given that of the chunk."""
        return quality - self.lower[frame % len(self.lower)] if self.lower else quality


class Sideless(Banded):
    """What models share that store nothing beside symbols, and that code all tiles alike."""

    def harmed(self, given: Coded, seen: Coded) -> Ints:
        """No tile: nothing is left out of one that is not left out of all."""
        del seen
        return given.whole

    def sides(self, coded: Coded) -> list[bytes]:
        """Nothing."""
        return [b""] * len(coded.whole)

    def with_sides(self, coded: Coded, sides: Sequence[bytes]) -> Coded:
        """Raise FormatError if there is something."""
        if any(sides):
            raise FormatError("tiles of this model have nothing beside their symbols")
        return coded


def configured(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration from its JSON; ModelMismatchError for unknown, missing or empty options."""
    try:
        config = kind(**{name: _tupled(value) for name, value in values.items()})
    except TypeError as err:
        raise ModelMismatchError(f"the artifact's configuration does not fit: {err}") from err
    for field in fields(cast("Any", kind)):
        value = getattr(config, field.name)
        # What may be nothing has a default that says so.
        if field.default is MISSING and not _is_some(value):
            raise ModelMismatchError(f"the artifact's configuration has {field.name} {value!r}")
    return config


def take_tables(tensors: dict[str, NDArray[Any]]) -> Tables:
    """Entropy tables of an artifact, taken out of its tensors; ModelMismatchError if missing."""
    try:
        return Tables(*(tensors.pop(f"tables.{name}") for name in TABLE_FIELDS))
    except KeyError as err:
        raise ModelMismatchError(f"the artifact lacks the tensor {err}") from err


def restored(make: Callable[[], Net], artifact: Artifact) -> Net:
    """A network with the weights (float32), tables and identity of an artifact.

    ModelMismatchError if tensors are missing, left over or misshapen.
    """
    tensors = dict(artifact.tensors)
    tables = take_tables(tensors)
    weights = {name: torch.from_numpy(value).float() for name, value in tensors.items()}
    try:
        with torch.device("meta"):  # no memory but that of the tensors that are there
            model = make()
        model.load_state_dict(weights, strict=True, assign=True)
    except (RuntimeError, TypeError, ValueError) as err:
        raise ModelMismatchError(f"the artifact's weights do not fit: {err}") from err
    model.tables, model.identity = tables, bytes.fromhex(artifact.identity())[:16]
    return model.eval().requires_grad_(requires_grad=False)


def filled(
    make: Callable[[], Net], artifact: Artifact, prefix: str
) -> tuple[Net, dict[str, NDArray[Any]]]:
    """A network with the weights (float32), tables and identity of an artifact, and its integers.

    Those are the tensors whose names begin with `prefix`. ModelMismatchError if tensors are
    missing, left over or misshapen.
    """
    tensors = dict(artifact.tensors)
    tables = take_tables(tensors)
    integers = {name: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
    weights = {name: torch.from_numpy(value).float() for name, value in tensors.items()}
    with Budget(artifact.tensors):
        model = make()
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as err:
        raise ModelMismatchError(f"the artifact's weights do not fit: {err}") from err
    model.tables, model.identity = tables, bytes.fromhex(artifact.identity())[:16]
    return model.eval().requires_grad_(requires_grad=False), integers


def packed(
    model: Banded, family: str, config: Mapping[str, Any], card: Mapping[str, Any]
) -> Artifact:
    """The artifact of a model, weights as float32."""
    tensors: dict[str, NDArray[Any]] = {
        name: value.detach().cpu().float().numpy() for name, value in model.state_dict().items()
    }
    tensors |= {f"tables.{name}": getattr(model.tables, name) for name in TABLE_FIELDS}
    return Artifact({"version": VERSION, "family": family, "config": config}, tensors, card)


def _is_some(value: object) -> bool:
    """Whether sizes are positive and tuples and texts not empty, all the way down."""
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_some, value))
    return value > 0 if isinstance(value, int) else isinstance(value, float) or bool(value)


def _tupled(value: object) -> object:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
