"""The bundled kind of TEC-ELIC: patch layout, the transform of a TEC-FP, a prior with networks."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor

from tec_zarr.bands import MEANS, S2L2A
from tec_zarr.errors import ConfigError
from tec_zarr.models import registry
from tec_zarr.models.elic_patch import ROWS, PatchElic, PatchElicConfig
from tec_zarr.models.factorized import Factorized
from tec_zarr.models.mixing import SCALES
from tec_zarr.models.neighbours import NeighbourPrior
from tec_zarr.models.rounding import rounded
from tec_zarr.models.sparse import sparse_of
from tec_zarr.models.transforms import FlatTransform, PatchTransform
from tec_zarr.train.export import QUALITIES, calibrated_steps
from tec_zarr.train.forecast import laplace_bits
from tec_zarr.train.graph import COARSEST, DEFAULTS, FINEST, HIGH_RATE, UNIT, AllRates, Result
from tec_zarr.train.measured import SPARSE, WHOLE, counted, pmf_of, sparse_rows, tables_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.train.data import Batches
    from tec_zarr.train.graph import Graph

MOST_SHIFT = 9
"""Bits of a run that are coded apart: the rarest rows are hardly used, and had large tables."""


class ElicGraph(AllRates):
    """A TEC-ELIC in patch layout: symbols are rounded in training too, in the order of coding."""

    transform: FlatTransform

    def __init__(self, transform: FlatTransform, prior: NeighbourPrior) -> None:
        super().__init__()
        self.transform, self.prior = transform, prior

    def forward(self, frames: Tensor, step: Tensor) -> Result:
        default = torch.rand(len(frames)) < (DEFAULTS if self.training else 0)
        default = default.to(frames.device)
        latents, rotations = self.transform.analysis_at(frames, step, default)
        position = self.transform.position(step)
        talk = Talk(latents, self.prior.shrink(position))
        self.prior(talk, len(frames), latents.shape[2:], position)
        decoded = self.transform.synthesis_at(talk.decoded(), step, rotations)
        return Result(decoded, talk.bits, HIGH_RATE / step.square())


class Talk:
    """Rounds and counts bits, with gradients; a `mixing.Send`."""

    def __init__(self, latents: Tensor, shrink: Tensor, ends: Tensor | None = None) -> None:
        """Channels of each map from `ends` (n,) on are not sent."""
        self.latents, self.shrink, self.bits = latents, shrink, latents.new_zeros(len(latents))
        self.ends = ends
        self._done: list[tuple[slice, Tensor, Tensor]] = []

    def __call__(
        self, channels: slice, places: Tensor, mean: Tensor | None, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        given = self.latents[:, channels].flatten(2).index_select(2, places)
        mean = torch.zeros_like(given) if mean is None else mean
        rest, shrink = given - mean, self.shrink[:, channels, None]
        symbols = rounded(rest.detach(), scale.detach(), shrink.detach())
        bits = laplace_bits(rest + (symbols - rest).detach(), scale)
        if self.ends is not None:
            own = torch.arange(channels.start, channels.stop, device=scale.device)
            sent = (own < self.ends[:, None])[..., None]
            symbols, bits = symbols * sent, bits * sent
        self.bits = self.bits + bits.sum((1, 2))
        # Where the symbol is zero the mean is all that readers have: it learns to be close.
        known = torch.where(symbols == 0, mean, mean.detach() + symbols * shrink)
        self._done.append((channels, places, known))
        return (mean + symbols).detach(), symbols

    def decoded(self) -> Tensor:
        """Latents (n, c, y, x) as the synthesis gets them."""
        count = self.latents[0, 0].numel()
        parts: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for channels, places, known in self._done:
            parts.setdefault(channels.start, []).append((places, known))
        maps = []
        for _, pairs in sorted(parts.items()):
            places, known = (torch.cat(found, -1) for found in zip(*pairs, strict=True))
            order = torch.empty_like(places)
            order[places] = torch.arange(count, device=places.device)
            maps.append(known.index_select(2, order))
        return torch.cat(maps, 1).view_as(self.latents)


@dataclass(frozen=True, kw_only=True)
class BundledElic:
    """Sizes of a model, by default those of the one that ships; a `kinds.Kind`.

    Only the prior is trained: the transform is that of the model which training goes on from.
    """

    kind: ClassVar[type[PatchElic]] = PatchElic
    title: ClassVar[str] = (
        f"TEC-ELIC for Sentinel-2 L2A, all rates from {QUALITIES[0]:g} to {QUALITIES[-1]:g} dB"
    )
    multiple: ClassVar[int] = PatchTransform.patch * PatchTransform.group
    units: ClassVar[tuple[float, ...]] = (UNIT,) * len(S2L2A)
    drop: ClassVar[float] = 0.05
    earlier: ClassVar[int] = 0
    all_rates: ClassVar[bool] = True
    rates: ClassVar[tuple[float, float]] = (1.5e-3, 5e-4)
    clip: ClassVar[float] = 1.0

    beginning: ClassVar[str] = "tec-fp-s2l2a"
    """The model that training begins with where nothing else is said."""

    first: ClassVar[tuple[float, ...]] = WHOLE
    """Masses of the row behind those of symbols."""

    family: str = field(default="elic", init=False)
    layout: str = field(default="patch", init=False)

    width: int = 192
    reach: int = 256
    depth: int = 4
    """Of the branches, as of the model whose transform is taken."""

    groups: tuple[int, ...] = (4, 12, 16, 32, 64)
    """Channels of each group that is forecast from its neighbours."""

    others: tuple[int, ...] = (96, 160, 384)
    """Channels of each group of the remaining ones."""

    features: int = 96
    """Features of a place in the prior."""

    weighed: int = 16
    """Leading channels whose neighbours are weighed place by place."""

    @property
    def levels(self) -> tuple[float, ...]:
        """PSNR in dB, peak 10000, of each quality code."""
        return QUALITIES

    def sized_like(self, start: str) -> Self:
        found = registry.load(start, torch.device("cpu"))
        if isinstance(found, PatchElic):
            self._check(start, found)
            own, names = found.config, (item.name for item in fields(self) if item.init)
            return replace(self, **{n: getattr(own, n) for n in names if hasattr(own, n)})
        _transform(start)
        return self

    def graph(self) -> ElicGraph:
        transform = FlatTransform(len(S2L2A), self.width, self.reach, self.depth, qualities=1)
        transform.span.copy_(torch.log2(torch.tensor([FINEST, COARSEST]) / UNIT))
        transform.requires_grad_(requires_grad=False)
        return self._graph(transform)

    def begin(self, graph: Graph, start: str | None, batches: Batches) -> None:
        own = cast("ElicGraph", graph)
        start = start or self.beginning
        found = registry.load(start, torch.device("cpu"))
        taken = own.transform.state_dict()
        given = _transform(start).state_dict()
        own.transform.load_state_dict({k: given[k] for k in taken} | {"steps": taken["steps"]})
        if isinstance(found, PatchElic):
            own.prior.load_state_dict(
                found.prior.state_dict(), strict=found.dated == self.kind.dated
            )
        else:
            _settle(own)
            _start_scales(own, batches)

    def artifact(
        self, graph: Graph, batches: Batches, card: Mapping[str, Any], frames: int
    ) -> Artifact:
        own = cast("ElicGraph", graph).eval()
        model = self._model(own, calibrated_steps(own, batches, frames // 8, self.levels))
        model.sparse = sparse_of(1, _named(sparse_rows(np.zeros(0))))
        with torch.inference_mode():
            counts = self._counts(model, batches, frames)
        pmf = [pmf_of(counts[row], row, 1) for row in range(ROWS)]
        chances = np.array([1 - row[len(row) // 2] for row in pmf[1:]])
        integers = sparse_rows(chances[: int((chances < SPARSE).argmin())], MOST_SHIFT)
        model.tables = tables_of(pmf, 1, integers, self.first)
        return model.to_artifact(_named(integers), card)

    def publish(self, graph: Graph, folder: Path) -> None:
        """Nothing: no other program reads this kind."""

    def _check(self, start: str, found: PatchElic) -> None:
        """Refuse to leave out what a model has learned of earlier dates."""
        if found.dated and not self.kind.dated:
            raise ConfigError(f"{start} is a TEC-TT, of which no TEC-ELIC can be trained")

    def _prior(self) -> NeighbourPrior:
        own = (self.groups, self.others, self.features, self.weighed)
        return NeighbourPrior(*own, dated=self.kind.dated)

    def _graph(self, transform: FlatTransform) -> ElicGraph:
        return ElicGraph(transform, self._prior())

    def _counts(self, model: PatchElic, batches: Batches, frames: int) -> NDArray[np.int64]:
        return counted(model, batches, frames)

    def _config(self, reach: int) -> PatchElicConfig:
        return PatchElicConfig(**self._sizes(reach), qualities=self.levels)

    def _sizes(self, reach: int) -> dict[str, Any]:
        names = ("width", "depth", "groups", "others", "features", "weighed")
        return {"bands": S2L2A, "reach": reach} | {name: getattr(self, name) for name in names}

    def _model(self, graph: ElicGraph, steps: Tensor) -> PatchElic:
        model = self.kind(self._config(graph.transform.reach))
        model.transform.load_state_dict(graph.transform.state_dict() | {"steps": steps})
        model.prior.load_state_dict(graph.prior.state_dict())
        model.prior.double()
        model.mean.copy_(torch.tensor(MEANS["s2l2a"]))
        model.std.fill_(UNIT)
        return model.eval().requires_grad_(requires_grad=False)


def _transform(start: str) -> torch.nn.Module:
    """The transform of a bundled model; ConfigError for others."""
    found = registry.load(start, torch.device("cpu"))
    if isinstance(found, PatchElic) or (
        isinstance(found, Factorized) and found.config.layout == "patch"
    ):
        return found.transform
    raise ConfigError(f"training goes on from a TEC-FP or TEC-ELIC in patch layout, not {start}")


def _named(integers: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("prior."): value for name, value in integers.items()}


def _settle(graph: ElicGraph) -> None:
    """Start with averages of near neighbours where a channel is the average of a patch."""
    graph.prior.settle(graph.transform.order[: graph.prior.strong] < len(S2L2A))


@torch.inference_mode()
def _start_scales(graph: ElicGraph, batches: Batches, crops: int = 64) -> None:
    """Begin with the scales that channels of `crops` crops have at each step."""
    bias = graph.prior.others.bias.table
    low, high = graph.transform.span.tolist()
    sums = torch.zeros_like(bias)
    for _ in range(crops):
        frames = batches.draw(1).frames
        for knot, log_step in enumerate(torch.linspace(low, high, len(bias))):
            step, default = torch.exp2(log_step)[None], torch.zeros(1, dtype=torch.bool)
            latents, _ = graph.transform.analysis_at(frames, step, default)
            sums[knot] += latents[:, graph.prior.strong :].abs().mean((0, 2, 3))
    bias.copy_(torch.log2(sums / crops).clamp(*SCALES))
