"""Write a golden case: `python -m tests.golden.make v1 CASE`. An existing case is never touched."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.models.artifact import load
from tec_zarr.models.flex_patch import PatchFlex
from tec_zarr.models.tt_patch import PatchTemporal
from tests.golden.symbols import integers_of
from tests.tiny import (
    RGB,
    elic_artifact,
    neighbour_artifact,
    patch_artifact,
    strided_artifact,
    temporal_artifact,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tec_zarr.models.artifact import Artifact

FOLDER = Path(__file__).parent

Case = tuple[NDArray[Any], dict[str, Any]]


def scene(*shape: int) -> NDArray[np.uint16]:
    """Hills, fields and some noise, 1 to 9000."""
    random = np.random.Generator(np.random.Philox(7))
    y, x = np.indices(shape[-2:]) / 20.0
    fields = 700.0 * ((y * 2).astype(int) * 7 + (x * 3).astype(int) * 5 % 4)
    base = 1500 + 500 * np.sin(y + 2 * np.cos(x)) + fields % 2300
    scale = 1 + 0.2 * np.arange(np.prod(shape[:-2])).reshape(*shape[:-2], 1, 1)
    return np.clip(base * scale % 8000 + random.normal(0, 40, shape), 1, 9000).astype(np.uint16)


def holed(*shape: int) -> NDArray[np.uint16]:
    """A scene with a corner and scattered pixels without data, and a band that is absent."""
    chunk = scene(*shape)
    chunk[..., :20, 30:] = 0
    chunk[..., 0, ::7, ::5] = 0
    chunk[0, 1] = 0
    return chunk


def gapped(*shape: int) -> NDArray[np.uint16]:
    """The same, and a second date that has no data at all."""
    chunk = holed(*shape)
    chunk[1] = 0
    return chunk


def replicated(*shape: int) -> NDArray[np.uint16]:
    """A scene whose bands are constant in squares of 2x2 and 6x6 pixels at some phase."""
    chunk = scene(*shape)
    y, x = np.arange(shape[-2]), np.arange(shape[-1])
    for band, (factor, up, left) in ((1, (2, 0, 1)), (2, (6, 4, 3))):
        rows = np.maximum((y - up) // factor * factor + up, 0)
        columns = np.maximum((x - left) // factor * factor + left, 0)
        chunk[..., band, :, :] = chunk[..., band, :, :][..., rows, :][..., columns]
    chunk[..., :9, 40:60] = 0
    return chunk


def reflectance(*shape: int) -> NDArray[np.float32]:
    """Reflectance of baseline 04.00 with NaN for nodata."""
    values = (scene(*shape) + np.float32(1000)) / np.float32(10000)
    values[..., -9:, :] = np.nan
    return values


CASES: dict[str, Callable[[], Case]] = {
    "patch-one-frame": lambda: (scene(1, 3, 64, 64), {}),
    "patch-three-frames": lambda: (scene(3, 3, 64, 64), {"quality": 30}),
    "patch-edge-tiles": lambda: (scene(1, 3, 70, 150), {"quality": 50, "tile": 64}),
    "patch-some-nodata": lambda: (holed(2, 3, 64, 75), {}),
    "patch-replicated": lambda: (replicated(2, 3, 150, 80), {"tile": 64}),
    "patch-all-nodata": lambda: (np.zeros((1, 3, 512, 512), np.uint16), {}),
    "patch-int16-big-endian": lambda: (
        (scene(3, 80, 64).astype(">i2") - 500).astype(">i2"),
        {"nodata": -9999},
    ),
    "patch-float32": lambda: (
        reflectance(3, 64, 72),
        {"nodata": "NaN", "scale": 10000, "offset": -1000},
    ),
    "patch-fortran-subset": lambda: (
        np.asfortranarray(scene(2, 2, 64, 64)),
        {"bands": ("B04", "B02")},
    ),
    "patch-whole": lambda: (
        np.random.Generator(np.random.Philox(3)).integers(1, 60000, (3, 64, 64)).astype(np.uint16),
        {"measure": True},
    ),
    "strided": lambda: (scene(1, 12, 40, 50), {"model": "strided", "quality": 10, "bands": None}),
    "elic-edge-tiles": lambda: (
        scene(1, 12, 33, 140),
        {"model": "elic", "quality": 10, "bands": None, "tile": 64},
    ),
    "elic-three-frames": lambda: (
        scene(3, 12, 40, 48),
        {"model": "elic", "quality": 10, "bands": None},
    ),
    "neighbours-edge-tiles": lambda: (
        holed(1, 3, 43, 90),
        {"model": "neighbours", "tile": 64},
    ),
    "dated-series": lambda: (
        gapped(2, 4, 3, 24, 40),
        {"model": "dated", "quality": 50},
    ),
    "flexible-series": lambda: (
        gapped(2, 4, 3, 24, 40),
        {"model": "flexible", "quality": 3},
    ),
    "flexible-two-tokens": lambda: (
        scene(2, 3, 43, 90),
        {"model": "flexible", "quality": 2, "tile": 64},
    ),
    "flexible-by-frame": lambda: (
        gapped(2, 4, 3, 24, 40),
        {"model": "flexible", "quality": (3, 3, 1, 2)},
    ),
    "tt-absent-frame": lambda: (
        gapped(4, 12, 24, 40),
        {"model": "tt", "quality": 20, "bands": None},
    ),
    "layered-series": lambda: (
        scene(2, 2, 12, 20, 80),
        {"model": "layered", "quality": 16, "bands": None, "tile": 64},
    ),
    "layered-six-tokens": lambda: (
        holed(3, 12, 32, 40),
        {"model": "layered", "quality": 6, "bands": None},
    ),
    "layered-by-frame": lambda: (
        holed(3, 12, 32, 40),
        {"model": "layered", "quality": (6, 16, 2), "bands": None},
    ),
}

NARROW: dict[str, Any] = {
    "channels": (4, 4, 4), "width": 16, "heads": 2, "layers": (1, 1, 1), "expansion": 1,
    "scales": (0.05, 16.05, 12), "finest": 10,
}  # fmt: skip
"""Sizes of temporal models whose files are small."""

LAYERED: dict[str, Any] = {
    "qualities": tuple(map(float, range(1, 17))), "sent": tuple(range(1, 17)), "budgets": (4, 8, 16)
}  # fmt: skip
"""Layers of places: repacked models have 64 latents at least, and large files."""

ARTIFACTS: dict[str, Callable[[], Artifact]] = {
    "patch": patch_artifact,
    "strided": strided_artifact,
    "elic": elic_artifact,
    "neighbours": neighbour_artifact,
    "dated": partial(neighbour_artifact, PatchTemporal),
    "flexible": partial(neighbour_artifact, PatchFlex),
    "tt": partial(temporal_artifact, **NARROW),
    "layered": partial(temporal_artifact, **NARROW, **LAYERED),
}


def main() -> None:
    """Write one case, or those of the artifacts that all cases share which are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", choices=["v1"])
    parser.add_argument("case", choices=[*CASES, "artifacts"])
    options = parser.parse_args()
    target = FOLDER / options.version / options.case
    target.mkdir(parents=True, exist_ok=options.case == "artifacts")
    if options.case != "artifacts":
        write(target, *CASES[options.case]())
        return
    for name, make in ARTIFACTS.items():
        path = target / f"{name}.tec.safetensors"
        if not path.exists():
            make().save(path)


def write(target: Path, chunk: NDArray[Any], changes: dict[str, Any]) -> None:
    """Write the chunk, what it decodes to, and the integers on the way."""
    os.environ["TEC_ZARR_MODELS"] = str(target.parent / "artifacts")
    options: dict[str, Any] = {"model": "patch", "quality": 40, "bands": RGB} | changes
    artifact = load(target.parent / "artifacts" / f"{options['model']}.tec.safetensors")
    data = encode_chunk(chunk, TecConfig(**{**options, "model": artifact.identity()}))
    (target / "chunk.tec").write_bytes(data)
    pixels = decode_chunk(data)
    arrays: dict[str, Any] = {"pixels": pixels, **integers_of(data)}
    np.savez_compressed(target / "expected.npz", **arrays)


if __name__ == "__main__":
    main()
