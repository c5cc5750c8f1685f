"""Training data of all kinds: what is read, in which units, and what is held out."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

from tec_zarr import stack_bands
from tec_zarr.bands import S2L2A
from tec_zarr.errors import ConfigError, TecError
from tec_zarr.train import blocks
from tec_zarr.train.blocks import Block
from tec_zarr.train.data import KEPT, PERIOD, Batches, Crops
from tec_zarr.train.sources import fitting_crop, open_sources
from tests.cubes import dataset, pixels

if TYPE_CHECKING:
    from pathlib import Path

    from tec_zarr.train.scenes import Source

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")


def opened(place: Any, crop: int = 64, **reading: Any) -> tuple[list[Source], list[Source]]:
    return open_sources(place, reading, crop, seed=0)  # type: ignore[arg-type]


def written(path: Path, data: xr.Dataset, side: int = 64) -> Path:
    chunks = (1,) * (data["s2"].ndim - 3) + (data["s2"].shape[-3], side, side)
    own: Any = {"s2": {"chunks": chunks}, "y": {"_FillValue": None}, "x": {"_FillValue": None}}
    data.to_zarr(path, zarr_format=2, encoding=own)
    return path


def test_an_archive_is_read_in_parts_and_as_it_is(tmp_path: Path) -> None:
    data = dataset((3, 12, 512, 512))  # with noise, so that no band is replicated
    data["s2"] += np.random.default_rng(0).integers(1, 3, data["s2"].shape, np.uint16)
    train, spare = opened(written(tmp_path / "a.zarr", data))
    assert all(isinstance(part, Block) for part in (*train, *spare))
    assert len(train) + len(spare) == 3 * 16
    held = {part.group for part in spare if isinstance(part, Block)}
    assert len(held) == 2
    assert not held & {part.group for part in train if isinstance(part, Block)}
    whole = np.stack([part.opened().frames[0] for part in (*train, *spare)])
    assert whole.shape == (48, 12, 128, 128)
    assert sorted(whole.sum((1, 2, 3))) == sorted(
        part.sum() for frame in data["s2"].values.astype(int).clip(1)
        for rows in np.split(frame, 4, 1) for part in np.split(rows, 4, 2)
    )  # fmt: skip


def test_dates_are_held_out_where_there_are_few_places(tmp_path: Path) -> None:
    train, spare = opened(written(tmp_path / "a.zarr", dataset((16, 12, 96, 96)), 96))
    assert (len(train), len(spare)) == (14, 2)
    with pytest.MonkeyPatch.context() as patch:
        warned: list[str] = []
        patch.setattr("tec_zarr.train.sources.log.warning", warned.append)
        train, spare = opened(written(tmp_path / "b.zarr", dataset((1, 12, 96, 96)), 96))
    assert (len(train), len(spare)) == (1, 0)
    assert "too little data" in warned[0]


@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "fill"),
    [("<u2", 1, 0, 0), ("<i2", 1, -1000, -9999), ("<f4", 10000, 0, np.nan), ("<f8", 1, 0, np.nan)],
)
def test_values_become_digital_numbers(
    dtype: str, scale: float, offset: float, fill: float, tmp_path: Path
) -> None:
    numbers = pixels((1, 12, 64, 64)).astype(np.float64).clip(1)
    stored = ((numbers - offset) / scale).astype(dtype)
    stored[..., 10, 20:30] = fill
    data = xr.Dataset(
        {"s2": (("time", "band", "y", "x"), stored, {"_FillValue": stored.dtype.type(fill)})}
    )
    data = data.assign_coords(band=np.array(S2L2A, object))
    data.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    reading: dict[str, Any] = {"scale": scale, "offset": offset}
    (part, *_), _ = opened(tmp_path / "a.zarr", **reading)
    found = part.opened().frames
    expected = numbers.copy()
    expected[..., 10, 20:30] = 0
    assert found.dtype == np.uint16
    assert np.abs(found.astype(float) - expected).max() <= (0.5 if scale > 1 else 0)


def test_scale_and_offset_come_from_the_metadata(tmp_path: Path) -> None:
    data = dataset((1, 12, 64, 64))
    data["s2"].attrs |= {"scale_factor": 1e-4, "add_offset": -0.1}
    (part,), _ = opened(written(tmp_path / "a.zarr", data))
    expected = (data["s2"].values.astype(int) - 1000).clip(1)
    assert (part.opened().frames == np.where(data["s2"].values == 0, 0, expected)).all()
    floats = dataset((1, 12, 64, 64), "<f4")
    with pytest.raises(ConfigError, match="scale=10000"):
        opened(written(tmp_path / "b.zarr", floats))


def test_some_bands_in_any_order_and_those_of_level_1c(tmp_path: Path) -> None:
    data = dataset((1, 12, 64, 64)).isel(band=[7, 3, 1])
    (part,), _ = opened(written(tmp_path / "a.zarr", data))
    assert list(part.places) == [1, 3, 7]
    assert (part.opened().frames[0] == data["s2"].values[0, [2, 1, 0]].clip(1)).all()
    np.save(tmp_path / "l1c.npy", np.ones((13, 64, 64), np.uint16))
    (part,), _ = opened(tmp_path)
    assert list(part.places) == list(range(12))
    assert part.opened().frames.shape == (1, 12, 64, 64)


def test_replicated_bands_are_cut_to_their_squares(tmp_path: Path) -> None:
    fine = {"y": np.arange(120.0), "x": np.arange(120.0)}
    data = pixels((12, 120, 120))
    variables = {}
    for name, band in zip(S2L2A, data, strict=True):
        factor = {"B01": 6, "B09": 6}.get(name, 1 if name in ("B02", "B03", "B04", "B08") else 2)
        coarse = {key: axis.reshape(-1, factor).mean(1) for key, axis in fine.items()}
        variables[name] = xr.DataArray(band[::factor, ::factor], coarse, ("y", "x"))
    parts = [
        xr.Dataset({k: v for k, v in variables.items() if v.shape[0] == n}) for n in (120, 60, 20)
    ]
    image = stack_bands(dict(zip("abc", parts, strict=True))).isel(y=slice(5, 115), x=slice(3, 115))
    np.save(tmp_path / "a.npy", image.values)
    (part,), _ = opened(tmp_path)
    scene = part.opened()
    assert scene.replicated
    assert scene.frames.shape == (1, 12, 109, 109)


def test_folders_of_arrays(tmp_path: Path) -> None:
    for number in range(9):
        np.save(tmp_path / f"{number}.npy", pixels((12, 64, 64)))
    np.savez(tmp_path / "named.npz", data=pixels((2, 4, 64, 64)), bands=S2L2A[1:5])
    train, spare = opened(tmp_path)
    assert (len(train), len(spare)) == (9, 1)
    counts = sorted(len(part.opened().frames) for part in (*train, *spare))
    assert counts == [1] * 9 + [2]


@pytest.mark.parametrize("kind", ["noise", "two", "text", "flat", "five bands", "floats", "no npz"])
def test_files_that_cannot_be_understood_are_named(kind: str, tmp_path: Path) -> None:
    image = np.ones((12, 64, 64), np.uint16)
    if kind == "two":
        np.savez(tmp_path / "a.npz", first=image, second=image)
    elif kind in ("noise", "no npz"):
        (tmp_path / ("a.npz" if kind == "no npz" else "a.npy")).write_bytes(b"\x93NUMPY noise")
    else:
        other = {"text": image.astype("U2"), "flat": image[0], "five bands": image[:5]}
        np.save(tmp_path / "a.npy", other.get(kind, image.astype(np.float32)))
    with pytest.raises(ConfigError):
        opened(tmp_path)


def test_places_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(TecError, match="does not exist"):
        opened(tmp_path / "nowhere")
    dataset((1, 12, 64, 64))[["scl"]].to_zarr(tmp_path / "a.zarr", zarr_format=2)
    with pytest.raises(ConfigError, match="stack_bands"):
        opened(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("size", "unit", "side", "least"),
    [(1000, 512, 512, 64), (1000, 5490, 512, 64), (100, 16, 128, 64), (10980, 1830, 512, 128),
     (300, 7, 128, 64), (70, 64, 128, 64), (64, 64, 64, 64), (130, 128, 128, 64)],
)  # fmt: skip
def test_spans_keep_to_chunks_and_cover_the_axis(
    size: int, unit: int, side: int, least: int
) -> None:
    spans = blocks._spans(size, unit, side, least)
    assert spans[0].start == 0
    assert all(a.stop == b.start for a, b in pairwise(spans))
    assert size - spans[-1].stop < least
    for span in spans:
        assert span.stop - span.start <= max(side, min(unit, size))
        inside = span.start // unit == (span.stop - 1) // unit
        assert inside or (unit <= side and span.start % unit == 0)


def test_crops_fit_into_small_images(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels((4, 12, 100, 120)))
    train, _ = opened(tmp_path, crop=128)
    assert fitting_crop(train, 128, 32) == 96
    assert fitting_crop(train, 64, 32) == 64
    assert fitting_crop(train, 128, 64) == 64
    np.save(tmp_path / "a.npy", pixels((4, 12, 30, 120)))
    with pytest.raises(ConfigError, match="30 pixels are too small"):
        fitting_crop(opened(tmp_path)[0], 128, 32)


class Counted:
    """A source that notes how often it was read."""

    def __init__(self, source: Source) -> None:
        self.source, self.places, self.weight, self.reads = source, source.places, source.weight, 0

    def opened(self) -> Any:
        self.reads += 1
        return self.source.opened()


def test_few_sources_are_read_at_a_time_and_draws_do_not_depend_on_the_past(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "a.npy", pixels((4 * KEPT, 12, 32, 32)))
    train, _ = opened(tmp_path, crop=32)
    counted = [Counted(source) for source in train]
    crops = Crops(counted, 32, seed=1)
    for _ in range(PERIOD):
        crops.draw()
    assert 0 < sum(source.reads > 0 for source in counted) <= KEPT
    assert max(source.reads for source in counted) == 1
    later = [crops.draw().frame for _ in range(3)]
    fresh = Crops(train, 32, seed=1)
    for _ in range(2):
        fresh.go_to(PERIOD + 40)
        again = [fresh.draw().frame for _ in range(3)]
    crops.go_to(PERIOD + 40)
    assert np.array_equal(again, [crops.draw().frame for _ in range(3)])
    assert not np.array_equal(later, again)


def test_data_without_data_are_told(tmp_path: Path) -> None:
    import torch

    np.save(tmp_path / "a.npy", np.zeros((4, 12, 64, 64), np.uint16))
    train, _ = opened(tmp_path)
    batches = Batches(Crops(train, 64, seed=0), torch.zeros(12), torch.ones(12))
    with pytest.raises(ConfigError, match="nodata"):
        batches.draw(1)
