"""What all tests share: hypothesis profiles and the validation data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tec_zarr.errors import TecError
from tec_zarr.evaluate.frames import data_folder

if TYPE_CHECKING:
    from pathlib import Path

# Runs where the published packages are, see there.
collect_ignore = ["golden/parity/make.py"]

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared samples; tests that need it are skipped where it is not."""
    try:
        return data_folder()
    except TecError as err:
        pytest.skip(str(err))
