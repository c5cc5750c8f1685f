"""Kinds of models that can be trained: what the loop asks of them, and which there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch

from tec_zarr.errors import ConfigError
from tec_zarr.models import registry
from tec_zarr.models.elic_patch import PatchElic
from tec_zarr.train.bundled import Bundled
from tec_zarr.train.elic import BundledElic
from tec_zarr.train.flextec import BundledFlex
from tec_zarr.train.published import Published
from tec_zarr.train.tt import BundledTemporal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.train.data import Batches
    from tec_zarr.train.graph import Graph


class Kind(Protocol):
    """Sizes of a model, as a frozen dataclass, and all in which its training differs."""

    @property
    def family(self) -> str: ...

    @property
    def layout(self) -> str: ...

    @property
    def title(self) -> str:
        """What a listing of models says."""

    @property
    def multiple(self) -> int:
        """Sides of training frames are multiples of it, in pixels."""

    @property
    def units(self) -> tuple[float, ...]:
        """Digital numbers in a normalised unit of each band."""

    @property
    def drop(self) -> float:
        """Share of training frames that some bands are taken from."""

    @property
    def earlier(self) -> int:
        """Earlier dates that come with each training frame."""

    @property
    def all_rates(self) -> bool:
        """Whether frames of a batch are coded at different rates."""

    @property
    def rates(self) -> tuple[float, float]:
        """Usual learning rates: for a new model, and for going on from one."""

    @property
    def clip(self) -> float:
        """Largest norm of the gradient."""

    def sized_like(self, start: str) -> Self:
        """With the sizes of the model that training goes on from; ConfigError if it cannot."""

    def graph(self) -> Graph:
        """An untrained model; ConfigError if something that it needs is not installed."""

    def begin(self, graph: Graph, start: str | None, batches: Batches) -> None:
        """Take over the model `start`, or what the data say."""

    def artifact(
        self, graph: Graph, batches: Batches, card: Mapping[str, Any], frames: int
    ) -> Artifact:
        """Pack a trained model; what it does not know is measured on `frames` training frames."""

    def publish(self, graph: Graph, folder: Path) -> None:
        """Write what other programs than this read, if there is such a thing."""


def chosen(family: str | None, layout: str | None, start: str | None, quality: float) -> Kind:
    """The kind of a family and a layout, by default what `start` is, or the bundled TEC-FP.

    `quality` is the lambda of kinds that have one rate a model. ConfigError for an unknown kind.
    """
    if start is not None and is_checkpoint(start):
        own = Published.of(Path(start), quality)
        if family in (None, own.family) and layout in (None, own.layout):
            return own
        raise ConfigError(f"{start} is {own.family} in {own.layout} layout")
    known: dict[tuple[str, str], Kind] = {
        ("fp", "patch"): Bundled(),
        ("fp", "strided"): Published(family="fp", quality=quality),
        ("elic", "strided"): Published(family="elic", quality=quality),
        ("elic", "patch"): BundledElic(),
        ("tt", "patch"): BundledTemporal(),
        ("flextec", "patch"): BundledFlex(),
    }
    family = family or family_of(start)
    wanted = (family, layout or ("strided" if family == "elic" and start is None else "patch"))
    if wanted not in known:
        names = ", ".join(map(" in layout ".join, known))
        raise ConfigError(f"{' in layout '.join(wanted)} cannot be trained; there is {names}")
    return known[wanted]


def family_of(start: str | None) -> str:
    """The family that a model to go on from has; that of the default model where there is none."""
    found = None if start is None else registry.load(start, torch.device("cpu"))
    if isinstance(found, PatchElic):
        return found.family.removesuffix("-patch")
    return "fp"


def is_checkpoint(start: str) -> bool:
    """Whether training would go on from a file of PyTorch."""
    return Path(start).is_file() and registry.is_checkpoint(Path(start))
