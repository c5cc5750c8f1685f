from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tec_zarr.entropy import lanes as lanes_module
from tec_zarr.entropy import rans
from tec_zarr.entropy import tables as tables_module
from tec_zarr.entropy.rans import MOST_STEPS, Counter, Decoder, Encoder
from tec_zarr.entropy.tables import Tables
from tec_zarr.errors import FormatError, TecError
from tests.symbols import (
    INT32,
    SKEWED,
    Case,
    draw_case,
    draw_symbols,
    draw_tables,
    outcome,
    same,
    seeds,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int32]

lengths = st.lists(st.integers(0, 400), min_size=1, max_size=4).map(tuple)


@settings(deadline=None, max_examples=150)
@given(seeds, st.integers(1, 5), lengths, st.sampled_from([0.0, 0.01, 0.5]), st.integers(0, 70))
def test_symbols_come_back(
    seed: int, tiles: int, ns: tuple[int, ...], wild: float, lanes: int
) -> None:
    case = draw_case(seed, tiles, ns, wild)
    streams, seen = case.encoded(lanes or None)
    found = case.decoded(streams)
    for (symbols, rows), known, read in zip(case.calls, seen, found, strict=True):
        assert known.dtype == read.dtype == np.int32
        assert np.array_equal(known, read)
        certain = case.tables.certain[rows]
        assert np.array_equal(known, np.where(certain, case.tables.offsets[rows], symbols))


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 300), lengths)
def test_symbols_come_back_through_many_small_blocks(
    seed: int, cells: int, ns: tuple[int, ...]
) -> None:
    case = draw_case(seed, 4, ns, 0.02)
    expected = case.encoded(7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes_module, "CELLS", cells)
        streams, seen = case.encoded(7)
        assert streams == expected[0]
        assert same(case.decoded(streams), seen)


def test_any_int32_can_be_escaped() -> None:
    values = [INT32.min, INT32.min + 1, -64, -2, 3, 64, 2**20, INT32.max - 1, INT32.max]
    symbols = np.array([values * 3], np.int32)
    for offset in (-(2**31) + 2**16, 0, 2**31 - 2**16):
        tables = Tables.from_pmf([np.array([0.5, 0.4])], [offset])
        case = Case(tables, [(symbols, np.zeros_like(symbols))])
        streams, _ = case.encoded()
        assert same(case.decoded(streams), [symbols])


def test_tables_with_many_rows_make_the_same_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    tables = draw_tables(random, 600, widest=6)
    rows = random.integers(0, 600, (2, 3000)).astype(np.int32)
    case = Case(tables, [(draw_symbols(random, tables, rows, 0.01), rows)])
    streams, seen = case.encoded()
    searched = case.decoded(streams)
    monkeypatch.setattr(tables_module, "LUT_ROWS", 600)
    assert same(case.decoded(streams), searched)
    assert same(searched, seen)


def test_a_tile_codes_as_it_would_alone() -> None:
    case = draw_case(11, 4, (500, 80))
    together, _ = case.encoded()
    for tile, stream in enumerate(together):
        part = slice(tile, tile + 1)
        calls = [(symbols[part], rows[part]) for symbols, rows in case.calls]
        assert Case(case.tables, calls).encoded()[0] == [stream]
    assert case.encoded()[0] == together


def test_any_strides_and_row_types_will_do() -> None:
    case = draw_case(12, 3, (200,))
    symbols, rows = case.calls[0]
    wide: Any = rows.astype(np.int64)
    apart = Case(case.tables, [(symbols.T.copy().T, wide.T.copy().T)])
    assert apart.encoded()[0] == case.encoded()[0]


def test_what_is_certain_costs_nothing() -> None:
    tables = Tables.from_pmf([np.ones(1), np.array([0.5, 0.4]), np.ones(1)], [5, 0, -3])
    rows = np.array([[0, 2] * 500, [0, 1] * 500], np.int32)
    symbols = np.ones_like(rows)
    case = Case(tables, [(symbols, rows), (symbols[:, :0], rows[:, :0])])
    streams, seen = case.encoded()
    assert streams[0] == b""
    assert len(streams[1]) > 60
    assert seen[0][0].tolist() == [5, -3] * 500
    assert same(case.decoded(streams), seen)


def test_nothing_at_all_costs_nothing() -> None:
    assert Encoder(SKEWED, 3).finish() == [b""] * 3
    Decoder(SKEWED, [b""] * 3).finish()
    nothing = np.zeros((0, 5), np.int32)
    assert Case(SKEWED, [(nothing, nothing)]).encoded()[0] == []
    assert Decoder(SKEWED, [])(None, nothing).shape == (0, 5)


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(1, 40_000), st.sampled_from([0.0, 0.01]))
def test_streams_are_hardly_longer_than_their_bits(seed: int, n: int, wild: float) -> None:
    case = draw_case(seed, 2, (n, n // 7), wild)
    streams, _ = case.encoded()
    counter = Counter(case.tables, case.tiles)
    for symbols, rows in case.calls:
        counter(symbols, rows)
    for stream, bits in zip(streams, counter.bits, strict=True):
        assert len(stream) >= bits / 8 - 1
        # Symbols of next to no bits leave nothing to share a lane's bytes among.
        floor = 5 * (n + n // 7) // (MOST_STEPS // 2)
        assert len(stream) <= 1.012 * bits / 8 + 40 + floor


def test_a_counter_returns_what_readers_see() -> None:
    case = draw_case(13, 2, (300,), 0.1)
    _, seen = case.encoded()
    counter = Counter(case.tables, 2)
    assert same([counter(*call) for call in case.calls], seen)


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(-120, 120).filter(bool))
def test_too_many_or_few_symbols_are_noticed(seed: int, more: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.integers(0, 2, (1, 500)).astype(np.int32)
    symbols = draw_symbols(random, SKEWED, rows)
    streams, _ = Case(SKEWED, [(symbols, rows)]).encoded()
    other = np.resize(rows, (1, 500 + more))
    assert outcome(Case(SKEWED, [(other, other)]), streams) is None


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_wrong_rows_are_noticed_or_change_symbols(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.integers(0, 2, (1, 500)).astype(np.int32)
    symbols = draw_symbols(random, SKEWED, rows)
    streams, _ = Case(SKEWED, [(symbols, rows)]).encoded()
    assert outcome(Case(SKEWED, [(symbols, 1 - rows)]), streams) is None


def test_symbols_may_not_be_read_from_an_empty_stream() -> None:
    with pytest.raises(FormatError, match="is empty"):
        Decoder(SKEWED, [b""])(None, np.zeros((1, 3), np.int32))


def test_calls_of_different_tiles_do_not_add_up_to_too_many_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each tile has its many symbols in a call of its own.
    monkeypatch.setattr(rans, "MOST_STEPS", 500)
    tables = Tables.from_pmf([np.ones(1), np.array([1 - 2.0**-15, 2.0**-16])], [0, 0])
    symbols = np.zeros((3, 400), np.int32)
    calls = [(symbols, symbols + (np.arange(3) == tile)[:, None]) for tile in range(3)]
    case = Case(tables, calls)
    streams, seen = case.encoded(lanes=1)
    assert same(case.decoded(streams), seen)


def test_more_calls_than_a_decoder_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rans, "MOST_STEPS", 50)
    one = np.zeros((1, 1), np.int32)
    case = Case(SKEWED, [(one, one)] * 50)
    assert same(case.decoded(case.encoded()[0]), [one] * 50)
    with pytest.raises(TecError, match="51 calls"):
        Case(SKEWED, [(one, one)] * 51).encoded()


@pytest.mark.parametrize("row", [-1, 2, INT32.max])
def test_a_callers_wrong_rows_are_errors(row: int) -> None:
    rows = np.full((1, 4), row, np.int32)
    for coder in (Encoder(SKEWED, 1), Counter(SKEWED, 1), Decoder(SKEWED, [b""])):
        with pytest.raises(TecError, match="of 2 rows"):
            coder(rows, rows)


def test_a_callers_wrong_shapes_are_errors() -> None:
    rows = np.zeros((2, 4), np.int32)
    for symbols, shaped in ((None, rows), (rows[:, :3], rows), (rows[:1], rows[:1])):
        with pytest.raises(TecError, match="shape"):
            Encoder(SKEWED, 2)(symbols, shaped)
    with pytest.raises(TecError, match="shape"):
        Decoder(SKEWED, [b""])(None, rows)
