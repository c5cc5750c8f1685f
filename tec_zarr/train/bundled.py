"""The bundled kind of TEC-FP: patch layout, all rates in one model, an integer context."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch

from tec_zarr.bands import S2L2A
from tec_zarr.errors import ConfigError
from tec_zarr.models import registry
from tec_zarr.models.factorized import Factorized
from tec_zarr.models.transforms import PatchTransform
from tec_zarr.train.export import QUALITIES, export
from tec_zarr.train.graph import COARSEST, FINEST, UNIT, TrainGraph
from tec_zarr.train.start import start_from_covariances, start_from_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.train.data import Batches
    from tec_zarr.train.graph import Graph


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """Sizes of a model, by default those of the one that ships; a `kinds.Kind`."""

    title: ClassVar[str] = (
        f"TEC-FP for Sentinel-2 L2A, all rates from {QUALITIES[0]:g} to {QUALITIES[-1]:g} dB"
    )
    multiple: ClassVar[int] = PatchTransform.patch * PatchTransform.group
    units: ClassVar[tuple[float, ...]] = (UNIT,) * len(S2L2A)
    drop: ClassVar[float] = 0.25
    earlier: ClassVar[int] = 0
    all_rates: ClassVar[bool] = True
    rates: ClassVar[tuple[float, float]] = (1e-3, 2e-4)
    clip: ClassVar[float] = 60.0

    family: str = field(default="fp", init=False)
    layout: str = field(default="patch", init=False)

    width: int = 192
    """Channels of the nonlinear branches."""

    lead: int = 32
    """Channels of the fine map that are transformed again."""

    reach: int = 256
    """Leading channels that the branches see and correct."""

    depth: int = 4
    """Hidden layers of a branch."""

    coarse: tuple[int, ...] = (12, 52, 64, 128, 256)
    fine: tuple[int, ...] = (32, 64, 128, 512)
    """Channels of the context groups of each map."""

    def sized_like(self, start: str) -> Self:
        found = registry.load(start, torch.device("cpu"))
        if not isinstance(found, Factorized) or found.config.layout != self.layout:
            raise ConfigError(f"training goes on from a bundled TEC-FP, which {start} is not")
        own = found.config
        coarse, fine = own.groups
        inside = replace(self, width=own.width, lead=own.latents, coarse=coarse, fine=fine)
        return replace(inside, reach=own.reach, depth=own.depth)

    def graph(self) -> TrainGraph:
        sizes = (self.width, self.lead, self.reach, self.depth)
        transform = PatchTransform(len(S2L2A), *sizes, qualities=1)
        transform.span.copy_(torch.log2(torch.tensor([FINEST, COARSEST]) / UNIT))
        return TrainGraph(transform, self.coarse, self.fine)

    def begin(self, graph: Graph, start: str | None, batches: Batches) -> None:
        own = cast("TrainGraph", graph)
        if start is None:
            start_from_covariances(own, batches)
        else:
            start_from_model(own, registry.load(start, torch.device("cpu")))

    def artifact(
        self, graph: Graph, batches: Batches, card: Mapping[str, Any], frames: int
    ) -> Artifact:
        return export(cast("TrainGraph", graph), batches, card, frames)

    def publish(self, graph: Graph, folder: Path) -> None:
        """Nothing: no other program reads this kind."""
