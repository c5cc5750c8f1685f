from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
import xarray as xr
from typer.testing import CliRunner

from tec_zarr import cli, sample
from tec_zarr.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from typer.testing import Result

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")


def run(*arguments: object, status: int = 0) -> str:
    """What a command prints on stdout; `TecError`s pass."""
    result: Result = CliRunner().invoke(app, [str(word) for word in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


def fail(arguments: Sequence[object], monkeypatch: pytest.MonkeyPatch) -> str:
    """The message of a command that fails."""
    monkeypatch.setattr(sys, "argv", ["tec-zarr", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, str)
    return caught.value.code


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store to compress."""
    path = tmp_path_factory.mktemp("cli") / "cube.zarr"
    sample().isel(patch=slice(2)).to_zarr(path, zarr_format=2)
    return path


@pytest.fixture(scope="module")
def packed(cube: Path) -> Path:
    """What comes out by default."""
    path = cube.with_name("archive.zarr")
    assert "times smaller" in run("compress", cube, path)
    return path


def test_the_way_there_and_back(cube: Path, packed: Path, tmp_path: Path) -> None:
    told = run("info", packed)
    assert "tec-fp-s2l2a at quality 44" in told
    assert "1x12x120x120" in told
    assert "no problems" in run("verify", packed, cube)
    assert "times smaller" in run("decompress", packed, tmp_path / "again.zarr", "--codec", "zstd")
    with xr.open_zarr(tmp_path / "again.zarr") as found:
        assert found["s2"].shape == (2, 12, 120, 120)


def test_options_reach_the_archive(cube: Path, tmp_path: Path) -> None:
    options = ("--quality", 36, "--zarr-format", 3, "--nodata", 7, "--scale", 1)
    layout = ("--chunks", "y=64, x=64", "--shards", "1,12,128,128")
    run("compress", cube, tmp_path / "a.zarr", *options, *layout)
    told = run("info", tmp_path / "a.zarr")
    assert "at quality 36" in told
    assert "nodata 7" in told
    assert "8 chunks of 1x12x64x64 in shards of 1x12x128x128" in told
    run("compress", cube, tmp_path / "a.zarr", "--overwrite", "--zarr-format", 2)
    assert "Zarr format 2" in run("info", tmp_path / "a.zarr")


def test_dates_have_qualities_of_their_own(cube: Path, tmp_path: Path) -> None:
    run("compress", cube, tmp_path / "a.zarr", "--model", "flextec-s2l2a", "--quality", "3, 1")
    told = run("info", tmp_path / "a.zarr")
    assert "at quality 3, 1" in told
    assert "2x12x120x120" in told
    for text in ("3;1", "3,", ""):
        options = ("--model", "flextec-s2l2a", "--quality", text)
        assert "--quality" in run("compress", cube, tmp_path / "b.zarr", *options, status=2)


def test_a_chunk_file_can_be_looked_at(packed: Path) -> None:
    told = run("info", packed / "s2" / "c" / "0" / "0" / "0" / "0")
    assert all(word in told for word in ("1x12x120x120", "tec-fp-s2l2a", "B8A", "nodata"))


def test_verify_says_it_by_its_exit_status(cube: Path, tmp_path: Path) -> None:
    run("compress", cube, tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / "s2" / "c" / "1" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    told = run("verify", tmp_path / "a.zarr", status=1)
    assert "s2[1:2, 0:12, 0:120, 0:120] (c/1/0/0/0): " in told
    assert told.endswith("\n1 problem\n")


def test_models_are_listed() -> None:
    assert "tec-fp-s2l2a" in run("models")


def test_it_knows_its_version_and_explains_itself() -> None:
    assert run("--version") == f"tec-zarr {version('tec-zarr')}\n"
    assert "compress" in run(status=2)
    for command in ("compress", "decompress", "info", "verify", "models"):
        assert "Usage" in run(command, "--help")


@pytest.mark.parametrize("sizes", ["512x512", "y=", "1,,2", "y=1,3"])
def test_sizes_that_cannot_be_read_are_wrong_usage(sizes: str, cube: Path, tmp_path: Path) -> None:
    assert "--chunks" in run("compress", cube, tmp_path / "a.zarr", "--chunks", sizes, status=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nowhere.zarr"], "nowhere.zarr does not exist"),
        (["compress", "CUBE", "a.zarr", "--model", "x"], "no model is named 'x'"),
        (["compress", "CUBE", "a.zarr", "--quality", "99"], "no quality 99"),
        (["compress", "CUBE", "a.zarr", "--nodata", "-1"], "-1"),
        (["decompress", "CUBE", "a.zarr"], "holds nothing that was compressed with TEC"),
        (["compress", "CUBE", "/dev/null/a.zarr"], "/dev/null"),
    ],
)
def test_errors_are_a_line(
    arguments: list[str], message: str, cube: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    told = fail([str(cube) if word == "CUBE" else word for word in arguments], monkeypatch)
    assert told.startswith("tec-zarr: ")
    assert message in told
    assert "\n" not in told
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tec_zarr.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    assert "pip install 'tec-zarr[cli]'" in fail(["models"], monkeypatch)


def test_a_user_sees_no_traceback_and_no_warnings(cube: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from tec_zarr.cli import main; main()"]
    good = [*command, "compress", str(cube), str(tmp_path / "a.zarr")]
    ran = subprocess.run(good, check=True, capture_output=True, text=True)
    assert ran.stderr == ""
    again = subprocess.run(good, check=False, capture_output=True, text=True)
    assert again.returncode == 1
    assert (
        again.stderr
        == f"tec-zarr: {tmp_path / 'a.zarr'} exists; choose another name, or overwrite it\n"
    )
