from __future__ import annotations

import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore

import tec_zarr
from tec_zarr import TEC, TECSerializer, encoding, sample
from tec_zarr.cube import SETS_FILL_VALUE, codec_in
from tec_zarr.errors import ConfigError
from tests.cubes import WORST, Whatever, alike, dataset, error, pixels

if TYPE_CHECKING:
    from pathlib import Path

# zarr says so about every store that xarray writes in format 3.
pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")

Format = Literal[2, 3]
FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


def written(data: xr.Dataset, **options: Whatever) -> xr.Dataset:
    """What `xr.open_zarr` makes of what `.tec.to_zarr` wrote; image values may be packed."""
    store = MemoryStore()
    data.tec.to_zarr(store, **options)
    return xr.open_zarr(store, chunks=None)


def lazy(*shape: int, chunks: Whatever, dtype: str = "<u2") -> xr.Dataset:
    return dataset(shape, dtype).chunk(chunks)


# What Zarr is told


@FORMATS
def test_the_encoding_has_the_keys_of_its_format(zarr_format: Format) -> None:
    told = encoding(dataset(), zarr_format=zarr_format, quality=40)
    assert set(told) == {"s2"}
    own = told["s2"]
    assert own["chunks"] == (1, 12, 70, 90)
    codec = codec_in(own)
    assert codec is not None
    assert (codec.quality, codec.nodata, codec.scale, codec.offset) == (40, 0, 1, 0)
    assert codec.bands == tuple(sample()["band"].values)
    if zarr_format == 2:
        assert isinstance(own["compressors"], TEC)
    else:
        assert isinstance(own["serializer"], TECSerializer)
        assert own["compressors"] is None
        assert own.get("fill_value") == (0 if SETS_FILL_VALUE else None)


def test_names_alone_get_the_codec_alone() -> None:
    assert encoding("s2", zarr_format=2, nodata=None) == {"s2": {"compressors": TEC(nodata=None)}}
    told = encoding(["a", "b"], nodata=None, bands=["B02"])
    codec = TECSerializer(nodata=None, bands=["B02"])
    assert told == {name: {"serializer": codec, "compressors": None} for name in "ab"}


@FORMATS
def test_the_encoding_works_with_xarray_itself(zarr_format: Format, tmp_path: Path) -> None:
    cube = sample()
    path = tmp_path / "cube.zarr"
    cube.to_zarr(path, zarr_format=zarr_format, encoding=encoding(cube, zarr_format=zarr_format))
    with xr.open_zarr(path) as found:
        assert found["s2"].dtype == np.uint16
        assert error(found["s2"].values, cube["s2"].values) < WORST
        xr.testing.assert_identical(found.drop_vars("s2").load(), cube.drop_vars("s2"))


def test_the_old_key_compressor_works_where_xarray_takes_it(tmp_path: Path) -> None:
    cube = sample()
    try:
        cube.to_zarr(tmp_path / "a", zarr_format=2, encoding={"s2": {"compressor": TEC()}})
    except (TypeError, ValueError):
        pytest.skip("this xarray does not")
    with xr.open_zarr(tmp_path / "a") as found:
        assert error(found["s2"].values, cube["s2"].values) < WORST


def test_a_named_array_is_enough() -> None:
    assert encoding(dataset()["s2"]) == encoding(dataset())


@pytest.mark.parametrize(
    ("attrs", "dtype", "scale", "offset"),
    [
        ({}, "<u2", 1, 0),
        ({"scale_factor": 1.0, "add_offset": 0.0}, "<u2", 1, 0),
        ({"scale_factor": 1e-4, "add_offset": -0.1}, "<u2", 1, -1000),
        ({"scale_factor": np.float32(1e-4)}, "<i2", 1, 0),
        ({"scale_factor": 1 / 255}, "|u1", 10000 / 255, 0),
        ({"add_offset": -1000}, "<u2", 1, -1000),
        ({"scale_factor": 50.0}, "|u1", 50, 0),
        ({"units": "1"}, "<f4", 10000, 0),
        ({"units": "DN"}, "<f8", 1, 0),
    ],
)
@pytest.mark.parametrize("place", ["attrs", "encoding"])
def test_scale_and_offset_come_from_cf_attributes(
    place: str, attrs: Whatever, dtype: str, scale: float, offset: float
) -> None:
    cube = dataset(dtype=dtype)
    cube["s2"].attrs["units"] = attrs.get("units", "")
    getattr(cube["s2"], place).update({k: v for k, v in attrs.items() if k != "units"})
    codec = codec_in(encoding(cube)["s2"])
    assert codec is not None
    assert codec.scale == pytest.approx(scale, rel=1e-9)
    assert codec.offset == offset


def test_options_win_over_what_is_derived() -> None:
    cube = dataset(dtype="<f4")
    told = encoding(cube, scale=100, nodata=-1, bands=list(reversed(cube["band"].values)))["s2"]
    codec = codec_in(told)
    assert codec is not None
    assert (codec.scale, codec.nodata, codec.bands[0]) == (100, -1, "B12")  # type: ignore[index]
    assert told["_FillValue"] == -1


def test_floats_of_unknown_unit_are_asked_about() -> None:
    with pytest.raises(ConfigError, match="scale=10000"):
        encoding(dataset(dtype="<f4"))


def test_nodata_comes_from_the_fill_value() -> None:
    cube = dataset()
    cube["s2"].attrs["_FillValue"] = np.uint16(65535)
    told = encoding(cube)["s2"]
    assert codec_in(told).nodata == 65535  # type: ignore[union-attr]
    assert "_FillValue" not in told
    if SETS_FILL_VALUE:
        assert told["fill_value"] == 65535


def test_only_images_are_meant() -> None:
    cube = dataset()
    cube["mask"] = cube["s2"] > 100
    cube["wavelength"] = ("band", np.arange(12.0))
    cube["angles"] = (("band", "detector", "angle"), np.zeros((12, 3, 2)))
    assert set(encoding(cube.drop_vars("angles"))) == {"s2"}
    renamed = dataset().rename(band="channel")
    assert set(encoding(renamed)) == {"s2"}
    nameless = dataset().drop_vars("band")
    assert codec_in(encoding(nameless)["s2"]).bands is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.transpose("band", ...), r"transpose\(\.\.\., 'band', 'y', 'x'\)"),
        (lambda ds: ds.transpose(..., "band"), r"transpose\(\.\.\., 'band', 'y', 'x'\)"),
        (lambda ds: ds.isel(band=slice(5)).drop_vars("band"), "name the bands"),
        (lambda ds: ds.assign_coords(band=["SCL", *ds["band"].values[1:]]), "SCL"),
        (lambda ds: ds.astype("int64"), "int64"),
    ],
)
def test_images_that_cannot_be_encoded_are_refused(change: Whatever, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoding(change(dataset()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunks": {"band": 6}}, "all 12 bands"),
        ({"chunks": (1, 12, 70)}, "one size for each"),
        ({"chunks": {"y": 0}}, "positive"),
        ({"chunks": {"y": 64}, "shards": {"y": 100}}, "multiples"),
        ({"zarr_format": 2, "shards": {"y": 140}}, "need 3"),
        ({"zarr_format": 4}, "2 or 3"),
        ({"qualty": 3}, "qualty"),
        ({"bands": ["B02"]}, "band"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: Whatever, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoding(dataset(), **options)


# Writing and reading


@FORMATS
def test_a_cube_comes_back_and_the_rest_is_untouched(zarr_format: Format) -> None:
    cube = dataset()
    found = written(cube, zarr_format=zarr_format, quality=44)
    assert error(found["s2"].values, cube["s2"].values) < WORST
    xr.testing.assert_identical(found.drop_vars("s2").load(), cube.drop_vars("s2"))
    assert found["s2"].dtype == np.uint16
    assert found["s2"].attrs["long_name"] == "surface reflectance"
    assert found["s2"].attrs["compression_model"] == "tec-fp-s2l2a"
    assert found["s2"].attrs["compression_quality"] == 44
    assert "compression_model" not in cube["s2"].attrs
    assert found["s2"].encoding["chunks"] == (1, 12, 70, 90)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("|u1", (12, 65, 70)),
        (">u2", (2, 2, 12, 30, 130)),
        ("<i2", (1, 3, 40, 41)),
        (">i4", (12, 49, 129)),
        ("<f4", (2, 1, 5, 64, 48)),
        (">f8", (3, 12, 40, 50)),
    ],
)
@FORMATS
def test_shapes_and_dtypes(zarr_format: Format, dtype: str, shape: tuple[int, ...]) -> None:
    scale = 64 if dtype == "|u1" else 1
    cube = dataset(shape, dtype)
    found = written(cube, zarr_format=zarr_format, scale=scale, chunks={"y": 48, "x": 64})
    assert found["s2"].dtype.newbyteorder("=") == cube["s2"].dtype.newbyteorder("=")
    assert error(found["s2"].values, cube["s2"].values, scale) < 2 * WORST


@pytest.mark.parametrize("attrs", [{}, {"_FillValue": np.float32("nan")}])
@FORMATS
def test_nan_is_nodata_of_floats(zarr_format: Format, attrs: Whatever) -> None:
    cube = dataset((2, 12, 70, 90), "<f4") / np.float32(10000)
    cube["s2"].values[:, :, 5:30, 40:61] = np.nan
    cube["s2"].attrs = {"units": "1"} | attrs
    found = written(cube, zarr_format=zarr_format, chunks={"y": 64, "x": 64})
    assert np.array_equal(np.isnan(found["s2"].values), np.isnan(cube["s2"].values))
    assert error(found["s2"].values, cube["s2"].values, 10000) < WORST


@FORMATS
def test_another_nodata_of_floats_pads_and_fills(zarr_format: Format) -> None:
    cube = dataset((1, 12, 70, 90), "<f4")
    cube["s2"].values[:, :, 5:30, 40:61] = np.nan
    store = MemoryStore()
    options: Whatever = {"scale": 1, "nodata": -9999, "chunks": {"y": 64, "x": 64}}
    cube.tec.to_zarr(store, zarr_format=zarr_format, **options)
    raw = zarr.open_group(store)["s2"]
    assert isinstance(raw, zarr.Array)
    holes = np.isnan(cube["s2"].values)
    assert np.array_equal(np.asarray(raw[:]) == -9999, holes)


@FORMATS
def test_packed_reflectances_survive_as_physical_values(zarr_format: Format) -> None:
    if zarr_format == 3 and not SETS_FILL_VALUE:
        pytest.skip("this xarray cannot open format 3 with a _FillValue")
    cube = dataset()
    values = np.where(cube["scl"].values[:, None] == 3, np.nan, cube["s2"].values * 1e-4 - 0.1)
    cube["s2"] = (cube["s2"].dims, values)
    packing = {"dtype": "uint16", "scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": 0}
    cube["s2"].encoding = dict(packing)
    found = written(cube, zarr_format=zarr_format)
    codec = codec_in(found["s2"].encoding)
    assert codec is not None
    assert (codec.scale, codec.offset, codec.nodata) == (1, -1000, 0)
    assert found["s2"].encoding["dtype"] == np.uint16
    assert np.array_equal(np.isnan(found["s2"].values), np.isnan(values))
    assert error(found["s2"].values, values, 10000) < WORST


def test_packed_values_that_were_never_unpacked_stay_packed() -> None:
    cube = dataset()
    cube["s2"].attrs |= {"scale_factor": 1e-4, "add_offset": -0.1}
    store = MemoryStore()
    cube.tec.to_zarr(store)
    found = xr.open_zarr(store, mask_and_scale=False)
    assert found["s2"].dtype == np.uint16
    assert error(found["s2"].values, cube["s2"].values) < WORST
    assert found["s2"].attrs["add_offset"] == -0.1


def test_shards_hold_several_chunks(tmp_path: Path) -> None:
    cube = lazy(4, 12, 70, 90, chunks={"time": 1, "y": 33})
    path = tmp_path / "cube.zarr"
    shards = {"time": 2, "y": 96, "x": 96}
    cube.tec.to_zarr(path, chunks={"y": 48, "x": 48}, shards=shards)
    with xr.open_zarr(path) as found:
        assert found["s2"].encoding["shards"] == (2, 12, 96, 96)
        assert found["s2"].encoding["chunks"] == (1, 12, 48, 48)
        assert error(found["s2"].values, cube["s2"].values) < WORST
        window = {"time": 3, "band": 4, "y": slice(40, 50), "x": [3, 80]}
        assert alike(found["s2"].isel(window), found["s2"].load().isel(window))
    assert len(list((path / "s2" / "c").rglob("0"))) > 0


@FORMATS
def test_dask_arrays_are_rechunked_only_where_they_must(zarr_format: Format) -> None:
    cube = lazy(4, 12, 70, 90, chunks={"time": 3, "band": 5, "y": 40})
    found = written(cube, zarr_format=zarr_format, chunks={"y": 32, "x": 32})
    assert error(found["s2"].values, cube["s2"].values) < WORST
    aligned = lazy(4, 12, 70, 90, chunks={"time": 2, "band": 12, "y": 64, "x": 90})
    store = MemoryStore()
    task = aligned.tec.to_zarr(store, chunks={"y": 32, "x": 32}, compute=False)
    task.compute()
    assert aligned["s2"].chunks == ((2, 2), (12,), (64, 6), (90,))
    assert error(xr.open_zarr(store)["s2"].values, aligned["s2"].values) < WORST


@pytest.mark.parametrize("origin", [2, 3])
@FORMATS
def test_traces_of_another_store_do_no_harm(origin: Format, zarr_format: Format) -> None:
    store: Whatever = MemoryStore()
    cube = dataset().drop_vars(["x", "y"])  # old releases of xarray cannot open floats in format 3
    chunks = {"s2": {"chunks": (1, 3, 20, 30)}, "scl": {"chunks": (1, 20, 30)}}
    cube.to_zarr(store, zarr_format=origin, encoding=chunks)
    reopened = xr.open_zarr(store, chunks={"time": 1}, decode_coords="all")
    found = written(reopened, zarr_format=zarr_format)
    assert error(found["s2"].values, cube["s2"].values) < WORST
    assert np.array_equal(found["scl"].values, cube["scl"].values)


def test_variables_that_are_no_images_take_an_encoding_of_their_own() -> None:
    found = written(dataset(), encoding={"scl": {"chunks": (1, 35, 90)}}, quality=40)
    assert found["scl"].encoding["chunks"] == (1, 35, 90)
    with pytest.raises(ConfigError, match="s2"):
        written(dataset(), encoding={"s2": {"chunks": (1, 12, 35, 90)}})


@FORMATS
def test_lossy_twice_is_refused(zarr_format: Format) -> None:
    once = written(dataset(), zarr_format=zarr_format)
    for again in (2, 3):
        with pytest.raises(ConfigError, match=r"tec_zarr copy.*allow_recompress"):
            written(once, zarr_format=again)
    twice = written(once, zarr_format=zarr_format, allow_recompress=True)
    assert error(twice["s2"].values, dataset()["s2"].values) < 2 * WORST
    written(once + 0 * once)


def test_a_dataset_without_images_says_what_to_do() -> None:
    bands = dataset()["s2"].to_dataset("band")
    with pytest.raises(ConfigError, match=r"B02.*stack_bands"):
        bands.tec.to_zarr(MemoryStore())


@FORMATS
def test_appending_whole_chunks(zarr_format: Format) -> None:
    store = MemoryStore()
    cube = dataset((6, 12, 40, 50))
    options: dict[str, Any] = {"chunks": {"time": 2}, "zarr_format": zarr_format}
    cube.isel(time=slice(0, 4)).tec.to_zarr(store, **options)
    rest = cube.isel(time=slice(4, 6))
    rest["s2"] = rest["s2"].chunk(time=1)
    rest.tec.to_zarr(store, append_dim="time")
    found = xr.open_zarr(store)
    assert found.sizes["time"] == 6
    assert error(found["s2"].values, cube["s2"].values) < WORST
    assert np.array_equal(found["scl"].values, cube["scl"].values)


@pytest.mark.parametrize("model", ["terracodec_v1_tt_s2l2a", "flextec_v1_s2l2a"])
def test_temporal_models_have_chunks_of_some_steps(model: str) -> None:
    quality = 8 if model.startswith("flextec") else 20
    cube = dataset((12, 12, 40, 50))
    found = encoding(cube, model=model, quality=quality)["s2"]
    assert found["chunks"] == (8, 12, 40, 50)


def test_appending_to_a_part_of_a_chunk_is_refused() -> None:
    store = MemoryStore()
    cube = dataset((3, 12, 40, 50))
    cube.tec.to_zarr(store, chunks={"time": 2})
    with pytest.raises(ConfigError, match=r"from 3 to 6 along 'time'.*of its own.*'time': 1"):
        cube.tec.to_zarr(store, append_dim="time")
    assert xr.open_zarr(store).sizes["time"] == 3


@FORMATS
def test_regions_are_whole_chunks(zarr_format: Format) -> None:
    store = MemoryStore()
    cube = dataset((2, 12, 70, 90))[["s2"]].drop_vars(["band", "x", "y"])
    options: dict[str, Any] = {"chunks": {"y": 32, "x": 32}, "zarr_format": zarr_format}
    cube.chunk().tec.to_zarr(store, compute=False, bands=tuple(sample()["band"].values), **options)
    for rows in (slice(0, 32), slice(32, 70)):
        cube.isel(y=rows).tec.to_zarr(store, region={"y": rows})
    assert error(xr.open_zarr(store)["s2"].values, cube["s2"].values) < WORST
    for rows in (slice(0, 40), slice(16, 48), slice(32, 60)):
        with pytest.raises(ConfigError, match="multiples of 32"):
            cube.isel(y=rows).tec.to_zarr(store, region={"y": rows})
    with pytest.raises(ConfigError, match="slices"):
        cube.tec.to_zarr(store, region="auto")


def test_extending_uses_the_codec_that_is_there() -> None:
    store: Whatever = MemoryStore()
    plain: Whatever = MemoryStore()
    cube = dataset((1, 12, 40, 50))
    cube.tec.to_zarr(store, quality=40)
    cube.tec.to_zarr(store, append_dim="time", quality=40)
    with pytest.raises(ConfigError, match=r"other \['quality'\]"):
        cube.tec.to_zarr(store, append_dim="time", quality=44)
    with pytest.raises(ConfigError, match="bands"):
        cube.isel(band=slice(None, None, -1)).tec.to_zarr(store, append_dim="time")
    with pytest.raises(ConfigError, match="not in the store"):
        cube.rename(s2="s3").tec.to_zarr(store, append_dim="time")
    with pytest.raises(ConfigError, match="axes"):
        cube.expand_dims("tile").tec.to_zarr(store, append_dim="time")
    cube.to_zarr(plain)
    with pytest.raises(ConfigError, match="without TEC"):
        cube.tec.to_zarr(plain, append_dim="time")
    assert xr.open_zarr(store).sizes["time"] == 2


def test_groups_of_a_store_are_written_apart() -> None:
    store = MemoryStore()
    cube = dataset((1, 12, 40, 50))
    cube.tec.to_zarr(store, group="a/b")
    cube.tec.to_zarr(store, group="a/b", append_dim="time")
    assert xr.open_zarr(store, group="a/b").sizes["time"] == 2


# Other processes

READER = """
import sys, numpy, xarray
cubes = [xarray.open_zarr(path) for path in sys.argv[2:]]
assert "torch" not in sys.modules
part = cubes[0]["s2"].isel(x=slice(20, 30)).load()
values = numpy.stack([cube["s2"].values for cube in cubes])
assert part.values.shape == values[0, ..., 20:30].shape
numpy.save(sys.argv[1], values)
"""


def test_a_fresh_process_opens_what_was_written_without_our_name(tmp_path: Path) -> None:
    cube = dataset((1, 12, 70, 90))
    options: dict[str, Whatever] = {
        "two": {"zarr_format": 2},
        "three": {"zarr_format": 3},
        "sharded": {"shards": (1, 12, 96, 96)},
    }
    for name, own in options.items():
        cube.tec.to_zarr(tmp_path / name, chunks={"y": 48, "x": 48}, **own)
    paths = [tmp_path / name for name in options]
    saved = tmp_path / "values.npy"
    subprocess.run([sys.executable, "-c", READER, saved, *paths], check=True, timeout=120)
    for path, there in zip(paths, np.load(saved), strict=True):
        with xr.open_zarr(path) as here:
            assert alike(there, here["s2"].values)


@FORMATS
def test_dask_threads_write_and_read(zarr_format: Format, tmp_path: Path) -> None:
    import dask

    cube = lazy(4, 12, 70, 90, chunks={"time": 1})
    path = tmp_path / "cube.zarr"
    with dask.config.set(scheduler="threads", num_workers=4):
        cube.tec.to_zarr(path, zarr_format=zarr_format, chunks={"y": 48, "x": 48})
        with xr.open_zarr(path) as found:
            assert error(found["s2"].values, cube["s2"].values) < WORST
            mean = found["s2"].mean("time").compute().values
    assert alike(mean, xr.open_zarr(path, chunks=None)["s2"].values.mean(axis=0))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_worker_processes_write_and_read(tmp_path: Path) -> None:
    import distributed

    start: Whatever = distributed.LocalCluster
    connect: Whatever = distributed.Client
    workers: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    cube = lazy(2, 12, 70, 90, chunks={"time": 1})
    with (
        start(**workers, dashboard_address=None) as cluster,
        connect(cluster),
    ):
        for zarr_format in (2, 3):
            path = tmp_path / f"{zarr_format}.zarr"
            cube.tec.to_zarr(path, zarr_format=zarr_format)
            found = xr.open_zarr(path)["s2"].compute()
            assert error(found.values, pixels((2, 12, 70, 90))) < WORST


def test_the_accessor_comes_with_the_package_whatever_is_imported_first() -> None:
    for order in ("import tec_zarr, xarray", "import xarray, tec_zarr"):
        code = f"{order}\nxarray.Dataset().tec.to_zarr"
        subprocess.run([sys.executable, "-c", code], check=True)


# The sample


def test_the_sample_is_six_real_images() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cube = sample()
    assert cube["s2"].dims == ("patch", "band", "y", "x")
    assert cube["s2"].shape == (6, 12, 120, 120)
    assert cube["s2"].dtype == np.uint16
    assert tuple(cube["band"].values) == tec_zarr.bands.S2L2A
    assert int(cube["s2"].min()) > 0
    coarse = cube["s2"].sel(band="B01").values
    assert np.array_equal(coarse, np.repeat(np.repeat(coarse[:, 3::6, 3::6], 6, 1), 6, 2))
    assert "CDLA-Permissive-1.0" in cube.attrs["license"]
    assert len(set(cube["patch"].values)) == 6
    sample()["s2"].values[:] = 0
    assert int(sample()["s2"].min()) > 0
