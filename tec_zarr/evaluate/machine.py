"""What numbers were measured on: kind of processor, cores, versions. No names of machines."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tec_zarr.errors import TecError

PACKAGES = ("tec-zarr", "torch", "numpy", "zarr", "xarray", "imagecodecs")


def machine() -> dict[str, str | int]:
    """Processor, number of cores and system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter for rate and speed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def memory() -> int:
    """Bytes of memory that this process has now; TecError off Linux."""
    return _status("VmRSS")


def peak_memory(process: int | str = "self") -> int:
    """The most bytes of memory that a process ever had; TecError off Linux."""
    return _status("VmHWM", process)


def _status(key: str, process: int | str = "self") -> int:
    # Not getrusage: its peak begins with that of the process which started this one.
    status = Path(f"/proc/{process}/status")
    lines = status.read_text("utf-8").splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise TecError("memory is measured on Linux only")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
