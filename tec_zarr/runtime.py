"""Where and how parallel codec calls run. These choices never enter the metadata of an array."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

DEVICE_VARIABLE = "TEC_ZARR_DEVICE"
"""Environment variable: a torch device such as "cpu" or "cuda:0"; "auto": a GPU if any."""

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


class _Slots:
    """Lets as many codec calls run as there are cores, and shares the cores out among them."""

    def __init__(self) -> None:
        self.cores = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        self.free = threading.BoundedSemaphore(self.cores)
        self.running = 0
        self.guard = threading.Lock()

    @contextmanager
    def take(self) -> Iterator[None]:
        import torch

        with self.free:
            with self.guard:
                self.running += 1
                share = max(1, self.cores // self.running)
            before = torch.get_num_threads()
            torch.set_num_threads(min(share, before))
            try:
                yield
            finally:
                torch.set_num_threads(before)
                with self.guard:
                    self.running -= 1


_slots = _Slots()


def _renew() -> None:
    global _slots
    _slots = _Slots()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def slot() -> Iterator[None]:
    """Hold one of the process's places for a codec call; those running share torch's threads.

    Thread counts are torch's thread-local setting; results do not depend on them.
    """
    import torch

    with _slots.take(), torch.inference_mode():
        yield
