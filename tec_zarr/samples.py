"""Real Sentinel-2 images that come with the package, for first steps, examples and tests."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import xarray as xr

from tec_zarr.stacking import stack_bands

BANDS = {
    10: ("B02", "B03", "B04", "B08"),
    20: ("B05", "B06", "B07", "B8A", "B11", "B12"),
    60: ("B01", "B09"),
}
"""Bands in the order of the file, by resolution in metres."""

ATTRIBUTES = {
    "title": "Six Sentinel-2 L2A patches of BigEarthNet",
    "source": "Six example patches of BigEarthNet-S2 1.0, as shipped by bigearthnet-common 2.8.0",
    "license": "CDLA-Permissive-1.0, https://cdla.dev/permissive-1-0/",
    "attribution": "Contains modified Copernicus Sentinel data 2017-2018",
    "references": (
        "G. Sumbul, M. Charfuelan, B. Demir, V. Markl: BigEarthNet: A Large-Scale Benchmark Archive"
        " for Remote Sensing Image Understanding, IGARSS 2019"
    ),
}


def sample() -> xr.Dataset:
    """Return six real Sentinel-2 L2A images, as `s2` (patch: 6, band: 12, y: 120, x: 120) uint16.

    Values are digital numbers (reflectance * 10000; no offset, no nodata); the 20 m and 60 m bands
    are repeated on the 10 m grid. `x` and `y` are metres from the upper left corner of a patch,
    whose place on the ground is in the coordinates epsg, easting and northing.

    The images are example patches of the BigEarthNet archive (G. Sumbul, M. Charfuelan, B. Demir,
    V. Markl, IGARSS 2019), licensed under CDLA-Permissive-1.0, and contain modified Copernicus
    Sentinel data 2017-2018. Most of them are among the training data of the bundled models.
    """
    with np.load(str(files("tec_zarr") / "sample" / "bigearthnet.npz")) as file:
        groups = {f"r{size}m": _group(file[f"r{size}m"], size) for size in BANDS}
        meta = {name: file[name] for name in ("time", "epsg", "easting", "northing")}
        names = {name: file[name].astype(object) for name in ("product", "tile_source")}
    cube = stack_bands(groups).assign_coords(patch=names["product"])
    cube.attrs = {"long_name": "surface reflectance * 10000", "units": "DN"}
    meta["time"] = meta["time"].astype("datetime64[ns]")
    meta["tile_source"] = names["tile_source"]
    coords = {name: ("patch", values) for name, values in meta.items()}
    return xr.Dataset({"s2": cube}, attrs=ATTRIBUTES).assign_coords(coords)


def _group(images: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], size: int) -> xr.Dataset:
    """One variable per band, of images (patch, band, y, x) with pixels of `size` metres."""
    bands = zip(BANDS[size], np.moveaxis(images, 1, 0), strict=True)
    centres = np.arange(images.shape[-1]) * size + size // 2
    return xr.Dataset(
        {name: (("patch", "y", "x"), image) for name, image in bands},
        coords={"y": -centres, "x": centres},
    )
