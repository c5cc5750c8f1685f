"""Which variables of a dataset are images, and what their metadata says about their values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tec_zarr.bands import S2L1C, resolve_bands
from tec_zarr.errors import ConfigError
from tec_zarr.stacking import band_of, cf_value

if TYPE_CHECKING:
    from collections.abc import Hashable

    import xarray as xr

    from tec_zarr.config import TecOptions

BAND_DIMS = ("band", "bands")
SPACE_DIMS = {"y", "x", "lat", "lon", "latitude", "longitude", "northing", "easting"}

REFLECTANCE_STEP = 0.1
"""Physical values in coarser steps than this are no reflectances (0..1) but digital numbers."""

FULL_SCALE = 10000
"""Digital number of a reflectance of 1."""


def images(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """The variables of a dataset that are images; `ConfigError` for one with its axes in disorder.

    An image has a dimension called band, or one labelled with names of Sentinel-2 bands, and two
    more after it.
    """
    variables = {str(name): variable for name, variable in dataset.data_vars.items()}
    return {name: variable for name, variable in variables.items() if _is_image(variable)}


def _is_image(variable: xr.DataArray) -> bool:
    dim = next((dim for dim in variable.dims if _is_band_dim(variable, dim)), None)
    if dim is None or variable.ndim < 3 or variable.dtype.kind not in "iuf":
        return False
    if dim == variable.dims[-3]:
        return True
    if len(SPACE_DIMS.intersection(variable.dims)) < 2:
        return False
    raise ConfigError(
        f"{variable.name!r} has the axes {variable.dims}, but {dim!r} must stand right before y and"
        f" x: use .transpose(..., {dim!r}, 'y', 'x')"
    )


def _is_band_dim(variable: xr.DataArray, dim: Hashable) -> bool:
    return str(dim).lower() in BAND_DIMS or any(map(band_of, _labels(variable, dim)))


def _labels(variable: xr.DataArray, dim: Hashable) -> list[str]:
    """The labels along a dimension, if they are text."""
    coord = variable.coords.get(dim)
    if coord is None or coord.dtype.kind not in "OUT" or coord.size > len(S2L1C):
        return []
    return [str(label) for label in np.atleast_1d(coord.values)]


def bands_of(variable: xr.DataArray) -> tuple[str, ...] | None:
    """The bands of an image, if its labels name any; `ConfigError` if only some of them do."""
    labels = _labels(variable, variable.dims[-3])
    return resolve_bands(labels, len(labels)) if any(map(band_of, labels)) else None


def derived_options(variable: xr.DataArray, given: TecOptions) -> TecOptions:
    """The options of the codec for an image, as far as they are not given."""
    options = cast("TecOptions", dict(given))
    options.setdefault("bands", bands_of(variable))
    options.setdefault("nodata", _nodata(variable))
    if "scale" not in options and "offset" not in options:
        options["scale"], options["offset"] = _digital_numbers(variable)
    return options


def stored_dtype(variable: xr.DataArray) -> np.dtype[Any]:
    """The dtype that the codec will see, once xarray has packed the values."""
    return np.dtype(variable.encoding.get("dtype", variable.dtype))


def _nodata(variable: xr.DataArray) -> float:
    for key in ("_FillValue", "missing_value"):
        value: float | None = cf_value(variable, key)
        if value is not None:
            return value
    return math.nan if stored_dtype(variable).kind == "f" else 0


def _digital_numbers(variable: xr.DataArray) -> tuple[float, float]:
    """Scale and offset from stored values to digital numbers, which are reflectance * 10000."""
    factor = float(str(cf_value(variable, "scale_factor") or 1))
    offset = float(str(cf_value(variable, "add_offset") or 0))
    units = str(variable.attrs.get("units", "")).lower()
    if (factor, offset) == (1, 0) and stored_dtype(variable).kind == "f":
        if units not in ("1", "reflectance", "dn"):
            raise ConfigError(
                f"{variable.name!r} holds {variable.dtype} without saying of what: give scale=10000"
                " if the values are reflectances (0..1), scale=1 if they are digital numbers"
            )
        return (1.0, 0.0) if units == "dn" else (float(FULL_SCALE), 0.0)
    unit = FULL_SCALE if abs(factor) < REFLECTANCE_STEP else 1
    return float(f"{factor * unit:.12g}"), float(f"{offset * unit:.12g}")
