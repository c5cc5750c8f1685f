"""TEC-ELIC in patch layout: the bundled one, all rates in one model.

frame -> `transforms.FlatTransform` -> latents in quantisation steps, not rounded
latents -> `neighbours.NeighbourPrior`: mean, scale -> guard -> row -> symbols
mean + shrink * symbols -> `transforms.FlatTransform` -> frame
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tec_zarr.errors import ModelMismatchError
from tec_zarr.models.activity import FIRST_OCTAVE, ROW_UNIT
from tec_zarr.models.artifact import VERSION, Artifact
from tec_zarr.models.model import TABLE_FIELDS, Banded, configured, filled
from tec_zarr.models.neighbours import NeighbourPrior
from tec_zarr.models.prior_check import check_order
from tec_zarr.models.priors import Coded, Grid
from tec_zarr.models.rounding import rounded
from tec_zarr.models.sparse import Sparse, sparse_of
from tec_zarr.models.transforms import LARGEST, FlatTransform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tec_zarr.models.coding import GuardedCoder, Ints

PART = 16
"""Parts of a step in which means are known."""

ROWS = 64
"""Rows of scales, a quarter of an octave apart; the first one is certain, and not used."""

SPARSE = "sparse."
"""What the names of the integers begin with that say how rare symbols are coded."""


@dataclass(frozen=True, kw_only=True)
class PatchElicConfig:
    """What the tensors of the artifact do not say by themselves."""

    bands: tuple[str, ...]
    """Bands of a frame, in the order of the network's input."""

    qualities: tuple[float, ...]
    """The quality that each quality code stands for."""

    width: int
    """Channels inside the branches of the transform."""

    reach: int
    """Leading channels that the branches see and correct."""

    depth: int
    """Hidden layers of a branch."""

    groups: tuple[int, ...]
    """Channels of each group that is forecast from its neighbours, strongest first."""

    others: tuple[int, ...]
    """Channels of each group of the remaining ones."""

    features: int
    """Features of a place in the networks of the prior."""

    weighed: int
    """Leading channels whose neighbours are weighed place by place."""


class PatchElic(Banded):
    """A TEC-ELIC model in patch layout, on one device, in evaluation mode.

    The networks of `prior` run in float64: they choose means and table rows.
    """

    family: ClassVar[str] = "elic-patch"
    options: ClassVar[type[PatchElicConfig]] = PatchElicConfig
    dated: ClassVar[bool] = False
    """Whether forecasts look at earlier dates."""

    def __init__(self, config: PatchElicConfig) -> None:
        super().__init__(config)
        self.config = config
        sizes = (config.width, config.reach, config.depth)
        self.transform = FlatTransform(len(config.bands), *sizes, len(config.qualities))
        own = (config.groups, config.others, config.features, config.weighed)
        self.prior = NeighbourPrior(*own, dated=self.dated)
        self.sparse: Sparse
        """How symbols in rare rows are coded."""

    @property
    def stride(self) -> int:
        """Tile sides are padded to a multiple of it, in pixels."""
        return FlatTransform.patch

    def grid(self, tiles: int, frames: int, size: tuple[int, int]) -> Grid:
        """Size of the latents of tiles of `size` (y, x) pixels, multiples of `stride`."""
        place = (size[0] // self.stride, size[1] // self.stride)
        return Grid(tiles, frames, (place,), self.mean.device)

    def analyse(self, frames: Tensor, quality: int, whole: Ints | None = None) -> Coded:
        """Latents of frames (tiles, frames, band, y, x) in normalised units, all of them."""
        del whole
        latents, turns = self.transform.analysis(frames.flatten(0, 1), quality)
        maps = (latents.unflatten(0, frames.shape[:2]),)
        return Coded(maps, np.ones(len(frames), np.int32), turns)

    def code(self, coder: GuardedCoder, coded: Coded | None, grid: Grid, quality: int) -> Coded:
        """Write what `analyse` made, or read it if None; returns what readers see.

        Maps: symbols (int32), and latents in steps (float32).
        """
        position = self.position(quality)
        talk = Talk(self, coder, grid, position, None if coded is None else coded.maps[0])
        self.prior(talk, grid.tiles * grid.frames, grid.sizes[0], position)
        shape = (grid.tiles, grid.frames, -1, *grid.sizes[0])
        maps = tuple(m.view(shape) for m in talk.maps)
        return Coded(maps, np.ones(grid.tiles, np.int32), () if coded is None else coded.turns)

    def position(self, quality: int) -> Tensor:
        """Where the step of a quality code lies in the span, (1,), in the type of the prior."""
        # In float64 from the start: a logarithm of float32 is not the same everywhere.
        step = self.transform.steps[quality : quality + 1].double()
        return self.transform.position(step).to(self.prior.shrink.table.dtype)

    def harmed(self, given: Coded, seen: Coded) -> Ints:
        """No tile: nothing is left out of any."""
        del seen
        return given.whole

    def synthesise(self, coded: Coded, quality: int) -> Tensor:
        """Frames (tiles, frames, band, y, x) in normalised units, from what readers see."""
        latents = coded.maps[-1]
        frames = self.transform.synthesis(latents.flatten(0, 1), quality, coded.turns)
        return frames.unflatten(0, latents.shape[:2])

    def sides(self, coded: Coded) -> list[bytes]:
        """The rotations of each tile."""
        return self.transform.pack(coded.turns, len(coded.whole))

    def with_sides(self, coded: Coded, sides: Sequence[bytes]) -> Coded:
        """Add the rotations of each tile; FormatError if they are none."""
        return coded._replace(turns=self.transform.unpack(sides, coded.maps[0].shape[1]))

    @classmethod
    def from_artifact(cls, artifact: Artifact, device: torch.device | None = None) -> Self:
        """Build the model; ModelMismatchError if tensors are missing, left over or misshapen."""
        config = configured(cls.options, artifact.fields["config"])
        _check(config, artifact)
        model, integers = filled(lambda: cls(config), artifact, SPARSE)
        check_order("transform.order", artifact.tensors["transform.order"])
        model.sparse = sparse_of(1, {name.removeprefix(SPARSE): v for name, v in integers.items()})
        _check_rows(model.sparse, len(model.tables.sizes))
        model.prior.double()
        return model.to(device or torch.device("cpu"))

    def to_artifact(
        self, integers: Mapping[str, NDArray[Any]], card: Mapping[str, Any]
    ) -> Artifact:
        """Pack the model, matrices as float16; `integers` are those of `sparse`."""
        tensors: dict[str, NDArray[Any]] = {SPARSE + name: v for name, v in integers.items()}
        for name, value in self.state_dict().items():
            plain = value.detach().cpu().float().numpy()
            tensors[name] = plain.astype(np.float16) if plain.ndim > 1 else plain
        tensors |= {f"tables.{name}": getattr(self.tables, name) for name in TABLE_FIELDS}
        fields = {"version": VERSION, "family": self.family, "config": asdict(self.config)}
        return Artifact(fields, tensors, card)


class Part(NamedTuple):
    """What of some maps a stream has."""

    end: int
    """Channels from here on are not sent: they become their means."""

    absent: Tensor | None = None
    """(n,): maps without data."""

    below: tuple[Tensor, ...] = ()
    """The maps of the layer below, as of `Talk`: those of channels that are not coded again."""


class Talk:
    """One batch on its way: turns forecasts into rows and sends symbols; a `mixing.Send`."""

    def __init__(
        self,
        model: PatchElic,
        coder: GuardedCoder,
        grid: Grid,
        position: Tensor,
        given: Tensor | None,
        part: Part | None = None,
    ) -> None:
        """`given` are latents (tiles, frames, c, y, x) to write; they go all if `part` is None."""
        shrink = model.prior.shrink(position)[0]
        self.coder, self.grid, self.sparse, self.shrink = coder, grid, model.sparse, shrink
        self.strong, self.part = model.prior.strong, part or Part(len(shrink))
        self.given = None if given is None else given.flatten(0, 1).flatten(2)
        height, width = grid.sizes[0]
        shape = (grid.tiles * grid.frames, len(shrink), height * width)
        self.maps = (
            torch.zeros(shape, dtype=torch.int32, device=grid.device),
            torch.zeros(shape, device=grid.device),
        )
        """Symbols, and latents for the synthesis, (tiles * frames, c, places)."""
        for own, shown in zip(self.maps, self.part.below, strict=False):
            own.copy_(shown)

    def __call__(
        self, channels: slice, places: Tensor, mean: Tensor | None, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        end, absent, _ = self.part
        row = (scale - FIRST_OCTAVE) * ROW_UNIT
        values = [row] if mean is None else [row, mean * PART]
        flat = torch.cat([v.reshape(self.grid.tiles, -1) for v in values], 1)
        whole = self.coder.guard(flat.double())
        rows, *means = (part.reshape(scale.shape) for part in whole.chunk(len(values), 1))
        rows = rows.clamp(1, ROWS - 1)
        if absent is not None:
            rows = torch.where(absent.view(-1, 1, 1), 0, rows)
        rows[:, max(0, end - channels.start) :] = 0
        known = means[0].double() / PART if means else torch.zeros((), dtype=torch.float64)
        shrink = self.shrink[channels, None]
        symbols = None
        if self.given is not None:
            target = self.given[:, channels].index_select(2, places)
            symbols = self._symbols(target - known, rows, shrink)
        sent = self._sent(symbols, rows, runs=channels.start >= self.strong)
        seen = sent.double()
        self.maps[0][:, channels, places] = sent
        self.maps[1][:, channels, places] = (known + shrink * seen).float()
        return (known + seen).to(scale.dtype), seen.to(scale.dtype)

    def _symbols(self, rest: Tensor, rows: Tensor, shrink: Tensor) -> Tensor:
        """What a writer sends of the distances from the means."""
        steps = rounded(rest, FIRST_OCTAVE + rows / ROW_UNIT, shrink)
        return torch.nan_to_num(steps).clamp_(-LARGEST, LARGEST)

    def _sent(self, symbols: Tensor | None, rows: Tensor, *, runs: bool) -> Tensor:
        """Symbols as readers see them; those that are many and mostly zero as runs."""
        flat = rows.to("cpu", torch.int32).reshape(self.grid.tiles, -1).numpy()
        given = None
        if symbols is not None:
            given = symbols.to("cpu", torch.int32).reshape(flat.shape).numpy()
        seen = self.sparse(self.coder, given, flat) if runs else self.coder(given, flat)
        return torch.from_numpy(seen).to(self.grid.device).view(rows.shape)


def _check(config: PatchElicConfig, artifact: Artifact) -> None:
    """Raise ModelMismatchError for sizes that do not go together, before anything is made."""
    if config.depth > len(artifact.tensors):
        raise ModelMismatchError(f"{len(artifact.tensors)} tensors make no {config.depth} layers")
    inside = len(config.bands) * FlatTransform.patch**2
    if sum(config.groups) + sum(config.others) != inside:
        raise ModelMismatchError(f"groups of channels that are not {inside} together")
    if config.weighed not in np.cumsum(config.groups[:-1]):
        raise ModelMismatchError(f"{config.weighed} channels do not end with one of the groups")


def _check_rows(sparse: Sparse, count: int) -> None:
    """Raise ModelMismatchError for rows of symbols that are not among the `count` there are."""
    rare, counts = len(sparse.chances), sparse.counts
    firsts = (sparse.runs, sparse.rests, sparse.values, int(counts.min(initial=0)))
    ends = (ROWS + 1, sparse.runs + rare, sparse.values + rare, int(counts.max(initial=0)) + 1)
    end = max(*ends, sparse.rests + int(sparse.shifts.max(initial=0)))
    if min(firsts) < 0 or end > count or rare >= ROWS or not len(counts):
        raise ModelMismatchError(f"symbols in rows beyond the {count} of the artifact's tables")
