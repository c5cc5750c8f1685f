"""The published kinds, TEC-FP and TEC-ELIC in strided layout: one rate a model.

They are trained with CompressAI's entropy models and become state dicts as TerraCodec publishes
them; `models.upstream` makes artifacts of these. Without CompressAI (extra `train`) all of this
module but `network` works.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from tec_zarr.bands import S2L2A, STDS
from tec_zarr.errors import ConfigError, ModelMismatchError
from tec_zarr.models import upstream
from tec_zarr.models.layers import down, up
from tec_zarr.train.graph import Graph, Result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.train.data import Batches

LAST = {"fp": "g_a.6.weight", "elic": "g_a.13.weight"}
"""The tensor that tells the channels of the latents."""


class PublishedGraph(Graph):
    """A model of CompressAI, of frames that are standardised band by band."""

    def __init__(self, net: nn.Module, quality: float) -> None:
        super().__init__()
        self.net, self.quality = net, quality

    def forward(self, frames: Tensor, step: Tensor) -> Result:
        del step
        # Probabilities need single precision, whatever the loop computes in.
        with torch.autocast(frames.device.type, enabled=False):
            found = self.net(frames)
        masses = found["likelihoods"].values()
        bits = torch.stack([-mass.log2().flatten(1).sum(1) for mass in masses]).sum(0)
        # R + lambda * D of the paper: bits per pixel, and a mean over the bands of squared errors.
        return Result(found["x_hat"], bits, bits.new_full(bits.shape, self.quality / len(S2L2A)))

    def settle(self) -> None:
        """Solve for the medians of factorised priors, which rounding is centred on."""
        priors: list[Any] = [part for part in self.net.modules() if hasattr(part, "quantiles")]
        for prior in priors:
            solved = deepcopy(prior)  # which makes tables too: a checkpoint is published without
            solved.update(force=True, update_quantiles=True)
            prior.quantiles.data.copy_(solved.quantiles)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Family and sizes of a model; a `kinds.Kind`."""

    multiple: ClassVar[int] = 64
    units: ClassVar[tuple[float, ...]] = STDS["s2l2a"]
    drop: ClassVar[float] = 0.0
    earlier: ClassVar[int] = 0
    all_rates: ClassVar[bool] = False
    rates: ClassVar[tuple[float, float]] = (1e-4, 5e-5)
    clip: ClassVar[float] = 1.0

    layout: str = field(default="strided", init=False)

    family: str = "fp"
    """"fp" or "elic"."""

    width: int = 128
    """Channels inside (N)."""

    latents: int = 192
    """Channels of the latents (M)."""

    quality: float = 10.0
    """lambda: bits per pixel that a unit of the mean squared error is worth."""

    def __post_init__(self) -> None:
        if self.family == "elic" and self.latents <= 128:
            raise ConfigError(f"TEC-ELIC has more than 128 channels of latents, not {self.latents}")

    @property
    def title(self) -> str:
        return f"TEC-{self.family.upper()} for Sentinel-2 L2A, lambda {self.quality:g}"

    @classmethod
    def of(cls, path: Path, quality: float) -> Self:
        """The kind of a checkpoint file; ModelMismatchError if it is of no kind trained here."""
        state = upstream.read(path)
        family = upstream.family_of(state)
        if family not in LAST:
            raise ModelMismatchError(f"{path} is of the family {family}, which is not trained here")
        width, latents = (state[name].shape[0] for name in ("g_a.0.weight", LAST[family]))
        return cls(family=family, width=width, latents=latents, quality=quality)

    def sized_like(self, start: str) -> Self:
        found = self.of(Path(start), self.quality)
        if found.family != self.family:
            raise ConfigError(f"{start} is of the family {found.family}, not {self.family}")
        return replace(self, width=found.width, latents=found.latents)

    def graph(self) -> PublishedGraph:
        return PublishedGraph(network(self), self.quality)

    def begin(self, graph: Graph, start: str | None, batches: Batches) -> None:
        del batches
        if start is None:
            return
        net = cast("PublishedGraph", graph).net
        state = {name: torch.from_numpy(v) for name, v in upstream.read(Path(start)).items()}
        # Tables are made when the model is packed.
        tables = {name: value for name, value in net.state_dict().items() if not value.numel()}
        try:
            net.load_state_dict(state | tables)
        except RuntimeError as err:
            raise ModelMismatchError(f"{start} does not fit: {err}") from err

    def artifact(
        self, graph: Graph, batches: Batches, card: Mapping[str, Any], frames: int
    ) -> Artifact:
        del batches, frames
        tensors = cast("PublishedGraph", graph).net.state_dict()
        state = {name: upstream.array(value) for name, value in tensors.items()}
        return upstream.convert(state, upstream.Origin("s2l2a", float(self.quality), card))

    def publish(self, graph: Graph, folder: Path) -> None:
        """A checkpoint in CompressAI's format."""
        net = cast("PublishedGraph", graph).net
        torch.save(net.state_dict(), folder / f"lambda-{self.quality:g}.pt")


def network(kind: Published) -> nn.Module:
    """An untrained model of CompressAI for 12 bands; ConfigError if CompressAI is not installed."""
    try:
        with warnings.catch_warnings():  # of packages that CompressAI imports
            warnings.simplefilter("ignore")
            from compressai.models import Elic2022Chandelier, FactorizedPrior
    except ImportError as err:
        raise ConfigError(
            f"{kind.family} in {kind.layout} layout is trained with CompressAI: pip install"
            f" 'tec-zarr[train]' (Python 3.11 or 3.12, numpy below 2): {err}"
        ) from err
    families: dict[str, type[nn.Module]] = {"fp": FactorizedPrior, "elic": Elic2022Chandelier}
    net: Any = families[kind.family](N=kind.width, M=kind.latents)
    net.g_a[0] = down(len(S2L2A), kind.width)
    net.g_s[-1] = up(kind.width, len(S2L2A))
    return net
