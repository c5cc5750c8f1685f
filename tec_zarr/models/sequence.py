"""The entropy model of TEC-TT and FlexTEC: what came before tells mean and scale of each token.

    last two frames -> surroundings -> `past`, each apart -> `joint` ----+
    tokens of this window so far ------------------------------> `decoder` -> features
    features -> mean, scale -> guard -> table row -> symbols of the next token

Mentzer et al., VCT (NeurIPS 2022). Windows go in parallel, their tokens in sequence. A token that
is not sent becomes the forecast, its mean rounded, for writers and readers alike. The networks are
between bitstream and integers: they compute the same on every machine (`integers`), up to the last
logarithm, and latents are integers as soon as known.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from tec_zarr.models.integers import LayerNorm, Linear
from tec_zarr.models.priors import Coded
from tec_zarr.models.transformer import EPSILON, Decoder, Encoder
from tec_zarr.models.windows import MARGIN, SIDE, from_windows, repacked, surroundings, to_windows
from tec_zarr.runtime import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from tec_zarr.models.coding import GuardedCoder
    from tec_zarr.models.priors import Grid
    from tec_zarr.models.temporal import TemporalConfig
    from tec_zarr.models.transformer import Memory

TOKENS = SIDE**2
"""Of a window."""

AROUND = (SIDE + 2 * MARGIN) ** 2
"""Tokens of a window and its margin, in a past frame."""

LATENT_SHARE = 1 / 35
"""What latents are multiplied by before they are embedded: upstream's _LATENT_NORM_FAC."""

FINE = 100
"""Means are known in this part of a quantisation step."""

AT_ONCE = 256
"""Tokens that go through an encoder together: what they need stays near the processor."""


class SequencePrior(nn.Module):
    """Codes integer latents frame by frame, each given the two before it."""

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        self.config = config
        width, latents, shape = config.width, config.latents, (config.heads, config.expansion)
        self.start, self.first = (nn.Parameter(torch.zeros(latents)) for _ in range(2))
        self.embed_past, self.embed = (Linear(latents, width) for _ in range(2))
        self.norm = LayerNorm(width, EPSILON)
        self.place_past = nn.Parameter(torch.zeros(AROUND, width))
        self.place_joint = nn.Parameter(torch.zeros(2 * AROUND, width))
        self.place = nn.Parameter(torch.zeros(TOKENS, width))
        past, joint, decoder = config.layers
        self.past, self.joint = Encoder(past, width, *shape), Encoder(joint, width, *shape)
        self.decoder = Decoder(decoder, width, *shape)
        self.mean, self.scale = (_head(width, latents) for _ in range(2))

    def code(self, coder: GuardedCoder, latents: Tensor | None, grid: Grid, sent: Tensor) -> Coded:
        """Write latents (tiles, frames, c, y, x), int32, or read them if None.

        `sent` says which tokens are in the stream: (tiles, frames, windows, tokens), or what
        broadcasts to it. The maps returned are the latents as readers see them and, in float32,
        features (tiles, frames, width, y, x); both are zero in absent frames.

        Context is what a reader of the first layer sees, so that layers above it, which `coder`
        knows, can be left out.
        """
        walk = _Walk(self, coder, grid)
        given = None if latents is None else walk.by_step(self.windows_of(latents.flatten(0, 1)))
        asked = sent.expand(grid.tiles, grid.frames, walk.windows, TOKENS)
        asked = walk.by_step(asked.flatten(0, 1))
        done: list[tuple[Tensor, Tensor]] = []
        for step in range(walk.steps):
            base, line = walk.code(step, None if given is None else given[:, step], asked[:, step])
            done.append((self.maps_of(line.tokens, grid), self.maps_of(line.features, grid)))
            if step + 1 < walk.steps:
                walk.remember(step, self.maps_of(base.tokens, grid))
        maps = (torch.stack(own, 1) for own in zip(*done, strict=True))
        maps = (m.reshape(grid.tiles, grid.frames, *m.shape[2:]) for m in maps)
        return Coded(tuple(maps), np.ones(grid.tiles, np.int32))

    def windows_of(self, latents: Tensor) -> Tensor:
        """Tokens (n, windows, tokens, c) of maps (n, c, y, x)."""
        tokens = to_windows(latents)
        return repacked(tokens) if self.config.repacked else tokens

    def maps_of(self, tokens: Sequence[Tensor], grid: Grid) -> Tensor:
        """Invert `windows_of`, given each token, (n * windows, c), of any number of maps."""
        windows = torch.stack(list(tokens), 1)
        windows = repacked(windows) if self.config.repacked else windows
        rows, columns = (side // SIDE for side in grid.sizes[0])
        return from_windows(windows.unflatten(0, (-1, rows * columns)), rows)

    def encoded(self, latents: Tensor) -> Tensor:
        """What past frames (n, c, y, x) tell each window: (n * windows, tokens around, width)."""
        around = surroundings(latents.float() * LATENT_SHARE).flatten(0, 1)
        around = repacked(around) if self.config.repacked else around
        return _in_parts(
            lambda x: self.past(self.norm(self.embed_past(x)) + self.place_past), around
        )

    def context(self, older: Tensor, newer: Tensor) -> Tensor:
        """What two past frames tell together: (windows, 2 * tokens around, width)."""
        both = torch.cat([older, newer], 1)
        return _in_parts(lambda x: self.joint(x + self.place_joint), both)

    @cached_property
    def beginning(self) -> tuple[Tensor, Tensor]:
        """Where a series begins, `encoded` and as `context`: one window, as all are alike."""
        start = self.encoded(self.start.view(1, -1, 1, 1).expand(-1, -1, SIDE, SIDE))
        return start, self.context(start, start)

    def features(self, before: Tensor, index: int, memories: list[Memory]) -> Tensor:
        """Features (windows, tokens, width) of tokens from `index` on.

        `before` (windows, tokens, c) is what came before each of them.
        """
        embedded = self.norm(self.embed(before.float() * LATENT_SHARE))
        return self.decoder(embedded + self.place[index : index + before.shape[1]], memories)

    def steps(self, features: Tensor) -> Tensor:
        """What is rounded: places among the scales, hundredths of means; (windows, 2, c).

        Half a hundredth is taken off, so that the nearest integer is the one below the mean: the
        parts of a step and its nearest integer then have borders in common.
        """
        heads = self.scale, self.mean
        scale, mean = side_by_side(lambda head: head(features).double(), heads)
        return torch.stack([self.config.place_of(scale), FINE * mean - 0.5], 1)


@dataclass
class _Line:
    """What is known of one frame of each series, token by token."""

    there: Tensor
    """(windows,): whether they have data."""

    memories: list[Memory]
    before: Tensor
    """The last token (windows that are there, c)."""

    tokens: list[Tensor] = field(default_factory=list)
    """(windows, c) each."""

    features: list[Tensor] = field(default_factory=list)
    """(windows, width) each."""

    def add(self, token: Tensor, seen: Tensor) -> None:
        """The next token, and its features where there is data."""
        self.tokens.append(token)
        self.features.append(seen.new_zeros((len(token), seen.shape[1])))
        self.features[-1][self.there] = seen
        self.before = token[self.there]

    def copy(self) -> _Line:
        """One to go on with while this one stays."""
        memories = [memory.copy() for memory in self.memories]
        return replace(self, memories=memories, tokens=[*self.tokens], features=[*self.features])


class _Walk:
    """A batch on its way through time. Windows of all its tiles and series go together."""

    def __init__(self, prior: SequencePrior, coder: GuardedCoder, grid: Grid) -> None:
        self.prior, self.tiles = prior, grid.tiles
        self.coders = (coder, *coder.above)
        self.windows = grid.sizes[0][0] * grid.sizes[0][1] // TOKENS
        self.steps = grid.frames // grid.series
        series, device = grid.tiles * grid.series, grid.device
        self.present = torch.ones((series, self.steps), dtype=torch.bool, device=device)
        if grid.absent is not None:
            self.present &= ~torch.from_numpy(grid.absent).to(device).view(series, -1)
        self.bins = torch.tensor(prior.config.bins, device=device)
        count = series * self.windows
        self.older = self.newer = prior.beginning[0].expand(count, -1, -1)
        self.fresh = torch.ones(count, dtype=torch.bool, device=device)

    def by_step(self, frames: Tensor) -> Tensor:
        """Frames (tiles * frames, windows, ...) as (tiles * series, steps, windows, ...)."""
        return frames.unflatten(0, (-1, self.steps))

    def code(self, step: int, given: Tensor | None, sent: Tensor) -> tuple[_Line, _Line]:
        """One frame of each series, as the first layer alone shows it and as all layers do.

        Each layer goes on where the tokens of the one below it end, and forecasts those above.
        """
        there = self._there(step)
        count = int(there.sum())
        memories = self.prior.decoder.memories(self._context(there), count, TOKENS)
        line = _Line(there, memories, self.prior.first.expand(count, -1))
        given = None if given is None else given.flatten(0, 1)
        sent = sent.flatten(0, 1) & there[:, None]
        shown = []
        for coder, stop in zip(self.coders, self.prior.config.budgets, strict=False):
            self._extend(line, coder, given, sent[:, :stop])
            shown.append(line.copy())
            self._extend(shown[-1], coder, given, torch.zeros_like(sent))
        return shown[0], shown[-1]

    def remember(self, step: int, latents: Tensor) -> None:
        """Take the frames of a step, (series, c, y, x), for the ones after it."""
        there = self._there(step)
        new, old = self.newer.clone(), self.older.clone()
        new[there] = self.prior.encoded(latents[self.present[:, step]])
        old[there] = torch.where(self.fresh[there, None, None], new[there], self.newer[there])
        self.older, self.newer, self.fresh = old, new, self.fresh & ~there

    def _there(self, step: int) -> Tensor:
        """Whether each window has data."""
        return self.present[:, step].repeat_interleave(self.windows)

    def _context(self, there: Tensor) -> Tensor:
        if bool(self.fresh[there].all()):
            return self.prior.beginning[1]
        return self.prior.context(self.older[there], self.newer[there])

    def _extend(self, line: _Line, coder: GuardedCoder, given: Tensor | None, sent: Tensor) -> None:
        """Code further tokens of a frame, as many as `sent` (windows, tokens) tells about.

        A writer need not wait for tokens that are sent: they and the next one go together.
        """
        whole = sent[line.there].all(0).tolist()
        while (begin := len(line.tokens)) < sent.shape[1]:
            before, end = [line.before], begin + 1
            while given is not None and end < sent.shape[1] and whole[end - 1]:
                before.append(given[line.there, end - 1])
                end += 1
            features = self.prior.features(torch.stack(before, 1), begin, line.memories)
            for index, seen in enumerate(features.transpose(0, 1).contiguous(), begin):
                target = None if given is None else given[:, index]
                line.add(self._code(coder, target, seen, line.there, sent[:, index, None]), seen)

    def _code(
        self, coder: GuardedCoder, target: Tensor | None, seen: Tensor, there: Tensor, sent: Tensor
    ) -> Tensor:
        """One token (windows, c) of each window, given the features of those that are `there`."""
        steps = self.prior.steps(seen)
        values = torch.zeros((len(there), *steps.shape[1:]), dtype=torch.float64)
        values = values.to(seen.device)
        values[there] = steps
        whole = coder.guard(values.view(self.tiles, -1)).view(values.shape)
        place, mean = whole[:, 0].long().clamp_(0, len(self.bins) - 1), whole[:, 1]
        # Below the mean if the token is sent, next to it if it is not: integers all the way.
        shift = (mean + torch.where(sent, 0, FINE // 2)).div(FINE, rounding_mode="floor")
        part = (mean % FINE) * self.bins[place] // FINE
        rows = torch.where(sent, self._firsts[place] + part, self.bins.sum())
        symbols = None if target is None else torch.where(sent, target - shift, 0)
        return self._coded(coder, symbols, rows) + shift

    @property
    def _firsts(self) -> Tensor:
        """The first table row of each scale."""
        return self.bins.cumsum(0) - self.bins

    def _coded(self, coder: GuardedCoder, symbols: Tensor | None, rows: Tensor) -> Tensor:
        flat = rows.to("cpu", torch.int32).view(self.tiles, -1).numpy()
        given = (
            None if symbols is None else symbols.to("cpu", torch.int32).reshape(flat.shape).numpy()
        )
        return torch.from_numpy(coder(given, flat)).to(rows.device).view(rows.shape)


def _head(width: int, latents: int) -> nn.Sequential:
    return nn.Sequential(
        Linear(width, width), nn.LeakyReLU(),
        Linear(width, width), nn.LeakyReLU(),
        Linear(width, latents),
    )  # fmt: skip


def _in_parts(network: Callable[[Tensor], Tensor], windows: Tensor) -> Tensor:
    """What a network makes of windows, some at a time; the last ones by halves, as threads wait."""
    threads = torch.get_num_threads()
    size = max(1, min(AT_ONCE // windows.shape[1], -(-len(windows) // threads)))
    whole = max(0, len(windows) - 2 * size * (threads - 1))
    begins = [*range(0, whole, size), *range(whole, len(windows), max(1, size // 2))]
    return torch.cat(side_by_side(network, windows.tensor_split(begins[1:])))
