"""Where and how parallel codec calls run. These choices never enter the metadata of an array."""

from __future__ import annotations

import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

DEVICE_VARIABLE = "TEC_ZARR_DEVICE"
"""Environment variable: a torch device such as "cpu" or "cuda:0"; "auto": a GPU if any."""

THREADS_VARIABLE = "TEC_ZARR_THREADS"
"""Environment variable: threads of torch in each codec call, 1 by default."""

MEMORY_VARIABLE = "TEC_ZARR_KEEP_MEMORY"
"""Environment variable: 0 leaves the allocator of the process alone."""

MALLOC_OPTIONS = ((-8, 1), (-3, 1 << 28), (-1, 1 << 30))
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h."""

BATCH_PIXELS = 1 << 20
"""Pixels (of all frames, not bands) that go through a network at once; bounds a call's memory."""

# Not a thread-local: zarr runs codecs in threads that inherit the caller's context.
_chosen: ContextVar[str | None] = ContextVar("tec_zarr_device", default=None)


@contextmanager
def use_device(name: str) -> Iterator[None]:
    """Choose the device of the codec calls made within, e.g. "cuda:1"."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def device() -> torch.device:
    """Device of codec calls made here.

    Raises ConfigError for a device that torch does not know or does not have.
    """
    import torch

    name = _chosen.get() or os.environ.get(DEVICE_VARIABLE, "auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        raise ConfigError(f"{DEVICE_VARIABLE} or use_device names {name!r}: {err}") from err
    return torch.device(name)


def has_bfloat16(place: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32."""
    import torch

    if place.type == "cuda":
        return torch.cuda.is_bf16_supported()
    asks = [
        getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in ("avx512_bf16", "amx_tile")
    ]
    return place.type == "cpu" and any(ask() for ask in asks if ask is not None)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads of torch in a codec call."""
    given = os.environ.get(THREADS_VARIABLE, "1")
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"{THREADS_VARIABLE} must be a positive number, got {given!r}")
    return int(given)


@cache
def keep_memory() -> None:
    """Let freed memory stay with the process, once and for all of it.

    A chunk takes a dozen arrays of some MB, one after the other. glibc returns each to the system
    and faults the next one in, page by page, in an arena of each thread: a tenth of the time.
    `MEMORY_VARIABLE` set to 0 leaves the process as it is. Does nothing with another libc.
    """
    if os.environ.get(MEMORY_VARIABLE, "1") == "0" or not hasattr(os, "confstr"):
        return
    try:
        glibc = "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError):
        return
    if glibc:
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOC_OPTIONS:
            mallopt(parameter, value)


def side_by_side(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Results of a function for each part, in as many Python threads as torch has here.

    For functions that hold no lock for long: one thread each is faster than sharing every step.
    """
    import torch

    count = min(torch.get_num_threads(), len(parts))
    if count < 2:
        return [function(part) for part in parts]
    inference = torch.is_inference_mode_enabled()

    def alone(part: Part) -> Result:
        with torch.inference_mode(inference):
            return function(part)

    return list(_pool(count).map(alone, parts))


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    """So many threads, each with one of torch; they stay, as new ones start slowly."""
    return ThreadPoolExecutor(count, "tec-zarr", _be_one_thread)


def _be_one_thread() -> None:
    """Let a new thread share nothing with others."""
    import torch

    torch.get_num_threads()  # the first call in a thread sets what another thread chose last
    torch.set_num_threads(1)


_places = threading.BoundedSemaphore(cores())


def _renew() -> None:
    global _places  # a forked child must not inherit places that its parent holds, nor threads
    _places = threading.BoundedSemaphore(cores())
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def slot() -> Iterator[None]:
    """Hold one of the process's places for a codec call; there are as many as cores.

    Zarr and dask call codecs from many threads at once: throughput comes from calls side by side,
    each with one thread. More threads a call only wait for each other once the cores are busy.
    """
    import torch

    keep_memory()
    with _places, torch.inference_mode():
        before = torch.get_num_threads()
        torch.set_num_threads(threads())
        try:
            yield
        finally:
            torch.set_num_threads(before)
