from __future__ import annotations

from typing import TYPE_CHECKING

import dask.array
import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

from tec_zarr import stack_bands
from tec_zarr.errors import ConfigError
from tec_zarr.stacking import band_of

if TYPE_CHECKING:
    from tests.cubes import Whatever

EOPF = {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": 0}


def group(step: int, bands: str) -> xr.Dataset:
    """Bands of an area of 120 x 120 m, packed as EOPF products are."""
    side = 120 // step
    centres = (np.arange(side) + 0.5) * step
    names = bands.split()
    images = {
        name: (("y", "x"), (100 * at + np.arange(side**2)).reshape(side, side).astype("u2"))
        for at, name in enumerate(names)
    }
    made = xr.Dataset(images, coords={"y": 5000000 - centres, "x": 300000 + centres})
    for name in names:
        made[name].attrs = EOPF | {"long_name": f"band {name}", "units": "1"}
    return made


def product() -> dict[str, xr.Dataset]:
    return {
        "r10m": group(10, "b02 b03 b04 b08"),
        "r20m": group(20, "b02 b03 b05 b11 b8a"),
        "r60m": group(60, "b01 b02 b09"),
    }


def test_spellings_of_bands() -> None:
    spellings = ["b02", "B2", "B8A", "b8a", "SCL", "b13", "x", 4]
    assert [band_of(name) for name in spellings] == ["B02", "B02", "B8A", "B8A", *[None] * 4]


def test_one_variable_per_band() -> None:
    source = group(20, "b8a B02 b03").assign(scl=(("y", "x"), np.zeros((6, 6), "u1")))
    stacked = stack_bands(source)
    assert stacked.dims == ("band", "y", "x")
    assert list(stacked["band"].values) == ["B02", "B03", "B8A"]
    assert np.array_equal(stacked.sel(band="B03"), source["b03"])
    chosen = stack_bands(source, ["b8a", "B2"])
    assert list(chosen["band"].values) == ["B8A", "B02"]
    assert np.array_equal(chosen.values, [source["b8a"], source["B02"]])


def tree() -> xr.DataTree:
    groups = {f"measurements/reflectance/{name}": part for name, part in product().items()}
    groups["quality/mask/r10m"] = group(10, "b02 b03")
    return xr.DataTree.from_dict(groups)


@pytest.mark.parametrize("source", [product(), tree(), tree()["measurements/reflectance"]])
def test_coarse_bands_are_repeated_on_the_finest_grid(source: Whatever) -> None:
    stacked = stack_bands(source)
    assert list(stacked["band"].values) == [
        "B01",
        "B02",
        "B03",
        "B04",
        "B05",
        "B08",
        "B8A",
        "B09",
        "B11",
    ]
    groups = product()
    assert np.array_equal(stacked.sel(band="B02"), groups["r10m"]["b02"])
    coarse = groups["r60m"]["b09"].values
    assert np.array_equal(stacked.sel(band="B09"), coarse.repeat(6, 0).repeat(6, 1))
    for axis in "yx":
        assert np.array_equal(stacked[axis], groups["r10m"][axis])
    assert stacked.attrs == EOPF | {"units": "1"}
    assert stacked.encoding == {}


def test_a_resolution_may_be_chosen() -> None:
    stacked = stack_bands(product(), ["B01", "B02", "B05"], resolution=20)
    groups = product()
    assert np.array_equal(stacked.sel(band="B02"), groups["r20m"]["b02"])
    assert np.array_equal(stacked["x"], groups["r20m"]["x"])
    with pytest.raises(ConfigError, match=r"resolution 15.*\[10\.0, 20\.0, 60\.0\]"):
        stack_bands(product(), resolution=15)
    with pytest.raises(ConfigError, match="B04 is there at a finer"):
        stack_bands(product(), resolution=20)


def test_leading_axes_and_dask_stay() -> None:
    def series(part: xr.Dataset) -> xr.Dataset:
        return part.expand_dims(time=[1, 2, 3]).chunk(time=1)

    lazy = stack_bands({name: series(part) for name, part in product().items()})
    assert lazy.dims == ("time", "band", "y", "x")
    assert isinstance(lazy.data, dask.array.Array)
    assert np.array_equal(lazy.isel(time=1), stack_bands(product()))
    assert list(lazy["time"].values) == [1, 2, 3]


def changed(name: str, change: Whatever) -> dict[str, xr.Dataset]:
    groups = product()
    groups[name] = change(groups[name])
    return groups


def marked(part: xr.Dataset, **attrs: Whatever) -> xr.Dataset:
    for variable in part.data_vars.values():
        variable.attrs |= attrs
    return part


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "no variables"),
        (group(10, "scl red"), "must be named"),
        (changed("r60m", lambda part: part.assign_coords(x=part["x"] + 10)), "shifted"),
        (changed("r60m", lambda part: part.isel(y=slice(1, None))), "shifted"),
        (changed("r20m", lambda part: part.isel(y=slice(4))), "shifted"),
        (changed("r20m", lambda part: part.isel(y=slice(5))), "no multiple"),
        (changed("r20m", lambda part: marked(part, add_offset=0.0)), "add_offset"),
        (changed("r60m", lambda part: marked(part, _FillValue=65535)), "_FillValue"),
        (changed("r60m", lambda part: part.astype("f4")), "dtype"),
        (changed("r60m", lambda part: part.expand_dims(time=[1])), "axes"),
        ({"a": group(10, "b02"), "b": group(10, "B02")}, "twice"),
    ],
)
def test_what_does_not_fit_together_is_refused(source: Whatever, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stack_bands(source)


def test_missing_and_unknown_bands_are_named() -> None:
    with pytest.raises(ConfigError, match=r"\['B06'\].*B11"):
        stack_bands(product(), ["B02", "B06"])
    with pytest.raises(ConfigError, match="SCL"):
        stack_bands(product(), ["B02", "SCL"])


def test_pixels_that_are_not_square_are_refused() -> None:
    bare = {name: part.drop_vars(["x", "y"]) for name, part in product().items()}
    bare["r20m"] = bare["r20m"].isel(y=slice(3))
    with pytest.raises(ConfigError, match="not square"):
        stack_bands(bare)


def test_what_xarray_has_unpacked_keeps_its_packing() -> None:
    packing = EOPF | {"dtype": np.dtype("u2")}
    groups = {name: xr.decode_cf(part) for name, part in product().items()}
    stacked = stack_bands(groups)
    assert stacked.dtype == np.float64
    assert stacked.encoding == packing
    assert np.array_equal(
        stacked, xr.decode_cf(stack_bands(product()).to_dataset(name="a"))["a"], equal_nan=True
    )


def test_times_must_agree() -> None:
    groups = {name: part.expand_dims(time=[1]) for name, part in product().items()}
    groups["r60m"] = groups["r60m"].assign_coords(time=[2])
    with pytest.raises(ConfigError, match="coordinate 'time'"):
        stack_bands(groups)


def test_grids_without_coordinates_are_taken_as_they_are() -> None:
    bare = {name: part.drop_vars(["x", "y"]) for name, part in product().items()}
    assert np.array_equal(stack_bands(bare), stack_bands(product()))


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_what_is_stacked_is_an_image_that_can_be_written() -> None:
    cube = stack_bands(product()).to_dataset(name="s2")
    store = MemoryStore()
    cube.tec.to_zarr(store, zarr_format=2, mode="w")
    found = xr.open_zarr(store, mask_and_scale=False)
    assert found["s2"].attrs["add_offset"] == -0.1
    assert found["s2"].dtype == np.uint16
