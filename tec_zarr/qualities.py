"""Which qualities a configuration asks of a model, step by step. Looks at names: no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tec_zarr.cards import cards
from tec_zarr.errors import ConfigError
from tec_zarr.header import steps_in
from tec_zarr.layout import STEPS
from tec_zarr.releases import releases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tec_zarr.config import TecConfig

FLEXTEC = "flextec"
"""The family whose frames may each have a quality of their own."""

TEMPORAL = ("tt", FLEXTEC)
"""Families that gain by several steps of time in a chunk."""


def steps_of(config: TecConfig) -> int:
    """Steps of time that a chunk should hold: one a quality, or as many as the model gains by."""
    if isinstance(config.quality, tuple):
        return len(config.quality)
    return STEPS if _family(config.model) in TEMPORAL else 1


def check_qualities(config: TecConfig, shape: Sequence[int]) -> None:
    """Raise ConfigError if chunks of this shape (..., band, y, x) cannot have these qualities."""
    count, steps = len(config.qualities), steps_in(shape)
    if isinstance(config.quality, tuple) and count != steps:
        raise ConfigError(
            f"quality has {count} numbers, but chunks are {steps} long on the axis before the bands"
            f" (time): give one for each step, or one for all, or choose chunks of {count} steps"
        )
    if len(set(config.qualities)) > 1 and _family(config.model) not in (None, FLEXTEC):
        able = " and ".join(name for name in (*cards(), *releases()) if _family(name) == FLEXTEC)
        raise ConfigError(
            f"{config.model} has one quality for all frames of a chunk: give one number. {able} can"
            " have one for each step"
        )
    if config.model in releases():
        for quality in config.qualities:
            releases()[config.model].trained_at(quality)


def codes_of(qualities: Sequence[float], config: TecConfig) -> tuple[int, tuple[int, ...]]:
    """The quality code of a chunk, and how far below it that of each step is; () if none is.

    `qualities` are those of the model; ConfigError for others.
    """
    codes = [_code(qualities, quality, config.model) for quality in config.qualities]
    highest = max(codes)
    lower = tuple(highest - code for code in codes)
    return highest, lower if any(lower) else ()


def _family(model: str) -> str | None:
    """The family of a model; None for one that is named by its hash."""
    known = cards().get(model) or releases().get(model)
    return None if known is None else known.family


def _code(qualities: Sequence[float], quality: float, model: str) -> int:
    if quality in qualities:
        return list(qualities).index(quality)
    low, high = min(qualities), max(qualities)
    near = min(qualities, key=lambda known: abs(known - quality))
    raise ConfigError(
        f"{model} has no quality {quality:g}: it has {len(qualities)} from {low:g} to {high:g}, the"
        f" nearest is {near:g}"
    )
