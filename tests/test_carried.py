"""Models travel with archives: written, listed, checked, added, and never taken for data."""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore, MemoryStore, ZipStore

from tec_zarr import TEC, archive
from tec_zarr.carried import GROUP
from tec_zarr.errors import ConfigError, ModelMismatchError, ModelNotFoundError, TecError
from tec_zarr.models import artifact as artifacts
from tec_zarr.models import registry, shelf
from tests.cubes import Whatever, dataset
from tests.test_archive import described
from tests.test_cli import run
from tests.tiny import strided_artifact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tec_zarr.models.artifact import Artifact

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return strided_artifact()


@pytest.fixture
def writer(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Whatever]]:
    """Options of a writer who has a model that no reader has."""
    monkeypatch.setenv(shelf.CACHE_VARIABLE, str(tmp_path / "writer"))
    registry.forget()
    yield {"model": registry.keep(artifact), "quality": 10, "bands": None}
    registry.forget()


def become_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user, on another machine."""
    monkeypatch.setenv(shelf.CACHE_VARIABLE, str(tmp_path / "reader"))
    registry.forget()


def cube() -> xr.Dataset:
    return dataset((1, 12, 40, 50))


def opened(place: Whatever, **options: Whatever) -> xr.Dataset:
    """As `xr.open_zarr` sees it, loaded."""
    with xr.open_zarr(place, chunks=None, **options) as found:
        return found.load()


@FORMATS
def test_an_archive_brings_its_model(
    zarr_format: int, writer: Whatever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, identity = tmp_path / "a.zarr", writer["model"]
    cube().tec.to_zarr(place, zarr_format=zarr_format, embed_model=True, **writer)
    written = opened(place)
    become_reader(tmp_path, monkeypatch)
    with pytest.raises(ModelNotFoundError, match=rf"{identity[:32]}.*tec-zarr models add STORE"):
        opened(place)
    assert run("models", "add", place) == f"{identity}\n"
    xr.testing.assert_identical(opened(place), written)


@FORMATS
def test_xarray_sees_the_cube_alone(zarr_format: int, writer: Whatever, tmp_path: Path) -> None:
    with_model, without = tmp_path / "a.zarr", tmp_path / "b.zarr"
    for place, embed in ((with_model, True), (without, False)):
        cube().tec.to_zarr(place, zarr_format=zarr_format, embed_model=embed, **writer)
    for consolidated in (True, False):
        found = opened(with_model, consolidated=consolidated)
        xr.testing.assert_identical(found, opened(without, consolidated=consolidated))
    with xr.open_datatree(with_model, engine="zarr", consolidated=False) as tree:
        assert set(tree.children) == {GROUP}
        assert set(tree[GROUP].data_vars) == {writer["model"]}


@FORMATS
def test_consolidated_metadata_name_the_model(
    zarr_format: Whatever, writer: Whatever, tmp_path: Path
) -> None:
    place = tmp_path / "a.zarr"
    cube().tec.to_zarr(place, zarr_format=zarr_format, embed_model=True, **writer)
    for consolidated in (True, False):
        group = zarr.open_group(place, mode="r", use_consolidated=consolidated)
        array = group[f"{GROUP}/{writer['model']}"]
        assert isinstance(array, zarr.Array)
        assert array.dtype == np.uint8
    cube().tec.to_zarr(tmp_path / "b.zarr", consolidated=False, embed_model=True, **writer)
    assert zarr.open_group(tmp_path / "b.zarr").metadata.consolidated_metadata is None


def append(place: Path) -> None:
    later = cube().drop_vars(["band", "x", "y"])
    later.tec.to_zarr(place, append_dim="time", embed_model=True)


def test_writing_again_changes_nothing(writer: Whatever, tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    cube().tec.to_zarr(place, embed_model=True, **writer)
    before = {path: path.stat().st_mtime_ns for path in (place / GROUP).rglob("*")}
    append(place)
    assert {path: path.stat().st_mtime_ns for path in (place / GROUP).rglob("*")} == before
    assert opened(place).sizes["time"] == 2
    cube().tec.to_zarr(place, mode="w", embed_model=True, **writer)
    assert before.keys() == set((place / GROUP).rglob("*"))


def test_a_model_that_was_written_in_part_is_written_anew(writer: Whatever, tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    cube().tec.to_zarr(place, embed_model=True, **writer)
    chunk = place / GROUP / writer["model"] / "c" / "0"
    data = chunk.read_bytes()
    chunk.unlink()
    append(place)
    assert chunk.read_bytes() == data == registry.content(writer["model"])[1]


@FORMATS
def test_groups_and_models_of_their_own(
    zarr_format: int, writer: Whatever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**writer, "model": registry.keep(strided_artifact(latents=14))}
    place = tmp_path / "a.zarr"
    for group, options in (("north", writer), ("south/2020", other), ("south/2021", other)):
        cube().tec.to_zarr(
            place, group=group, mode="a", zarr_format=zarr_format, embed_model=True, **options
        )
    assert len(described(place).models) == 3
    become_reader(tmp_path, monkeypatch)
    assert archive.add_models(place) == tuple(sorted([writer["model"], other["model"]]))
    for group in ("north", "south/2020"):
        assert opened(place, group=group)["s2"].shape == (1, 12, 40, 50)


@pytest.mark.parametrize("kind", ["memory", "local", "zip"])
def test_any_store_will_do(kind: str, writer: Whatever, tmp_path: Path) -> None:
    places = {"memory": MemoryStore(), "local": LocalStore(tmp_path / "a.zarr")}
    place = places.get(kind) or ZipStore(tmp_path / "a.zip", mode="w")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of zipfile, on each rewritten name
        cube().tec.to_zarr(place, embed_model=True, **writer)
    if kind == "zip":
        place.close()
        place = ZipStore(tmp_path / "a.zip", mode="r")
    assert archive.add_models(place) == (writer["model"],)
    assert opened(place)["s2"].shape == (1, 12, 40, 50)


# Whole stores


@FORMATS
def test_commands_do_not_take_models_for_data(
    zarr_format: int, writer: Whatever, tmp_path: Path
) -> None:
    plain, place = tmp_path / "plain.zarr", tmp_path / "a.zarr"
    cube().to_zarr(plain, zarr_format=2)
    options = ("--zarr-format", zarr_format, "--embed-model")
    run("compress", plain, place, "--model", writer["model"], "--quality", 10, *options)
    found = described(place)
    assert [array.name for array in found.arrays] == ["band", "s2", "scl", "x", "y"]
    (model,) = found.models
    assert (model.place, model.identity) == (f"{GROUP}/{writer['model']}", writer["model"])
    assert model.stored_bytes > len(registry.content(writer["model"])[1])
    told = run("info", place)
    assert writer["model"][:12] in told
    assert "of it are models" in told
    assert "no problems" in run("verify", place, plain)
    run("decompress", place, tmp_path / "again.zarr")
    assert GROUP not in zarr.open_group(tmp_path / "again.zarr", mode="r")


def test_verify_notices_a_model_that_was_changed(writer: Whatever, tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    cube().tec.to_zarr(place, embed_model=True, **writer)
    chunk = place / GROUP / writer["model"] / "c" / "0"
    data = bytearray(chunk.read_bytes())
    data[-3] ^= 1
    chunk.write_bytes(data)
    (problem,) = archive.verify(place).problems
    assert problem.array == f"{GROUP}/{writer['model']}"
    assert "it was changed" in problem.message


def test_there_must_be_something_to_add_and_a_place_to_write(tmp_path: Path) -> None:
    cube().to_zarr(tmp_path / "plain.zarr", zarr_format=2)
    with pytest.raises(ModelNotFoundError, match="carries no model"):
        archive.add_models(tmp_path / "plain.zarr")
    with pytest.raises(TecError, match="does not exist"):
        archive.add_models(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="give a store"):
        cube().tec.to_zarr(embed_model=True)


# What others may send


def with_header(data: bytes, change: Whatever) -> bytes:
    """A safetensors file with another header."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + data[8 + size :]


def set_fields(header: Whatever, **fields: Whatever) -> None:
    own = json.loads(header["__metadata__"]["fields"])
    own["config"] |= fields.pop("config", {})
    header["__metadata__"]["fields"] = json.dumps(own | fields)


def first_tensor(header: Whatever) -> Whatever:
    return next(value for name, value in header.items() if name != "__metadata__")


HOSTILE = {
    "empty": lambda _: b"\0",
    "cut": lambda data: data[: len(data) // 2],
    "a huge header": lambda data: struct.pack("<Q", 1 << 62) + data[8:],
    "a huge tensor": lambda data: with_header(
        data, lambda header: first_tensor(header).update(shape=[1 << 40])
    ),
    "offsets beyond the file": lambda data: with_header(
        data, lambda header: first_tensor(header).update(data_offsets=[0, 1 << 40])
    ),
    "a dtype that NumPy lacks": lambda data: with_header(
        data, lambda header: first_tensor(header).update(dtype="F8_E4M3")
    ),
    "no fields": lambda data: with_header(data, lambda header: header.pop("__metadata__")),
    "fields that are a list": lambda data: with_header(
        data, lambda header: header["__metadata__"].update(fields="[]")
    ),
    "endless fields": lambda data: with_header(
        data, lambda header: header["__metadata__"].update(fields="[" * 100_000)
    ),
    "another version": lambda data: with_header(data, lambda header: set_fields(header, version=9)),
    "a family of nobody": lambda data: with_header(
        data, lambda header: set_fields(header, family=["fp"])
    ),
    "a huge network": lambda data: with_header(
        data, lambda header: set_fields(header, config={"width": 1 << 20})
    ),
    "a width of text": lambda data: with_header(
        data, lambda header: set_fields(header, config={"width": "wide"})
    ),
    "a pickle": lambda _: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_files_that_are_no_artifacts_are_refused(
    change: Whatever, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_reader(tmp_path, monkeypatch)
    path = tmp_path / "model"
    artifact.save(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelMismatchError):
        archive.add_models(path)
    identity = "0" * 64
    with suppress(TecError):
        identity = artifacts.load(path).identity()
    carry_bytes(tmp_path / "a.zarr", identity, path.read_bytes())
    with pytest.raises(ModelMismatchError, match=f"{GROUP}/{identity}|artifact|model family"):
        archive.add_models(tmp_path / "a.zarr")
    assert not (tmp_path / "reader").exists()


def carry_bytes(place: Path, name: str, data: bytes, **options: Whatever) -> zarr.Array[Whatever]:
    """Put an array where models stand."""
    values = np.frombuffer(data, np.uint8)
    group = zarr.open_group(place, mode="a").require_group(GROUP)
    array = group.create_array(
        name, shape=options.pop("shape", values.shape), dtype="u1", compressors=None, **options
    )
    if "chunks" not in options:
        array[...] = values.reshape(array.shape)
    return array


@pytest.mark.parametrize("name", ["1" * 64, "model", ".."])
def test_a_model_under_another_name_is_refused(
    name: str, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_reader(tmp_path, monkeypatch)
    artifact.save(tmp_path / "model")
    carry_bytes(tmp_path / "a.zarr", name.replace("..", "dots"), (tmp_path / "model").read_bytes())
    with pytest.raises(ModelMismatchError, match="should be model"):
        archive.add_models(tmp_path / "a.zarr")
    assert not (tmp_path / "reader").exists()


def test_arrays_that_are_no_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_reader(tmp_path, monkeypatch)
    claims: list[dict[str, Whatever]] = [
        {"shape": (1 << 50,), "chunks": (1 << 20,)},
        {"shape": (1 << 29,), "chunks": (1 << 29,)},
        {"shape": (5,), "chunks": (1 << 45,)},
        {"shape": (2, 3)},
    ]
    for index, options in enumerate(claims):
        place = tmp_path / f"{index}.zarr"
        carry_bytes(place, "2" * 64, b"abcdef", **options)
        with pytest.raises(ModelMismatchError, match=f"the model {GROUP}/222"):
            archive.add_models(place)
        assert len(archive.verify(place).problems) == 1
    array = carry_bytes(tmp_path / "cut.zarr", "3" * 64, b"abcdef")
    (tmp_path / "cut.zarr" / array.path / "c" / "0").write_bytes(b"ab")
    with pytest.raises(ModelMismatchError, match="cannot be read"):
        archive.add_models(tmp_path / "cut.zarr")


def test_readers_of_format_2_get_the_same_codec(writer: Whatever, tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    data = xr.concat([cube(), cube()], "time").chunk({"time": 1})
    data.tec.to_zarr(place, zarr_format=2, embed_model=True, compute=False, **writer).compute()
    codec = TEC(model=writer["model"], quality=10)
    assert described(place).models[0].identity == codec.model


# What is at hand


def test_models_are_listed_and_shown(
    writer: Whatever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "given.tec.safetensors"
    card = {"summary": "[red]mine\x1b[2J", "data": {"scenes": 3}}
    other = replace(strided_artifact(latents=14), card=card).save(given)
    (tmp_path / "writer" / "00ff.tec.safetensors").write_bytes(b"junk")
    monkeypatch.setenv(shelf.PATH_VARIABLE, str(given))
    told = run("models", "list")
    assert told == run("models")
    for words in (("tec-fp-s2l2a", "28 to 56 (113)", "MB", "bundled"), ("00ff", "no TEC artifact"),
                  (writer["model"][:12], "fp", "s2l2a", "10", "cache"),
                  ("given", other[:12], "path", "[red]mine?[2J")):  # fmt: skip
        assert any(all(word in line for word in words) for line in told.splitlines()), words
    told = run("models", "show", other[:16])
    assert all(word in told for word in (other, str(given), '"scenes": 3', "B8A", "[red]mine?"))
    assert writer["model"] in run("models", "show", writer["model"])


def test_models_that_are_not_there_or_are_damaged_are_not_shown(
    writer: Whatever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFoundError, match="no model at hand is 'nobody'"):
        run("models", "show", "nobody")
    for latents in (14, 15):
        folder = tmp_path / str(latents)
        folder.mkdir()
        strided_artifact(latents=latents).save(folder / "mine.tec.safetensors")
    places = f"{tmp_path / '14'}{os.pathsep}{tmp_path / '15'}"
    monkeypatch.setenv(shelf.PATH_VARIABLE, places)
    with pytest.raises(ModelNotFoundError, match="several models are 'mine'"):
        run("models", "show", "mine")
    path = shelf.cached_file(writer["model"])
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelMismatchError, match="it was changed"):
        run("models", "show", writer["model"])
