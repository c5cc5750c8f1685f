"""One array with a band axis, out of one variable per band or groups of several resolutions.

Nothing is resampled but by repeating: coarse pixels become exact blocks of fine ones, which the
codec recognises and stores as what they are.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from tec_zarr.bands import S2L1C, resolve_bands
from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Source = xr.Dataset | xr.DataTree | Mapping[str, xr.Dataset | xr.DataTree]

REFLECTANCE = "measurements/reflectance"
"""Where EOPF products of Sentinel-2 keep their images, one group a resolution."""

CF_KEYS = ("scale_factor", "add_offset", "_FillValue", "missing_value", "dtype")
"""What turns stored into physical values; one array can have it once only."""

TOLERANCE = 1e-3
"""Largest shift between grids that are taken for aligned, in pixels."""


def band_of(name: object) -> str | None:
    """The Sentinel-2 band that a label stands for, or None: `"b02"` is `"B02"`, `"SCL"` is none."""
    try:
        return resolve_bands([str(name)], 1)[0]
    except ConfigError:
        return None


def stack_bands(
    source: Source, bands: Iterable[str] | None = None, *, resolution: float | None = None
) -> xr.DataArray:
    """Stack the bands of a dataset, a tree or a mapping of datasets: dims (..., band, y, x).

    Bands are the variables named like one ("b02", "B8A"), with y and x as their last dimensions.
    `bands` chooses some of them and their order; the default is all there are, in product order.
    `resolution` is the pixel size of the result in the units of the x coordinate; the default is
    the finest there is. Coarser bands are repeated onto it, finer ones are not touched: of several
    variables of a band the finest that is no finer than the result is taken. Of an EOPF product
    the groups below `measurements/reflectance` are used. Dask arrays stay lazy.

    Raises `ConfigError` if a band is missing or there twice, if grids are no exact multiples of
    each other or not aligned, or if bands differ in scale, offset, fill value or dtype.
    """
    found: dict[str, list[xr.DataArray]] = defaultdict(list)
    for dataset in _datasets(source):
        for name, variable in dataset.data_vars.items():
            if variable.ndim >= 2 and (band := band_of(name)):
                found[band].append(variable)
    names = _chosen(found, bands)
    target = _target([variable for name in names for variable in found[name]], resolution)
    layers = [_best(name, found[name], target) for name in names]
    _check_alike(layers)
    return _stack(names, layers, target)


def _datasets(source: Source) -> Iterator[xr.Dataset]:
    if isinstance(source, xr.Dataset):
        yield source
    elif isinstance(source, xr.DataTree):
        for node in _images(source).subtree:
            yield node.to_dataset()
    else:
        for part in source.values():
            yield from _datasets(part)


def _images(tree: xr.DataTree) -> xr.DataTree:
    try:
        return cast("xr.DataTree", tree[REFLECTANCE])
    except KeyError:
        return tree


def _chosen(found: Mapping[str, object], bands: Iterable[str] | None) -> tuple[str, ...]:
    wanted = None if bands is None else list(bands)
    names = tuple(filter(found.__contains__, S2L1C))
    if wanted is not None:
        names = resolve_bands(wanted, len(wanted))
    missing = [name for name in names if name not in found]
    if missing or not names:
        raise ConfigError(
            f"no variables for the bands {missing or 'of Sentinel-2'}; there are {sorted(found)}."
            " Variables must be named like their band (B02, b8a, ...) and end in the axes y, x"
        )
    return names


def _pixels(variable: xr.DataArray) -> int:
    return variable.shape[-2] * variable.shape[-1]


def _step(variable: xr.DataArray) -> float | None:
    """Size of a pixel, if it can be known."""
    x = variable.coords.get(variable.dims[-1])
    return None if x is None or x.size < 2 else abs(float(x[1]) - float(x[0]))


def _target(variables: Sequence[xr.DataArray], resolution: float | None) -> xr.DataArray:
    """A variable on the grid of the result."""
    if resolution is None:
        return max(variables, key=_pixels)
    steps = [_step(variable) for variable in variables]
    for variable, step in zip(variables, steps, strict=True):
        if step is not None and abs(step - resolution) < TOLERANCE * resolution:
            return variable
    known = sorted({step for step in steps if step is not None})
    raise ConfigError(f"no band has the resolution {resolution}; there are {known}")


def _best(name: str, variables: Sequence[xr.DataArray], target: xr.DataArray) -> xr.DataArray:
    usable = [variable for variable in variables if _pixels(variable) <= _pixels(target)]
    if not usable:
        raise ConfigError(
            f"{name} is there at a finer resolution only; resample it or leave it out"
        )
    best = max(usable, key=_pixels)
    if sum(_pixels(variable) == _pixels(best) for variable in usable) > 1:
        raise ConfigError(f"{name} is there twice at one resolution; pass a part of the groups")
    return best


def cf_value(variable: xr.DataArray | xr.Variable, key: str) -> Any:  # noqa: ANN401 - of an attribute
    """A CF attribute of the stored values, whether xarray has applied it already or not."""
    value = variable.encoding.get(key, variable.attrs.get(key))
    return value if value is None or key == "dtype" else np.asarray(value).flat[0]


def _comparable(value: object) -> str:
    return f"{float(str(value)):.9g}" if isinstance(value, np.number) else str(value)


def _check_alike(layers: Sequence[xr.DataArray]) -> None:
    for key in CF_KEYS:
        values = {_comparable(cf_value(layer, key)) for layer in layers}
        if len(values) > 1:
            raise ConfigError(
                f"the bands differ in {key}: {sorted(values)}. One array has one of it: stack bands"
                " that agree, or open with mask_and_scale=True and drop_encoding() to pack anew"
            )
    kinds = sorted({str(layer.dtype) for layer in layers})
    if len(kinds) > 1:
        raise ConfigError(f"the bands differ in dtype: {kinds}; cast them to one of it")


def _stack(
    names: Sequence[str], layers: Sequence[xr.DataArray], target: xr.DataArray
) -> xr.DataArray:
    *leading, y, x = target.dims
    data = np.stack([_repeated(layer, target) for layer in layers], axis=-3)
    coords = {name: coord for name, coord in target.coords.items() if name != "band"}
    coords["band"] = xr.Variable("band", np.array(names, object))
    first = layers[0]
    attrs = {
        key: value
        for key, value in first.attrs.items()
        if all(str(layer.attrs.get(key)) == str(value) for layer in layers)
    }
    stacked = xr.DataArray(data, coords, (*leading, "band", y, x), attrs=attrs)
    stacked.encoding = {key: first.encoding[key] for key in CF_KEYS if key in first.encoding}
    return stacked


def _repeated(layer: xr.DataArray, target: xr.DataArray) -> Any:  # noqa: ANN401 - NumPy's or dask's
    """Pixels of a band on the grid of the target."""
    if layer.dims != target.dims or layer.shape[:-2] != target.shape[:-2]:
        raise ConfigError(
            f"{layer.name} has the axes {dict(layer.sizes)}, {target.name} {dict(target.sizes)}:"
            " bands must agree in all axes but y and x, and in their order"
        )
    for dim in target.dims[:-2]:
        if not np.array_equal(layer[dim].values, target[dim].values):
            raise ConfigError(f"{layer.name} and {target.name} differ in their coordinate {dim!r}")
    factors = [_factor(layer, target, dim) for dim in target.dims[-2:]]
    if factors[0] != factors[1]:
        raise ConfigError(f"{layer.name} has pixels that are not square: {factors} of the target's")
    if factors[0] == 1:
        return layer.data
    return np.repeat(np.repeat(layer.data, factors[0], axis=-2), factors[0], axis=-1)


def _factor(layer: xr.DataArray, target: xr.DataArray, dim: Any) -> int:  # noqa: ANN401 - Hashable
    """Pixels of the target for each of the layer along an axis; both must begin together."""
    factor, rest = divmod(target.sizes[dim], layer.sizes[dim])
    if rest:
        raise ConfigError(
            f"{layer.name} has {layer.sizes[dim]} pixels along {dim}, {target.name}"
            f" {target.sizes[dim]}, which is no multiple of it: crop both to the same area"
        )
    if dim in layer.coords and dim in target.coords and target.sizes[dim] > 1:
        fine, coarse = target[dim].values.astype(float), layer[dim].values.astype(float)
        shift = np.abs(fine.reshape(-1, factor).mean(axis=1) - coarse).max()
        if shift > TOLERANCE * abs(fine[1] - fine[0]):
            raise ConfigError(
                f"{layer.name} is shifted against {target.name} by up to {shift:g} along {dim}:"
                " both must cover the same area"
            )
    return factor
