from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tec_zarr.entropy import tables as module
from tec_zarr.entropy.tables import ESCAPE, MAX_SIZE, TOTAL, Tables
from tec_zarr.errors import TecError
from tests.symbols import INT32, draw_symbols, draw_tables, seeds

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

masses = st.lists(st.integers(0, 10**9), min_size=2, max_size=300).filter(lambda m: sum(m) > 0)


def frequencies(tables: Tables, row: int) -> NDArray[np.int64]:
    cdf = tables.cdf[row, : tables.sizes[row] + 1].astype(np.int64)
    return cdf[1:] - cdf[:-1]


@settings(deadline=None, max_examples=100)
@given(masses, st.floats(0.0, 1.0))
def test_frequencies_are_positive_and_sum_to_65536(weights: list[int], share: float) -> None:
    pmf = np.array(weights) / np.sum(weights) * share
    if not pmf.sum() > 0:
        return
    tables = Tables.from_pmf([pmf], [0])
    found = frequencies(tables, 0)
    assert len(found) == len(pmf) + 1
    assert found.min() >= 1
    assert found.sum() == TOTAL


@settings(deadline=None, max_examples=100)
@given(masses)
def test_frequencies_are_within_a_count_of_the_masses_if_none_is_tiny(weights: list[int]) -> None:
    pmf = np.array(weights) + max(weights) / 10
    pmf /= pmf.sum() / 0.9
    found = frequencies(Tables.from_pmf([pmf], [0]), 0)
    np.testing.assert_allclose(found, np.append(pmf, 0.1) * TOTAL, rtol=0, atol=1.001)


def test_tiny_masses_are_paid_for_by_the_large_ones() -> None:
    found = frequencies(Tables.from_pmf([np.append(np.ones(1), np.zeros(3000))], [0]), 0)
    assert found.sum() == TOTAL
    assert found.tolist() == [TOTAL - 3001] + [1] * 3001


def test_one_mass_alone_is_certain_and_a_small_one_is_not() -> None:
    tables = Tables.from_pmf([np.ones(1), np.array([0.25]), np.ones(1)], [7, 3, 0])
    assert tables.certain.tolist() == [True, False, True]
    assert tables.certain_symbols(np.array([0, 2], np.int32)).tolist() == [7, 0]
    assert frequencies(tables, 1).tolist() == [TOTAL // 4, TOTAL // 4 * 3]


@pytest.mark.parametrize(
    "pmf",
    [[], [np.nan, 1.0], [np.inf, 1.0], [0.5] * MAX_SIZE],
    ids=["nothing", "nan", "infinite", "too long"],
)
def test_what_is_no_mass_is_refused(pmf: list[float]) -> None:
    with pytest.raises(TecError, match="cannot be a table"):
        Tables.from_pmf([np.array(pmf)], [0])


def test_equal_masses_give_equal_tables() -> None:
    first, second = (draw_tables(np.random.default_rng(5), 20) for _ in range(2))
    assert all(np.array_equal(getattr(first, n), getattr(second, n)) for n in FIELDS)


FIELDS = ("cdf", "sizes", "offsets")


def put(name: str, place: tuple[int, ...], value: int) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        fields[name][place] = value

    return change


def replaced(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields.update({name: change(fields[name])})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (replaced("cdf", lambda cdf: cdf[0]), "matrix"),
        (replaced("cdf", lambda cdf: cdf.astype(np.int64)), "uint32"),
        (replaced("sizes", lambda sizes: sizes.astype(np.int64)), "int32"),
        (replaced("offsets", lambda offsets: offsets.astype(np.float32)), "int32"),
        (replaced("sizes", lambda sizes: sizes[:-1]), "number"),
        (replaced("offsets", lambda offsets: offsets[:, None]), "number"),
        (replaced("cdf", lambda cdf: cdf[:-1]), "number"),
        (lambda fields: fields.update({n: v[:0] for n, v in fields.items()}), "without entries"),
        (put("sizes", (1,), 0), "without entries"),
        (put("sizes", (1,), -3), "without entries"),
        (put("sizes", (1,), 99), "too many"),
        (put("sizes", (1,), 2), "end with 65536"),
        (put("cdf", (1, 0), 1), "begin with 0"),
        (put("cdf", (1, 3), 65535), "end with 65536"),
        (put("cdf", (0, 3), 2**32 - 1), "end with 65536"),
        (put("cdf", (1, 2), 10), "without probability"),
        (put("cdf", (1, 2), 9), "without probability"),
        (put("cdf", (1, 2), 65536), "without probability"),
        (put("cdf", (1, 2), 2**32 - 1), "without probability"),
        (put("offsets", (0,), INT32.min), "beyond int32"),
        (put("offsets", (0,), INT32.max), "beyond int32"),
    ],
)
def test_hostile_tables_are_refused(
    change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    fields: dict[str, Any] = {
        "cdf": np.array([[0, 65536, 65536, 65536], [0, 10, 20, 65536]], np.uint32),
        "sizes": np.array([1, 3], np.int32),
        "offsets": np.array([0, -1], np.int32),
    }
    Tables(**fields)
    change(fields)
    with pytest.raises(TecError, match=complaint):
        Tables(**fields)


@settings(deadline=None, max_examples=50)
@given(seeds)
def test_places_are_entries_and_their_symbols_come_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    tables = draw_tables(random, 9)
    rows = random.integers(0, 9, 200).astype(np.int32)
    rows = rows[tables.uncertain(rows)]
    symbols = draw_symbols(random, tables, rows, 0.2)
    places, escaped = tables.places(symbols, rows)
    entries = symbols.astype(np.int64) - tables.offsets[rows]
    last = tables.sizes[rows] - 1
    outside = (entries < 0) | (entries >= last)
    assert np.array_equal(np.flatnonzero(outside), escaped)
    assert np.array_equal(places, rows * tables.width + np.where(outside, last, entries))
    assert np.array_equal(tables.symbols[places], np.where(outside, ESCAPE, symbols))


@pytest.mark.parametrize("most", [0, 512], ids=["searched", "looked up"])
def test_every_slot_of_every_row_is_found(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LUT_ROWS", most)
    tables = draw_tables(np.random.default_rng(3), 12, widest=300)
    search = tables.search(TOTAL)
    for row in range(tables.idle + 1):
        places = np.full(TOTAL, row * tables.width)
        search(np.arange(TOTAL) + row * TOTAL, places)
        steps = frequencies(tables, row) if row < tables.idle else [TOTAL]
        entries = np.repeat(np.arange(len(steps)), steps)
        assert np.array_equal(places, row * tables.width + entries)


def test_costs_are_those_of_the_frequencies() -> None:
    tables = draw_tables(np.random.default_rng(4), 5)
    for row, size in enumerate(tables.sizes):
        costs = tables.costs[row * tables.width :][:size]
        np.testing.assert_allclose(2.0**-costs * TOTAL, frequencies(tables, row))


@pytest.mark.parametrize("row", [-1, 3, INT32.max, INT32.min, 2**32])
def test_a_row_that_is_not_there_is_refused(row: int) -> None:
    tables = draw_tables(np.random.default_rng(6), 3)
    with pytest.raises(TecError, match="of 3 rows"):
        tables.checked_rows(np.array([0, row]))


def test_rows_are_uncertain_wherever_the_certain_ones_stand() -> None:
    some = np.full(2, 0.5)
    for certain in ([1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]):
        tables = Tables.from_pmf([np.ones(1) if c else some for c in certain], range(4))
        rows = np.array([3, 0, 1, 2, 3], np.int32)
        assert tables.uncertain(rows).tolist() == [not certain[row] for row in rows]
        known = tables.certain_symbols(rows)
        assert all(known[i] == row for i, row in enumerate(rows) if certain[row])
