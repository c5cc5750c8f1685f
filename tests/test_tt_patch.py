"""TEC-TT in patch layout: what dates are context, and what a reader must know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig
from tec_zarr.entropy.rans import Encoder
from tec_zarr.errors import FormatError
from tec_zarr.models import registry
from tec_zarr.models.coding import Checked, Recorder
from tec_zarr.models.priors import Coded
from tec_zarr.models.tt_patch import DATES, NAMES, OLDEST, PatchTemporal
from tec_zarr.samples import sample
from tests.draws import draw
from tests.golden.make import scene
from tests.tiny import RGB, neighbour_artifact
from tests.written import Written

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tec_zarr.models.artifact import Artifact
    from tec_zarr.models.coding import Ints
    from tec_zarr.models.priors import Grid

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (24, 40)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return neighbour_artifact(PatchTemporal)


@pytest.fixture(scope="module")
def model(artifact: Artifact) -> PatchTemporal:
    return cast("PatchTemporal", registry.build(artifact))


@pytest.fixture
def named(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TEC_ZARR_MODELS", str(tmp_path))
    registry.forget()
    return artifact.save(tmp_path / "tt.tec.safetensors")


def frames(tiles: int, steps: int) -> torch.Tensor:
    """Dates that are alike, on hills."""
    hills = np.cumsum(draw("hills", (tiles, 1, len(RGB), *SIZE), 0.2), -1)
    return torch.from_numpy(hills + draw("noise", (tiles, steps, len(RGB), *SIZE), 0.1))


def grid_of(model: PatchTemporal, tiles: int, count: int, **fields: Any) -> Grid:
    return model.grid(tiles, count, SIZE)._replace(**fields)


class Named(Checked):
    """Keeps the dates that are named."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.names: list[Ints] = []

    def __call__(self, symbols: Ints | None, rows: Ints) -> Ints:
        known = super().__call__(symbols, rows)
        if (rows == NAMES).any():
            self.names.append(known)
        return known


def part_of(given: Coded, frames: list[int]) -> Coded:
    """Some frames of a single tile."""
    turns = tuple(given.turns[frame] for frame in frames)
    return Coded((given.maps[0][:, frames],), given.whole, turns)


@pytest.mark.parametrize("quality", [0, 2])
@torch.inference_mode()
def test_what_is_written_is_read(model: PatchTemporal, quality: int) -> None:
    written = Written(model, model.analyse(frames(2, 4), quality), grid_of(model, 2, 4), quality)
    back = written.read()
    assert torch.equal(back.maps[0], written.seen.maps[0])
    assert [len(turn) for turn in back.turns] == [4] * 8


@torch.inference_mode()
def test_a_tile_does_not_depend_on_its_batch(model: PatchTemporal) -> None:
    absent = np.array([[False, True, False], [True, False, False]])
    given = model.analyse(frames(2, 3), 2)
    together = Written(model, given, grid_of(model, 2, 3, absent=absent))
    for tile in range(2):
        turns = given.turns[3 * tile : 3 * tile + 3]
        own = Coded((given.maps[0][tile : tile + 1],), given.whole[:1], turns)
        alone = Written(model, own, grid_of(model, 1, 3, absent=absent[tile : tile + 1]))
        assert alone.streams[0] == together.streams[tile]
        assert alone.checksums[0] == together.checksums[tile]


@torch.inference_mode()
def test_context_never_crosses_series(model: PatchTemporal) -> None:
    given = model.analyse(frames(1, 4), 2)
    both = Written(model, given, grid_of(model, 1, 4, series=2))
    apart = [Written(model, part_of(given, [k, k + 1]), grid_of(model, 1, 2)) for k in (0, 2)]
    assert torch.equal(both.seen.maps[0], torch.cat([one.seen.maps[0] for one in apart], 1))


@torch.inference_mode()
def test_absent_frames_cost_little_and_are_no_context(model: PatchTemporal) -> None:
    given = model.analyse(frames(1, 4), 2)
    holed = Written(model, given, grid_of(model, 1, 4, absent=np.array([[True, False] * 2])))
    short = Written(model, part_of(given, [1, 3]), grid_of(model, 1, 2))
    assert torch.equal(holed.seen.maps[0][:, [1, 3]], short.seen.maps[0])
    assert abs(len(holed.streams[0]) - len(short.streams[0])) <= 8
    assert torch.equal(holed.read().maps[0], holed.seen.maps[0])


@torch.inference_mode()
def test_no_frame_knows_what_comes_after_it(model: PatchTemporal) -> None:
    given = model.analyse(frames(1, 4), 2)
    whole = Written(model, given, grid_of(model, 1, 4)).seen.maps[0]
    for count in range(1, 4):
        start = Written(model, part_of(given, list(range(count))), grid_of(model, 1, count))
        assert torch.equal(start.seen.maps[0], whole[:, :count])


@torch.inference_mode()
def test_the_most_alike_dates_are_named(model: PatchTemporal) -> None:
    dates = frames(1, 5)
    dates[:, 2:4] = 4 * torch.from_numpy(draw("clouds", (1, 2, len(RGB), *SIZE)))
    given = model.analyse(dates, 2)
    written = Written(model, given, grid_of(model, 1, 5), 2, Named)
    names = cast("Named", written.checked).names
    assert names[0].tolist() == [[0, 0]]
    assert names[1].tolist() == [[1, 0]]
    assert sorted(names[4][0].tolist()) == [3, 4]  # behind the clouds


@torch.inference_mode()
def test_whatever_a_stream_names_is_a_date(model: PatchTemporal) -> None:
    written = Written(model, model.analyse(frames(1, 2), 2), grid_of(model, 1, 2))

    class Hostile(Checked):
        def __call__(self, symbols: Ints | None, rows: Ints) -> Ints:
            del symbols
            named = (rows == NAMES).all()
            return np.full(rows.shape, OLDEST, np.int32) if named else np.zeros_like(rows)

    coder = Hostile(Encoder(model.tables, 1), Recorder(1), model.tables, 1)
    assert model.code(coder, None, written.grid, 1).maps[1].isfinite().all()


@torch.inference_mode()
def test_last_bits_of_networks_do_not_matter(model: PatchTemporal) -> None:
    """Another machine: weights that differ in the last bits of float64."""
    written = Written(model, model.analyse(frames(2, 3), 2), grid_of(model, 2, 3))
    other = PatchTemporal(model.config).eval().requires_grad_(requires_grad=False)
    other.prior.double()
    state = {
        name: value * (1 + 1e-15 * torch.from_numpy(draw(name, tuple(value.shape))).double())
        if name.startswith("prior") and not name.endswith("flat") else value
        for name, value in model.state_dict().items()
    }  # fmt: skip
    other.load_state_dict(state)
    other.tables, other.sparse = model.tables, model.sparse
    assert torch.equal(written.read(other).maps[0], written.seen.maps[0])


def test_chunks_come_back_with_nodata_and_series(named: str) -> None:
    chunk: NDArray[np.uint16] = scene(2, 3, 3, 70, 130)
    chunk[0, 1] = 0
    chunk[1, 2, :, :30] = 0
    config = TecConfig(model=named, quality=50, nodata=0, tile=64, bands=RGB)
    data = encode_chunk(chunk, config)
    back = decode_chunk(data)
    assert ((back == 0) == (chunk == 0)).all()
    valid = chunk > 0
    assert np.abs(back[valid].astype(int) - chunk[valid]).mean() < 120
    alone = decode_chunk(encode_chunk(chunk[1], config))
    assert (np.abs(back[1].astype(int) - alone) <= 1).all()
    for place in range(40, len(data), max(1, len(data) // 40)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(FormatError):
            decode_chunk(bytes(damaged))


def test_dates_are_what_the_format_says() -> None:
    assert (DATES, OLDEST) == (2, 15)


def test_the_bundled_model_knows_dates_again() -> None:
    frame = sample()["s2"].values[0].astype(np.float64)
    light = 1 + 0.1 * draw("light", (4, 12, 1, 1))
    noise = 15 * draw("noise of dates", (4, *frame.shape))
    series = np.clip(frame * light + noise, 1, 65535).astype(np.uint16)
    codec = TecConfig(model="tec-tt-s2l2a", quality=42)
    together = encode_chunk(series, codec)
    alone = sum(len(encode_chunk(date[None], codec)) for date in series)
    assert len(together) < 0.7 * alone
    back = decode_chunk(together).astype(float)
    assert np.square(back - series).mean() < 150**2
