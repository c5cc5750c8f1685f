from __future__ import annotations

import shutil
import time
import warnings
from typing import TYPE_CHECKING, Literal

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from tec_zarr import TecError, archive, encoding
from tec_zarr.archive.stores import OPENS_FILL_VALUES
from tec_zarr.codec import decode_chunk
from tec_zarr.errors import ChecksumError, ConfigError, FormatError
from tests.cubes import WORST, Whatever, dataset, error

if TYPE_CHECKING:
    from pathlib import Path

Format = Literal[2, 3]
FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])
LAYOUTS: dict[str, Whatever] = {
    "format 2": {"zarr_format": 2, "chunks": {"y": 64, "x": 64}},
    "format 3": {"zarr_format": 3, "chunks": {"y": 64, "x": 64}},
    "sharded": {"chunks": {"y": 64, "x": 64}, "shards": {"y": 128, "x": 128}},
}
ALL_LAYOUTS = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def plain(path: Path, data: xr.Dataset | None = None, zarr_format: Format = 2) -> Path:
    """A store as somebody else would have it, in chunks across all bands' borders."""
    data = dataset((2, 12, 70, 90)) if data is None else data
    own = {"s2": {"chunks": (2, 5, 40, 50)}}
    none = {name: {"_FillValue": None} for name in ("y", "x")}  # as xarray 2025.1 needs it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata")
        data.to_zarr(path, zarr_format=zarr_format, encoding=own | none)
    return path


def made(folder: Path, **options: Whatever) -> tuple[Path, Path]:
    """A store and the archive made of it."""
    source, target = plain(folder / "plain.zarr"), folder / "archive.zarr"
    archive.compress(source, target, **options)
    return source, target


def rewrite(path: Path, change: Whatever) -> None:
    """Change the bytes of a file."""
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(change(data) or data))


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 16


def is_left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# There and back


@ALL_LAYOUTS
def test_an_archive_differs_from_its_source_in_pixels_only(
    layout: Whatever, tmp_path: Path
) -> None:
    source, target = made(tmp_path, **layout)
    steps: list[tuple[int, int]] = []
    archive.decompress(target, tmp_path / "again.zarr", progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] == len(steps)
    with xr.open_zarr(source) as old, xr.open_zarr(target) as new:
        assert error(new["s2"].values, old["s2"].values) < WORST
        xr.testing.assert_identical(new.drop_vars("s2").load(), old.drop_vars("s2").load())
        assert old["s2"].attrs.items() <= new["s2"].attrs.items()
        with xr.open_zarr(tmp_path / "again.zarr") as back:
            assert np.abs(back["s2"].values.astype(int) - new["s2"].values).max() <= 1
            xr.testing.assert_identical(back.drop_vars("s2").load(), new.drop_vars("s2").load())
            assert back["s2"].attrs == new["s2"].attrs
            assert back["s2"].encoding["chunks"] == new["s2"].encoding["chunks"]
    assert is_left(tmp_path) == {"plain.zarr", "archive.zarr", "again.zarr"}


@FORMATS
def test_all_groups_are_copied_and_their_images_compressed(
    zarr_format: Format, tmp_path: Path
) -> None:
    groups = {
        "/": xr.Dataset(attrs={"title": "tree"}),
        "/north/2020": dataset((1, 12, 40, 64)),
        "/tables": xr.Dataset({"area": ("field", [1.5, np.nan])}, attrs={"unit": "ha"}),
    }
    tree = xr.DataTree.from_dict(groups)
    tree.to_zarr(tmp_path / "plain.zarr", zarr_format=2)
    archive.compress(tmp_path / "plain.zarr", tmp_path / "a.zarr", zarr_format=zarr_format)
    with xr.open_datatree(tmp_path / "a.zarr", engine="zarr", consolidated=False) as found:
        assert found.attrs == {"title": "tree"}
        xr.testing.assert_identical(found["tables"].to_dataset().load(), groups["/tables"])
        image = found["north/2020/s2"]
        assert "compression_model" in image.attrs
        assert error(image.values, groups["/north/2020"]["s2"].values) < WORST
    names = [array.name for array in described(tmp_path / "a.zarr").arrays]
    assert {"north/2020/s2", "tables/area"} <= set(names)
    assert not archive.verify(tmp_path / "a.zarr", tmp_path / "plain.zarr").problems


def test_stores_that_are_no_paths_work_too(tmp_path: Path) -> None:
    memory = MemoryStore()
    archive.compress(plain(tmp_path / "plain.zarr"), memory)
    assert not archive.verify(memory, tmp_path / "plain.zarr").problems
    with pytest.raises(ConfigError, match="exists"):
        archive.compress(tmp_path / "plain.zarr", memory)
    archive.compress(tmp_path / "plain.zarr", memory, overwrite=True, quality=30)
    assert "30" in str(described(memory))


def test_packed_values_stay_packed(tmp_path: Path) -> None:
    data = dataset((1, 12, 40, 40))
    data["s2"].attrs |= {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": np.uint16(0)}
    data["s2"][0, :, :7] = 0
    source = plain(tmp_path / "plain.zarr", data)
    archive.compress(source, tmp_path / "a.zarr", zarr_format=2)
    with xr.open_zarr(tmp_path / "a.zarr") as found:
        assert found["s2"].dtype.kind == "f"
        assert np.isnan(found["s2"].values[0, :, :7]).all()
        assert error(found["s2"].values[0, :, 7:], (data["s2"].values[0, :, 7:] * 1e-4 - 0.1)) < 1
    codec = described(tmp_path / "a.zarr").arrays[1].codec
    assert codec is not None
    assert (codec.scale, codec.offset, codec.nodata) == (1, -1000, 0)
    assert not archive.verify(tmp_path / "a.zarr", source).problems


@pytest.mark.skipif(OPENS_FILL_VALUES, reason="this xarray reads what it writes")
def test_what_the_installed_xarray_could_not_open_is_not_written(tmp_path: Path) -> None:
    data = dataset((1, 12, 40, 40))
    data["s2"].attrs["_FillValue"] = np.uint16(0)
    source = plain(tmp_path / "plain.zarr", data)
    with pytest.raises(ConfigError, match=r"xarray 2025\.6"):
        archive.compress(source, tmp_path / "a.zarr", zarr_format=3)


@FORMATS
@pytest.mark.parametrize("codec", ["zstd", "gzip", "none"])
def test_any_codec_with_a_name_will_do(codec: str, zarr_format: Format, tmp_path: Path) -> None:
    _, target = made(tmp_path, zarr_format=zarr_format)
    archive.decompress(target, tmp_path / "again.zarr", codec=codec)
    compressors = zarr.open_group(tmp_path / "again.zarr", mode="r")["s2"].compressors  # type: ignore[union-attr]
    assert codec in (repr(compressors).lower() if compressors else "none")


@FORMATS
@pytest.mark.parametrize("codec", ["nonsense", "tec", "delta", "bytes_"])
def test_no_other_codec_will(codec: str, zarr_format: Format, tmp_path: Path) -> None:
    _, target = made(tmp_path, zarr_format=zarr_format)
    with pytest.raises(ConfigError, match=codec):
        archive.decompress(target, tmp_path / "again.zarr", codec=codec)


# Refusals and accidents


def test_what_exists_stays_unless_it_is_to_be_overwritten(tmp_path: Path) -> None:
    source, target = made(tmp_path)
    with pytest.raises(ConfigError, match="exists"):
        archive.compress(source, target)
    archive.compress(source, target, overwrite=True, quality=30)
    codec = next(array.codec for array in described(target).arrays if array.codec)
    assert codec.quality == 30
    with pytest.raises(TecError, match="no quality 99"):
        archive.compress(source, target, overwrite=True, quality=99)
    assert not archive.verify(target).problems
    assert is_left(tmp_path) == {"plain.zarr", "archive.zarr"}


def test_folders_that_are_no_stores_are_never_overwritten(tmp_path: Path) -> None:
    source = plain(tmp_path / "plain.zarr")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="no Zarr store"):
        archive.compress(source, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


@pytest.mark.parametrize("inner", ["plain.zarr", "plain.zarr/deep/a.zarr", "."])
def test_source_and_target_are_kept_apart(inner: str, tmp_path: Path) -> None:
    source = plain(tmp_path / "plain.zarr")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="must not lie in each other"):
        archive.compress(source, tmp_path / inner, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 99}, "no quality"),
        ({"model": "no-such"}, "no-such"),
        ({"chunks": (1,)}, "axes"),
    ],
)
def test_a_failure_leaves_nothing_behind(options: Whatever, message: str, tmp_path: Path) -> None:
    source = plain(tmp_path / "plain.zarr")
    with pytest.raises(TecError, match=message):
        archive.compress(source, tmp_path / "new" / "a.zarr", **options)
    assert not list(tmp_path.glob("new/*"))


def test_stores_without_images_and_places_without_stores_say_so(tmp_path: Path) -> None:
    with pytest.raises(TecError, match="does not exist"):
        archive.compress(tmp_path / "nowhere.zarr", tmp_path / "a.zarr")
    with pytest.raises(TecError, match="no Zarr store"):
        archive.compress(tmp_path, tmp_path.with_name("a.zarr"))
    source = plain(tmp_path / "plain.zarr")
    with pytest.raises(TecError, match="single array"):
        archive.info(source / "s2")
    with pytest.raises(ConfigError, match="holds nothing"):
        archive.decompress(source, tmp_path / "a.zarr")
    dataset((1, 12, 40, 40))[["scl"]].to_zarr(tmp_path / "masks.zarr", zarr_format=2)
    with pytest.raises(ConfigError, match="no variable is an image"):
        archive.compress(tmp_path / "masks.zarr", tmp_path / "a.zarr")
    with pytest.raises(ConfigError, match="allow_recompress"):
        archive.compress(made(tmp_path / "deep")[1], tmp_path / "a.zarr")


def test_damage_stops_decompression_and_says_where_to_look(tmp_path: Path) -> None:
    _, target = made(tmp_path)
    rewrite(target / "s2" / "c" / "0" / "0" / "0" / "0", flip)
    with pytest.raises(ChecksumError) as caught:
        archive.decompress(target, tmp_path / "again.zarr")
    assert "tec-zarr verify" in str(caught.value.__notes__)
    assert is_left(tmp_path) == {"plain.zarr", "archive.zarr"}


def test_nothing_is_written_any_more_when_decompression_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, target = made(tmp_path)
    rewrite(target / "s2" / "c" / "0" / "0" / "0" / "0", flip)
    running = []

    def slowly(data: Whatever, at_most: float | None) -> Whatever:
        running.append(1)
        try:
            decoded = decode_chunk(data, at_most)
            time.sleep(0.2)
            return decoded
        finally:
            running.pop()

    monkeypatch.setattr("tec_zarr.serializer.decode_chunk", slowly)
    with dask.config.set(num_workers=4), pytest.raises(ChecksumError):
        archive.decompress(target, tmp_path / "again.zarr")
    assert not running
    assert is_left(tmp_path) == {"plain.zarr", "archive.zarr"}


# What an archive says of itself


def described(place: Whatever) -> archive.StoreInfo:
    found = archive.info(place)
    assert isinstance(found, archive.StoreInfo)
    return found


@ALL_LAYOUTS
def test_info_counts_what_is_there(layout: Whatever, tmp_path: Path) -> None:
    _, target = made(tmp_path, measure=True, **layout)
    arrays = {array.name: array for array in described(target).arrays}
    image = arrays["s2"]
    files = [path for path in (target / "s2").rglob("*") if path.is_file()]
    assert image.stored_bytes == sum(path.stat().st_size for path in files)
    assert image.raw_bytes == 2 * 2 * 12 * 70 * 90
    assert image.codec is not None
    assert image.codec.model == "tec-fp-s2l2a"
    assert image.contents is not None
    assert (image.contents.chunks, image.contents.stored, image.contents.damaged) == (8, 8, 0)
    assert len(image.contents.models) == 1
    assert arrays["scl"].codec is None
    assert arrays["scl"].contents is None


def test_recorded_errors_are_those_that_verifying_finds(tmp_path: Path) -> None:
    source, target = made(tmp_path, measure=True)
    (image,) = (array for array in described(target).arrays if array.contents)
    (found,) = (array.distortion for array in archive.verify(target, source).arrays if array.lossy)
    assert found is not None
    recorded = image.contents.achieved  # type: ignore[union-attr]
    assert recorded is not None
    assert recorded.max_abs == pytest.approx(found.max_error, abs=1)
    assert recorded.mse == pytest.approx(found.rmse**2, rel=0.01)


def test_a_chunk_file_says_what_it_holds(tmp_path: Path) -> None:
    source, target = made(tmp_path)
    path = target / "s2" / "c" / "1" / "0" / "0" / "0"
    found = archive.info(path)
    assert isinstance(found, archive.ChunkInfo)
    assert (found.header.shape, found.model, found.tiles) == ((1, 12, 70, 90), "tec-fp-s2l2a", 1)
    assert found.stored_bytes == path.stat().st_size
    rewrite(path, lambda data: data + b"more")
    with pytest.raises(FormatError, match="promises"):
        archive.info(path)
    with pytest.raises(FormatError, match=r"\.zattrs"):
        archive.info(source / ".zattrs")


# Verifying


def chunk_files(target: Path) -> list[Path]:
    """Objects of the image, in order."""
    return sorted(
        path for path in (target / "s2").rglob("*")
        if path.is_file() and path.name[0] not in ".z"
    )  # fmt: skip


@ALL_LAYOUTS
def test_a_whole_archive_has_no_problems(layout: Whatever, tmp_path: Path) -> None:
    source, target = made(tmp_path, **layout)
    steps: list[tuple[int, int]] = []
    report = archive.verify(target, source, lambda *step: steps.append(step))
    assert not report.problems
    image = next(array for array in report.arrays if array.lossy)
    assert (image.read, image.missing) == (8, 0)
    assert image.distortion is not None
    assert image.distortion.rmse < WORST
    assert sorted(steps) == [(done, len(steps)) for done in range(1, len(steps) + 1)]


@pytest.mark.parametrize("layout", [LAYOUTS["format 2"], LAYOUTS["format 3"]], ids=[2, 3])
def test_all_damage_is_listed_and_the_rest_is_read(layout: Whatever, tmp_path: Path) -> None:
    source, target = made(tmp_path, **layout)
    files = chunk_files(target)
    rewrite(files[0], flip)
    rewrite(files[2], lambda data: data[:-1])
    rewrite(files[3], lambda data: b"TEC2" + data[4:])
    shutil.copy(chunk_files(target)[4], files[5])
    files[7].unlink()
    report = archive.verify(target)
    image = next(array for array in report.arrays if array.lossy)
    assert (image.read, image.missing, len(report.problems)) == (4, 1, 3)
    told = "\n".join(map(str, report.problems))
    assert "s2[0:1, 0:12, 0:64, 0:64]" in told
    assert all(word in told for word in ("damaged", "promises", "TEC2"))
    compared = archive.verify(target, source)
    assert "between data and nodata" in str(compared.problems[-1])


def test_damage_within_shards_is_listed(tmp_path: Path) -> None:
    _, target = made(tmp_path, **LAYOUTS["sharded"])
    first, second = chunk_files(target)
    rewrite(first, lambda data: flip_at(data, 500))
    rewrite(second, lambda data: flip_at(data, len(data) - 9))
    report = archive.verify(target)
    image = next(array for array in report.arrays if array.lossy)
    assert image.read == 3
    assert [problem.place.split(" (")[-1] for problem in report.problems] == [
        "c/0/0/0/0)",
        " c/1/0/0/0",
    ]
    assert "index of the shard" in report.problems[1].message
    rewrite(second, lambda data: data[:20])
    assert "shorter than its index" in archive.verify(target).problems[1].message


def flip_at(data: bytearray, place: int) -> None:
    data[place] ^= 1


@ALL_LAYOUTS
def test_chunks_of_fill_value_are_not_stored_and_not_missed(
    layout: Whatever, tmp_path: Path
) -> None:
    data = dataset((2, 12, 70, 90))
    data["s2"][1] = 0
    data["s2"][0, :, :64, :64] = 0
    source = plain(tmp_path / "plain.zarr", data)
    archive.compress(source, tmp_path / "a.zarr", **layout)
    report = archive.verify(tmp_path / "a.zarr", source)
    image = next(array for array in report.arrays if array.lossy)
    assert not report.problems
    assert (image.read, image.missing) == (3, 5)
    (seen,) = (array.contents for array in described(tmp_path / "a.zarr").arrays if array.contents)
    assert (seen.chunks, seen.stored, seen.constant) == (8, 3, 0)


def test_a_chunk_of_another_array_is_noticed(tmp_path: Path) -> None:
    _, target = made(tmp_path)
    _, other = made(tmp_path / "other", chunks={"y": 64, "x": 64})
    shutil.copy(chunk_files(other)[0], chunk_files(target)[0])
    assert "belongs to another array" in str(archive.verify(target).problems)


def test_other_arrays_are_read_and_compared_too(tmp_path: Path) -> None:
    source, target = made(tmp_path, zarr_format=2)
    group = zarr.open_group(source, mode="a")
    group["x"][3] = 17  # type: ignore[index]
    group.create_array("extra", shape=(2,), dtype="u1")
    zarr.consolidate_metadata(source)
    rewrite(target / "scl" / "0.0.0", lambda data: data[:30])
    told = [str(problem) for problem in archive.verify(target, source).problems]
    assert told[0] == "extra: is not in the store"
    assert [line.partition("[")[0] for line in told[1:]] == ["scl", "x"]
    assert "differs from the source" in told[2]


def test_unlike_arrays_are_not_compared(tmp_path: Path) -> None:
    _, target = made(tmp_path)
    other = plain(tmp_path / "other.zarr", dataset((2, 12, 70, 80)))
    told = " ".join(map(str, archive.verify(target, other).problems))
    assert "s2: is uint16 (2, 12, 70, 90), in the source uint16 (2, 12, 70, 80)" in told


def test_chunks_behind_another_codec_are_verified_all_the_same(tmp_path: Path) -> None:
    data = dataset((2, 12, 70, 90))
    own = encoding(data)
    own["s2"]["compressors"] = [Crc32cCodec()]
    none: Whatever = {name: {"_FillValue": None} for name in ("y", "x")}
    data.to_zarr(tmp_path / "a.zarr", zarr_format=3, encoding=own | none, consolidated=False)
    assert not archive.verify(tmp_path / "a.zarr").problems
    (image,) = (array for array in described(tmp_path / "a.zarr").arrays if array.codec)
    assert image.contents is None
    rewrite(chunk_files(tmp_path / "a.zarr")[0], flip)
    assert len(archive.verify(tmp_path / "a.zarr").problems) == 1
