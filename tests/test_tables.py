from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tec_zarr.entropy import tables as module
from tec_zarr.entropy.search import Bisection, Lookup
from tec_zarr.entropy.tables import ESCAPED, TOTAL, Tables, gaussian, laplacian
from tec_zarr.errors import TecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

bounded = settings(max_examples=50, deadline=None, derandomize=True)

masses = st.floats(0, 1, width=32)
pmfs = st.lists(
    arrays.arrays(np.float64, st.integers(1, 40), elements=masses), min_size=1, max_size=6
)


def made(pmf: list[NDArray[np.float64]], offset: int = -3) -> Tables:
    return Tables.from_pmf([row / max(1.0, row.sum()) for row in pmf], [offset] * len(pmf))


def rows_of(tables: Tables) -> list[NDArray[np.int64]]:
    """Frequencies, row by row."""
    pairs = zip(tables.cdf.astype(np.int64), tables.sizes, strict=True)
    return [np.diff(row[: size + 1]) for row, size in pairs]


@bounded
@given(pmfs)
def test_frequencies_sum_up_and_none_is_zero(pmf: list[NDArray[np.float64]]) -> None:
    tables = made(pmf)
    for given_row, row in zip(pmf, rows_of(tables), strict=True):
        assert row.sum() == TOTAL
        assert row.min() >= 1
        assert len(row) == len(given_row) + 1 or (len(row) == 1 == len(given_row))
    again = made(pmf)
    assert np.array_equal(tables.cdf, again.cdf)


def test_frequencies_are_rounded_by_largest_remainders() -> None:
    row = rows_of(Tables.from_pmf([np.array([1, 1, 1.0]) / 3.00001], [0]))[0]
    assert row.tolist() == [21845, 21845, 21845, 1]
    mass = np.array([0.1, 0.2, 0.25, 0.4])
    ideal = np.append(mass, 0.05) * TOTAL
    assert np.abs(rows_of(Tables.from_pmf([mass], [0]))[0] - ideal).max() < 1


def test_rare_symbols_take_from_the_frequent_ones() -> None:
    pmf = np.append(np.full(50_000, 1e-9), [0.7, 0.2])
    row = rows_of(Tables.from_pmf([pmf], [0]))[0]
    assert row.sum() == TOTAL
    assert row.min() == 1
    assert row[50_000] == pytest.approx(3.5 * row[50_001], rel=0.01)


def test_what_is_left_is_the_escapes() -> None:
    tables = Tables.from_pmf([np.array([0.5, 0.25]), np.array([0.75]), np.ones(1)], [0, 7, 9])
    assert [row[-1] for row in rows_of(tables)] == [TOTAL // 4, TOTAL // 4, TOTAL]
    assert tables.certain.tolist() == [False, False, True]
    assert tables.symbols.tolist() == [0, 1, ESCAPED, 7, ESCAPED, 9]


@pytest.mark.parametrize(
    "pmf",
    [
        [],
        [np.zeros(0)],
        [np.array([np.nan])],
        [np.array([-0.1, 0.2])],
        [np.array([np.inf])],
        [np.ones((2, 2))],
        [np.full(TOTAL, 1e-6)],
        [np.array([0.5]), np.array([0.5])],
    ],
)
def test_what_is_no_probability_is_refused(pmf: list[NDArray[np.float64]]) -> None:
    with pytest.raises(TecError):
        Tables.from_pmf(pmf, [0])


@pytest.mark.parametrize("offset", [-(1 << 31), (1 << 31) - 2, 1 << 31, -(1 << 40)])
def test_symbols_beyond_int32_are_refused(offset: int) -> None:
    with pytest.raises(TecError):
        Tables.from_pmf([np.array([0.5, 0.4])], [offset])


GOOD: dict[str, Any] = {
    "cdf": np.array([[0, 9, TOTAL, TOTAL], [0, TOTAL, TOTAL, TOTAL]], np.uint32),
    "sizes": np.array([2, 1], np.int32),
    "offsets": np.array([0, 5], np.int32),
}


@pytest.mark.parametrize(
    "bad",
    [
        {"cdf": GOOD["cdf"].astype(np.int64)},
        {"cdf": GOOD["cdf"][0]},
        {"cdf": GOOD["cdf"][:1]},
        {"cdf": GOOD["cdf"] + np.uint32(1)},
        {"cdf": GOOD["cdf"].clip(max=9)},
        {"cdf": np.array([[0, 9, 8, TOTAL], [0, TOTAL, TOTAL, TOTAL]], np.uint32)},
        {"cdf": np.array([[0, 9, TOTAL, TOTAL + 1], [0, TOTAL, TOTAL, TOTAL]], np.uint32)},
        {"cdf": np.array([[0, 9, TOTAL, 0], [0, TOTAL, TOTAL, TOTAL]], np.uint32)},
        {"cdf": np.array([[0, 0, TOTAL, TOTAL], [0, TOTAL, TOTAL, TOTAL]], np.uint32)},
        {"sizes": np.array([2, 0], np.int32)},
        {"sizes": np.array([2, -1], np.int32)},
        {"sizes": np.array([2, 4], np.int32)},
        {"sizes": np.array([2, 2], np.int32)},
        {"sizes": np.array([2, 1], np.int64)},
        {"offsets": np.array([0], np.int32)},
        {"offsets": np.array([0, 2**31 - 1], np.int64).astype(np.uint32)},
        {name: value[:0] for name, value in GOOD.items()},
    ],
)
def test_broken_tables_are_refused(bad: dict[str, Any]) -> None:
    Tables(**GOOD)
    with pytest.raises(TecError, match="broken entropy tables"):
        Tables(**(GOOD | bad))


@bounded
@given(st.data())
def test_tables_are_valid_or_refused(data: st.DataObject) -> None:
    rows, width = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4))
    borders = st.sampled_from([0, 1, 2, TOTAL - 1, TOTAL, TOTAL + 1, 2**32 - 1])
    cdf = data.draw(arrays.arrays(np.uint32, (rows, width), elements=borders))
    sizes = data.draw(arrays.arrays(np.int32, rows, elements=st.integers(-1, 5)))
    try:
        tables = Tables(cdf, sizes, np.zeros(rows, np.int32))
    except TecError:
        return
    assert all(row.sum() == TOTAL and row.min() > 0 for row in rows_of(tables))


def brute_force(tables: Tables, row: int, slot: int) -> int:
    """The place of a slot, as the format says it."""
    frequencies = rows_of(tables)[row].tolist()
    entry = frequencies.index(max(frequencies))
    while slot >= frequencies[entry]:
        slot -= frequencies[entry]
        entry = (entry + 1) % len(frequencies)
    return int(tables.sizes[:row].sum()) + entry


def walked(tables: Tables, row: int, slot: int) -> int:
    """The place of a slot, as loops find it."""
    holders, bits, nexts = tables.buckets
    place = int(holders[row * (TOTAL >> bits) + (slot >> bits)])
    for _ in range(1 << bits):
        if slot < tables.starts[place] + tables.frequencies[place]:
            break
        place = int(nexts[place])
    return place


@bounded
@given(pmfs, st.integers(0, 2**32))
def test_each_slot_belongs_to_one_entry(pmf: list[NDArray[np.float64]], seed: int) -> None:
    tables = made(pmf)
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(pmf), 100)
    slots = random.integers(0, TOTAL, 100)
    slots[:4] = [0, 1, TOTAL - 2, TOTAL - 1]
    expected = [brute_force(tables, row, slot) for row, slot in zip(rows, slots, strict=True)]
    lookup = Lookup.of(tables.frequencies, tables.shifts)
    bisection = Bisection(tables.cdf, tables.sizes, tables.shifts)
    for search in (lookup, bisection):
        assert search.finder(100)(slots, search.bases(rows)).tolist() == expected
    assert [walked(tables, row, slot) for row, slot in zip(rows, slots, strict=True)] == expected
    places = np.array(expected)
    inside = slots - tables.starts[places]
    assert ((inside >= 0) & (inside < tables.frequencies[places])).all()


def test_tables_with_many_rows_are_bisected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(gaussian([1.0, 2.0]).search, Lookup)
    monkeypatch.setattr(module, "MOST_LOOKUP", 0)
    assert isinstance(gaussian([1.0, 2.0]).search, Bisection)


@bounded
@given(pmfs, st.integers(-(2**31) + 1, 2**31 - 50), st.integers(0, 2**32))
def test_symbols_have_places(pmf: list[NDArray[np.float64]], offset: int, seed: int) -> None:
    tables = made(pmf, offset)
    random = np.random.default_rng(seed)
    uncertain = np.flatnonzero(~tables.certain)
    rows = random.choice(uncertain, 60 if len(uncertain) else 0).astype(np.int32)
    near = np.clip(offset + random.integers(-50, 90, len(rows)), -(2**31), 2**31 - 1)
    far = random.integers(-(2**31), 2**31, len(rows))
    for symbols in (near.astype(np.int32), far.astype(np.int32)):
        places = np.empty(len(rows), np.int64)
        cost = tables.find(symbols, rows, places)
        assert cost == pytest.approx(tables.costs[places].sum())
        for symbol, row, place in zip(symbols.tolist(), rows, places.tolist(), strict=True):
            entry = place - tables.firsts[row]
            has_entry = 0 <= symbol - offset < tables.sizes[row] - 1
            assert entry == (symbol - offset if has_entry else tables.sizes[row] - 1)
            assert tables.is_escape[place] != has_entry
            assert tables.symbols[place] == (symbol if has_entry else ESCAPED)


def test_bits_are_those_of_the_integers() -> None:
    pmf = np.full(8, 1 / 8 - 2.0**-16)
    tables = Tables.from_pmf([pmf, np.ones(1)], [0, 4])
    symbols, rows = np.arange(8, dtype=np.int32), np.zeros(8, np.int32)
    assert tables.bits(symbols, rows) == pytest.approx(24, abs=0.01)
    assert tables.bits(symbols, rows + 1) == 0
    escape = 16 - np.log2(tables.frequencies[8])
    for value, size in ((8, 1), (-64, 1), (64, 2), (-(2**31), 5), (2**31 - 1, 5)):
        found = tables.bits(np.array([[value]], np.int32), rows[:1, None])
        assert found == pytest.approx(escape + 8 * size)


@pytest.mark.parametrize("family", [gaussian, laplacian])
def test_families_are_what_they_say(family: Any) -> None:
    scales = [0.02, 0.11, 0.5, 3.0, 40.0, 256.0]
    tables = family(scales)
    assert not tables.certain.any()
    random = np.random.default_rng(0)
    draw = random.normal if family is gaussian else random.laplace
    for row, (scale, frequencies) in enumerate(zip(scales, rows_of(tables), strict=True)):
        middle = frequencies[:-1]
        assert len(middle) >= 3
        assert np.abs(middle - middle[::-1]).max() <= 1
        assert tables.offsets[row] == -(len(middle) // 2)
        symbols = np.rint(draw(0, scale, 50_000)).astype(np.int32)
        counts = np.unique(symbols, return_counts=True)[1] / len(symbols)
        entropy = -(counts * np.log2(counts)).sum()
        mean = tables.bits(symbols, np.full(len(symbols), row)) / len(symbols)
        assert mean < 1.03 * entropy + 0.01


def test_a_wider_tail_makes_smaller_tables() -> None:
    assert gaussian([10.0], 0.1).sizes < gaussian([10.0]).sizes
