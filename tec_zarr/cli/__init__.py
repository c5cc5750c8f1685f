"""The command `tec-zarr`. Sub-commands are in `app`; here is how it starts and how it fails."""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """Run the command line: errors made on purpose are one line on stderr and exit status 1."""
    try:
        from tec_zarr.cli.app import app
    except ImportError as err:
        sys.exit(f"tec-zarr: {err}; the command line needs more: pip install 'tec-zarr[cli]'")
    from tec_zarr.errors import TecError

    _quieten()
    try:
        app(prog_name="tec-zarr")
    except (TecError, OSError) as err:
        sys.exit("\n".join([f"tec-zarr: {err}", *getattr(err, "__notes__", [])]))


def _quieten() -> None:
    """Warnings of the libraries below are for programmers; ours become one line."""
    warnings.filterwarnings("ignore", module=r"(zarr|xarray|numcodecs|dask)\b")
    warnings.showwarning = _one_line


def _one_line(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"tec-zarr: warning: {message}\n")
