"""What the README shows, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.filterwarnings("ignore:Consolidated metadata")  # xarray writes them in format 3
def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 2
    for block in blocks:
        exec(compile(block, README.name, "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} >= {"cube.zarr", "v2.zarr", "v3.zarr"}
