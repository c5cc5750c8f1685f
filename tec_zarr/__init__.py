"""TerraCodec (TEC) learned codecs for Sentinel-2, as storage codecs of Zarr.

Importing this package loads no torch: torch is loaded when a chunk is coded for the first time.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tec_zarr.config import TecConfig
    from tec_zarr.cube import encoding
    from tec_zarr.errors import TecError
    from tec_zarr.numcodec import TEC
    from tec_zarr.reading import open_zarr
    from tec_zarr.samples import sample
    from tec_zarr.serializer import TECSerializer
    from tec_zarr.stacking import stack_bands

__all__ = ["TEC", "TECSerializer", "TecConfig", "TecError", "encoding", "open_zarr"]
__all__ += ["sample", "stack_bands"]

_HOME = {
    "TEC": "numcodec",
    "TECSerializer": "serializer",
    "TecConfig": "config",
    "TecError": "errors",
    "encoding": "cube",
    "open_zarr": "reading",
    "sample": "samples",
    "stack_bands": "stacking",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# `import tec_zarr` must give every Dataset its .tec accessor, and that needs xarray. A reader of
# plain Zarr must still get its chunks where xarray is broken: without codecs no group opens at all.
with suppress(ImportError):
    import_module(f"{__name__}.cube")
