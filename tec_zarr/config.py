"""The options of encoding, declared once. What they do stands in codec.py; readers need none."""

from __future__ import annotations

import json
import math
import numbers
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    Value = Any  # of JSON, of NumPy, or of a hopeful user
    Check = Callable[[str, Value], Value]

NAN = "NaN"
"""How a nodata value of NaN stands in metadata: JSON has no number for it."""

AT_MOST = "at_most"
"""In codecs that an array was opened with; no array in a store has it."""

TILE_SIDES = range(64, 64 << 16, 64)


class TecOptions(TypedDict, total=False):
    """The constructor's keywords, as a type: what functions that pass options on accept."""

    model: str
    quality: float | Sequence[float]
    nodata: float | Literal["NaN"] | None
    bands: Sequence[str] | None
    scale: float
    offset: float
    tile: int
    measure: bool


@dataclass(frozen=True, kw_only=True)
class TecConfig:
    """How to encode a chunk. Decoding needs none of it: a chunk describes itself.

    Every value that JSON cannot hold is refused with a `ConfigError`, and so is an unknown option;
    NumPy scalars become plain Python. Two configurations are equal if all their options are.

    >>> TecConfig(quality=40, bands=["B02", "B03"]).to_dict()["bands"]
    ['B02', 'B03']
    """

    model: str = "tec-fp-s2l2a"
    """Name of a model, e.g. `"tec-fp-s2l2a"`; never a path or an address."""

    quality: float | Sequence[float] = 44.0
    """What the model makes of it; for the bundled ones the expected PSNR in dB at peak 10000.

    FlexTEC models also take one for each step of a chunk along the axis before the bands."""

    nodata: float | Literal["NaN"] | None = 0
    """The stored value that means "no data", kept exactly; "NaN" (or a NaN), or None for none."""

    bands: Sequence[str] | None = None
    """Names of the bands along axis -3; None for all bands of the model, in its order."""

    scale: float = 1.0
    """Digital numbers per stored unit: DN = stored * scale + offset."""

    offset: float = 0.0
    """Digital number of a stored 0."""

    tile: int = 256
    """Side of an independently decodable tile, in pixels; a multiple of 64."""

    measure: bool = False
    """Whether to decode what was encoded and record the errors in the chunk's header."""

    newer: str = field(default="", init=False, repr=False)
    """What `from_dict` did not understand, as JSON text: options that a newer release wrote."""

    at_most: float | None = field(default=None, init=False, repr=False)
    """The quality at which reading stops, in chunks of several layers; see `tec_zarr.open_zarr`."""

    def __new__(cls, *_: object, **options: object) -> Self:
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise ConfigError(f"unknown options {unknown}; there are {list(OPTIONS)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, here or in any other release.

        Options and values that this release does not know are kept, with one warning: whoever reads
        is not bothered by them, encoding with them is an error (see `for_encoding`).
        """
        data = dict(data)
        at_most = data.pop(AT_MOST, None)
        known = {key: value for key, value in data.items() if _understood(key, value)}
        config = cls(**known)
        if at_most is not None:
            object.__setattr__(config, AT_MOST, finite(AT_MOST, at_most))
        newer = {key: value for key, value in data.items() if key not in known}
        if newer:
            object.__setattr__(config, "newer", json.dumps(newer, sort_keys=True))
            message = (
                f"options of a newer tec-zarr: {sorted(newer)}. Reading works, writing does not"
            )
            warnings.warn(message, UserWarning, stacklevel=2)
        return config

    def to_dict(self) -> dict[str, Any]:
        """All options as plain JSON, those of newer releases included.

        `at_most` too if it is set: sharding sends the codecs in it to other processes this way.
        """
        values = {name: getattr(self, name) for name in OPTIONS}
        options = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
        reading = {} if self.at_most is None else {AT_MOST: self.at_most}
        return options | reading | (json.loads(self.newer) if self.newer else {})

    def for_encoding(self) -> Self:
        """Return itself, or raise `ConfigError` if it holds options that are not understood.

        Or if it is that of an array which was opened at a lower quality.
        """
        if self.at_most is not None:
            raise ConfigError(
                f"this codec only reads, at quality {self.at_most:g} at most: write with one of"
                " your own, after ds.drop_encoding()"
            )
        if self.newer:
            raise ConfigError(
                f"cannot encode with the options {sorted(json.loads(self.newer))}, which a newer"
                " tec-zarr wrote: upgrade it, or encode with a configuration of your own"
            )
        return self

    @property
    def qualities(self) -> tuple[float, ...]:
        """The quality of each step, or the one of all."""
        return tuple(self.quality) if isinstance(self.quality, Sequence) else (self.quality,)

    @property
    def nodata_value(self) -> float | None:
        """`nodata` as a number."""
        return math.nan if self.nodata == NAN else self.nodata  # type: ignore[return-value]


def _understood(name: str, value: Value) -> bool:
    try:
        CHECKS[name](name, value)
    except (KeyError, ConfigError):
        return False
    return True


def _refuse(name: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"{name} must be {expected}, got {value!r}")


def _text(name: str, value: Value) -> str:
    if not isinstance(value, str) or not value:
        raise _refuse(name, value, "the name of a model")
    return str(value)


def finite(name: str, value: Value) -> float:
    """A plain number of an option; ConfigError if it is none, or NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise _refuse(name, value, "a finite number")
    # The shortest text of a float32 is what its author meant: 0.0001, not 0.00009999999747378752.
    return float(str(value)) if isinstance(value, np.floating) else float(value)


def _quality(name: str, value: Value) -> float | tuple[float, ...]:
    texts, arrays = isinstance(value, str | bytes), isinstance(value, np.ndarray) and value.ndim
    if texts or not (arrays or isinstance(value, Sequence)):
        return finite(name, value)
    if not len(value):
        raise _refuse(name, value, "a number, or one for each step of a chunk")
    return tuple(finite(name, item) for item in value)


def _factor(name: str, value: Value) -> float:
    number = finite(name, value)
    if number == 0:
        raise _refuse(name, value, "another number than 0")
    return number


def _nodata(name: str, value: Value) -> float | str | None:
    if value is None or value == NAN:
        return value
    if isinstance(value, numbers.Real) and math.isnan(value):
        return NAN
    number = finite(name, value)
    return int(value) if number.is_integer() else number


def _bands(name: str, value: Value) -> tuple[str, ...] | None:
    if value is None:
        return None
    listed = isinstance(value, Iterable) and not isinstance(value, str)
    names = tuple(value) if listed else ()
    if not names or not all(isinstance(band, str) for band in names):
        raise _refuse(name, value, 'a list of band names such as ["B02", "B03"], or None')
    if len(set(names)) < len(names):
        raise _refuse(name, value, "a list without repetitions")
    return tuple(map(str, names))


def _tile(name: str, value: Value) -> int:
    valid = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not valid or value not in TILE_SIDES:
        raise _refuse(name, value, f"a multiple of 64 up to {TILE_SIDES[-1]}")
    return int(value)


def _flag(name: str, value: Value) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise _refuse(name, value, "True or False")
    return bool(value)


CHECKS: dict[str, Check] = {
    "model": _text,
    "quality": _quality,
    "nodata": _nodata,
    "bands": _bands,
    "scale": _factor,
    "offset": finite,
    "tile": _tile,
    "measure": _flag,
}
OPTIONS = tuple(item.name for item in fields(TecConfig) if item.init)
