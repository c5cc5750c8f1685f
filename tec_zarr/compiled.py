"""Loops in machine code, where numba is installed (extra `fast`); NumPy does the same without it.

NumPy needs thousands of short calls for what is a loop over symbols, and threads that make short
calls wait for each other. A compiled loop is one call and holds no lock.
"""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

VARIABLE = "TEC_ZARR_COMPILED"
"""Environment variable: 0 for NumPy alone, 1 to demand numba; by default numba if it is there."""


OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def compiled(loop: Callable[..., Any]) -> Callable[..., Any] | None:
    """The loop in machine code, made at its first call and kept in a cache; None: use NumPy.

    Raises ConfigError if the environment demands numba and it is missing.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "0", "1"):
        raise ConfigError(f"{VARIABLE} must be 0 or 1, got {wanted!r}")
    if wanted == "0" or (not wanted and find_spec("numba") is None):
        return None
    try:
        from numba import njit
    except ImportError as err:  # a numba that does not know a newer NumPy says so here
        if wanted:
            raise ConfigError(f"{VARIABLE} is 1, but numba cannot be imported: {err}") from err
        log.warning("numba cannot be imported, NumPy does its work more slowly: %s", err)
        return None
    try:
        return njit(loop, cache=True, **OPTIONS)
    except RuntimeError:  # no folder to keep machine code in: it is made anew in each process
        return njit(loop, **OPTIONS)
