from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr.entropy.tables import Tables, laplacian
from tec_zarr.errors import FormatError, TecError
from tec_zarr.models.coding import (
    BAND,
    LIMIT,
    Checked,
    Recorder,
    Replay,
    pack_places,
    parse_places,
)
from tec_zarr.wire import parse_varints, varint

Calls = list[torch.Tensor]


def calls_of(data: st.DataObject) -> Calls:
    """Some calls with values of a few tiles, many of them on a border or next to it."""
    tiles = data.draw(st.integers(1, 4))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    calls = []
    for count in data.draw(st.lists(st.integers(0, 40), max_size=5)):
        values = random.normal(0, 30, (tiles, count, 2))
        border = np.floor(values) + 0.5 + random.uniform(-3e-7, 3e-7, values.shape)
        values = np.where(random.random(values.shape) < 0.3, border, values)
        calls.append(torch.from_numpy(values))
    return calls


@given(st.data())
def test_readers_with_other_last_bits_get_the_same_integers(data: st.DataObject) -> None:
    calls = calls_of(data)
    tiles = len(calls[0]) if calls else 1
    writer = Recorder(tiles)
    written = [writer(values) for values in calls]
    assert all(
        (w - v).abs().max() <= 0.5 + BAND for w, v in zip(written, calls, strict=True) if v.numel()
    )
    reader = Replay(writer.finish())
    noise = np.random.default_rng(0)
    for values, expected in zip(calls, written, strict=True):
        other = values + torch.from_numpy(noise.uniform(-2e-7, 2e-7, values.shape))
        assert torch.equal(reader(other), expected)
    reader.finish()


@given(st.data())
def test_overrides_of_a_tile_are_the_same_in_any_company(data: st.DataObject) -> None:
    calls = calls_of(data)
    for tile in range(len(calls[0]) if calls else 0):
        alone, together = Recorder(1), Recorder(len(calls[0]))
        for values in calls:
            together(values)
            alone(values[tile : tile + 1])
        assert alone.finish() == together.finish()[tile : tile + 1]
        assert alone.counts[0] == together.counts[tile]


def test_only_what_is_near_a_border_is_noted() -> None:
    values = torch.tensor([[0.4, 0.5, 0.5 + 2 * BAND, -1.5 - BAND / 2, 7.0]], dtype=torch.float64)
    writer = Recorder(1)
    assert writer(values).tolist() == [[0, 0, 1, -2, 7]]
    assert writer.finish() == [pack_places(np.array([1, 3]))]
    assert writer.share == 2 / 5
    assert Recorder(1).share == 0


def test_the_overrides_are_needed() -> None:
    writer = Recorder(1)
    expected = writer(torch.tensor([[0.5 - 1e-9]], dtype=torch.float64))
    other = torch.tensor([[0.5 + 1e-9]], dtype=torch.float64)
    assert Replay([b""])(other) != expected
    assert Replay(writer.finish())(other) == expected


def test_values_that_are_no_integers_become_some() -> None:
    values = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1e300]], dtype=torch.float64)
    expected = [[0, LIMIT, -LIMIT, LIMIT]]
    assert Recorder(1)(values).tolist() == Replay([b""])(values).tolist() == expected


def test_floats_of_less_precision_are_refused() -> None:
    with pytest.raises(TecError, match="float32"):
        Recorder(1)(torch.zeros(1, 3))
    with pytest.raises(TecError, match="2 tiles"):
        Recorder(2)(torch.zeros(3, 3, dtype=torch.float64))


@given(st.lists(st.integers(0, 2**34), unique=True, max_size=50))
def test_places_come_back(places: list[int]) -> None:
    rising = np.array(sorted(places), np.int64)
    assert (parse_places(pack_places(rising)) == rising).all()


@given(st.lists(st.integers(0, 2**63 - 1)))
def test_numbers_come_back(numbers: list[int]) -> None:
    assert parse_varints(b"".join(map(varint, numbers))).tolist() == numbers


@given(st.binary(max_size=40))
def test_hostile_overrides_are_errors_or_harmless(section: bytes) -> None:
    try:
        reader = Replay([section, b""])
    except FormatError:
        return
    values = torch.full((2, 100), 0.6, dtype=torch.float64)
    found = reader(values)
    assert set(found.flatten().tolist()) <= {0, 1}
    assert found[1].tolist() == [1] * 100
    if pack_places(parse_places(section)) != section:
        pytest.fail("two spellings of the same overrides")
    met = not section or int(parse_places(section)[-1]) < 100
    if not met:
        with pytest.raises(FormatError, match="override"):
            reader.finish()


@pytest.mark.parametrize(
    "section", [b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 8 + b"\x7f"]
)
def test_broken_overrides_are_refused(section: bytes) -> None:
    with pytest.raises(FormatError):
        parse_places(section)


def echo(symbols: Any, rows: Any) -> Any:
    return symbols if symbols is not None else rows


def test_symbols_of_certain_rows_are_not_in_the_checksum() -> None:
    tables = Tables.from_pmf([np.ones(1), np.array([0.5, 0.5])], [0, 0])
    checksums = []
    for rows, symbols in (([1, 1], [0, 1]), ([1, 0, 0, 1, 0], [0, 7, 7, 1, 7])):
        checked = Checked(echo, Recorder(1), tables, 1)
        checked(np.array([symbols], np.int32), np.array([rows], np.int32))
        checksums += checked.checksums
    assert checksums[0] == checksums[1] != 0


def test_all_integers_are_in_the_checksum() -> None:
    values = torch.tensor([[1.2, 3.4]], dtype=torch.float64)

    def checksum(rows: list[int], nudge: float) -> list[int]:
        checked = Checked(echo, Recorder(1), laplacian([1.0]), 1)
        checked.guard(values + nudge)
        checked(np.array([rows], np.int32), np.zeros((1, 2), np.int32))
        return checked.checksums

    assert checksum([1, 2], 0.0) == checksum([1, 2], 0.05)
    assert checksum([1, 2], 0.0) != checksum([1, 3], 0.0)
    assert checksum([1, 2], 0.0) != checksum([1, 2], 0.2)
