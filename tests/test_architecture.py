"""ARCHITECTURE.md, held by tests: who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tec_zarr

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(tec_zarr.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

RANK = {
    part: rank
    for rank, parts in enumerate(
        [
            "errors",
            "bands wire compiled",
            "cards releases tiling header sections layout stacking entropy",
            "container window mask replication config runtime residual samples",
            "models images qualities",
            "codec",
            "numcodec serializer carried",
            "cube evaluate",
            "archive stac reading",
            "ingest train inpaint",
            "cli",
        ]
    )
    for part in parts.split()
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Absolute names of what a file imports, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imported(path))
    return {parts[1] for parts in names if parts[0] == "tec_zarr" and len(parts) > 1}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    if part != "__init__":
        assert part in RANK, f"give {part} a rank, here and in ARCHITECTURE.md"
        upwards = {other for other in parts_imported(path) - {part} if RANK[other] >= RANK[part]}
        assert not upwards


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_asserts_or_prints(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print" or part_of(path) == "cli", f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_and_files_stay_readable(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, f"{path}: {node.name}"


def test_below_the_models_nobody_knows_torch() -> None:
    """Type checkers and functions may; what runs on import may not."""
    for path in MODULES:
        tree = ast.parse(path.read_text("utf-8"))
        names = {
            alias.name if isinstance(node, ast.Import) else str(node.module)
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        if part_of(path) not in ("models", "train", "inpaint"):
            assert not {name for name in names if name.split(".")[0] == "torch"}, path


@pytest.mark.parametrize(
    "code",
    [
        "from tec_zarr import *; ds = sample(); encoding(ds); ds.tec",
        "import numcodecs; numcodecs.get_codec({'id': 'tec_zarr'})",
        "import zarr.registry; zarr.registry.get_codec_class('tec_zarr')()",
    ],
)
def test_importing_leaves_torch_and_the_network_alone(code: str) -> None:
    guard = (
        "import sys, socket\n"
        "def refuse(*args): raise RuntimeError('network')\n"
        "socket.socket.connect = refuse\n"
        f"{code}\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'tec_zarr.numcodec' in sys.modules or 'tec_zarr.serializer' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", guard], check=True)


def test_the_public_names_are_there() -> None:
    for name in tec_zarr.__all__:
        assert getattr(tec_zarr, name).__name__ == name
        assert name in dir(tec_zarr)
    with pytest.raises(AttributeError, match="has no attribute 'torch'"):
        _ = tec_zarr.torch
