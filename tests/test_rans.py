from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tec_zarr.entropy import lanes as lanes_module
from tec_zarr.entropy import rans
from tec_zarr.entropy import tables as tables_module
from tec_zarr.entropy.rans import Counter, Decoder, Encoder
from tec_zarr.entropy.stream import LANE_SYMBOLS
from tec_zarr.entropy.tables import Tables, gaussian, laplacian
from tec_zarr.errors import FormatError, TecError
from tec_zarr.wire import Reader, varint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int32]

bounded = settings(max_examples=50, deadline=None, derandomize=True)

seeds = st.integers(0, 2**32 - 1)


class Case(NamedTuple):
    """Calls (symbols and rows) with the same tables and number of tiles."""

    tables: Tables
    calls: list[tuple[Ints, Ints]]

    def encoded(self, lanes: int | None = None) -> tuple[list[bytes], list[Ints]]:
        """Streams, and what the encoder says that a decoder returns."""
        encoder = Encoder(self.tables, len(self.calls[0][1]), lanes)
        known = [encoder(symbols, rows) for symbols, rows in self.calls]
        return encoder.finish(), known

    def decoded(self, streams: Sequence[bytes]) -> list[Ints]:
        decoder = Decoder(self.tables, streams)
        known = [decoder(None, rows) for _, rows in self.calls]
        decoder.finish()
        return known


def draw_tables(random: np.random.Generator, rows: int) -> Tables:
    """Rows of all kinds, some of them certain."""
    pmf, offsets = [], []
    for _ in range(rows):
        size = int(random.choice([1, 1, 2, 3, 20, 300]))
        mass = random.random(size) ** random.choice([0.1, 1, 30])
        tail = random.choice([0, 0, 2.0**-14, 0.3])
        pmf.append(mass / mass.sum() * (1 - tail))
        offsets.append(int(random.integers(-200, 100)))
    return Tables.from_pmf(pmf, offsets)


def draw_symbols(random: np.random.Generator, tables: Tables, rows: Ints, wild: float) -> Ints:
    """Symbols as likely as the tables say, some of them just anything."""
    places = tables.search.finder(rows.size)(
        random.integers(0, 65536, rows.size), tables.search.bases(rows.ravel())
    )
    symbols = tables.symbols.take(places).reshape(rows.shape)
    anything = random.integers(-(2**31), 2**31, rows.shape).astype(np.int32)
    return np.where(random.random(rows.shape) < wild, anything, symbols).astype(np.int32)


def draw_case(seed: int) -> Case:
    """Some tiles and calls; tiles differ in how many of their symbols need bits."""
    random = np.random.default_rng(seed)
    tables = draw_tables(random, int(random.integers(1, 9)))
    tiles = int(random.integers(1, 6))
    wild = random.choice([0, 0.01, 0.5])
    calls = []
    for _ in range(random.integers(1, 5)):
        shape = (tiles, int(random.integers(0, random.choice([2, 50, 2000]))))
        rows = random.integers(0, len(tables.sizes), shape).astype(np.int32)
        rows[random.random(tiles) < 0.3] = random.integers(0, len(tables.sizes))
        calls.append((draw_symbols(random, tables, rows, wild), rows))
    return Case(tables, calls)


def same(first: Sequence[Ints], second: Sequence[Ints]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def outcome(case: Case, streams: Sequence[bytes]) -> str:
    """What a decoder makes of streams; anything else than these is a bug."""
    begin = time.perf_counter()
    try:
        known = case.decoded(streams)
    except FormatError:
        return "refused"
    finally:
        assert time.perf_counter() - begin < 5
    assert [k.shape for k in known] == [rows.shape for _, rows in case.calls]
    return "read"


@bounded
@given(seeds, st.sampled_from([None, None, 1, 2, 7, 64, 10_000]))
def test_symbols_come_back(seed: int, lanes: int | None) -> None:
    case = draw_case(seed)
    streams, known = case.encoded(lanes)
    for (symbols, rows), seen in zip(case.calls, known, strict=True):
        certain = case.tables.certain[rows]
        assert seen.dtype == np.int32
        assert np.array_equal(seen, np.where(certain, case.tables.offsets[rows], symbols))
    assert same(case.decoded(streams), known)
    assert case.encoded(lanes)[0] == streams


@bounded
@given(seeds, st.integers(1, 200))
def test_blocks_make_no_difference(seed: int, size: int) -> None:
    case = draw_case(seed)
    streams, known = case.encoded(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes_module, "BLOCK", size)
        patch.setattr(rans, "BLOCK", size)
        assert case.encoded(5)[0] == streams
        assert same(case.decoded(streams), known)


def test_how_entries_are_found_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        case = draw_case(seed)
        streams, known = case.encoded()
        monkeypatch.setattr(tables_module, "MOST_LOOKUP", 0)
        fresh = Tables(case.tables.cdf, case.tables.sizes, case.tables.offsets)
        assert same(Case(fresh, case.calls).decoded(streams), known)
        monkeypatch.undo()


def test_a_tile_codes_as_it_would_alone() -> None:
    for seed in range(8):
        case = draw_case(seed)
        streams, _ = case.encoded()
        for tile, stream in enumerate(streams):
            part = slice(tile, tile + 1)
            alone = Case(case.tables, [(s[part], r[part]) for s, r in case.calls])
            assert alone.encoded()[0] == [stream]


def test_any_int32_can_be_escaped() -> None:
    extremes = [-(2**31), 2**31 - 1, -1, 0, 1, 63, 64, -64, -65, 2**20]
    for offset in (0, -(2**31) + 1, 2**31 - 3):
        tables = Tables.from_pmf([np.array([0.5, 0.4])], [offset])
        symbols = np.array([extremes, extremes[::-1]], np.int32)
        case = Case(tables, [(symbols, np.zeros_like(symbols))])
        streams, known = case.encoded()
        assert same(known, [symbols])
        assert same(case.decoded(streams), known)


def test_what_is_certain_costs_nothing() -> None:
    tables = Tables.from_pmf([np.ones(1), np.array([0.5, 0.25]), np.ones(1)], [5, 0, -7])
    rows = np.array([[0, 2, 0], [0, 1, 2]], np.int32)
    symbols = np.array([[1, 2, 3], [1, 1, 1]], np.int32)
    streams, known = Case(tables, [(symbols, rows)]).encoded()
    assert known[0].tolist() == [[5, -7, 5], [5, 1, -7]]
    assert streams[0] == b""
    assert len(streams[1]) == 6
    counter = Counter(tables, 2)
    counter(symbols, rows)
    assert counter.bits[0] == 0
    assert same(Case(tables, [(symbols, rows)]).decoded(streams), known)


def test_nothing_is_nothing() -> None:
    tables = gaussian([1.0])
    for shape in ((0, 0), (0, 5), (3, 0)):
        nothing = np.zeros(shape, np.int32)
        case = Case(tables, [(nothing, nothing)])
        assert case.encoded()[0] == [b""] * shape[0]
        assert case.decoded([b""] * shape[0])[0].shape == shape


class SpecifiedLane:
    """A lane that follows the words of the format, one symbol at a time."""

    def __init__(self, data: bytes) -> None:
        first = 2 - len(data) % 2
        parts = [data[:first], *(data[i : i + 2] for i in range(first, len(data), 2))]
        self.words = [int.from_bytes(part, "little") for part in parts]
        self.state = 0
        for _ in range(3):
            self.take_in()

    def take_in(self) -> None:
        if self.state < 2**32 and self.words:
            self.state = self.state * 65536 + self.words.pop(0)

    def entry(self, frequencies: list[int]) -> int:
        above, slot = divmod(self.state, 65536)
        entry = frequencies.index(max(frequencies))
        while slot >= frequencies[entry]:
            slot -= frequencies[entry]
            entry = (entry + 1) % len(frequencies)
        self.state = above * frequencies[entry] + slot
        self.take_in()
        return entry


def specified_lanes(fields: Reader) -> list[SpecifiedLane]:
    """The lanes at the beginning of a stream."""
    symbols, number, least = fields.varint(), fields.varint(), fields.varint()
    width = fields.take(1)[0]
    assert symbols / 32768 <= number <= symbols
    packed = int.from_bytes(fields.take((number * width + 7) // 8), "little")
    assert packed >> number * width == 0
    sizes = [least + (packed >> lane * width) % (1 << width) for lane in range(number)]
    return [SpecifiedLane(fields.take(size)) for size in sizes]


def read_as_specified(tables: Tables, data: bytes, calls: Sequence[Ints]) -> list[list[int]]:
    """Symbols of each call of one tile."""
    fields = Reader(data)
    lanes = specified_lanes(fields)
    known: list[list[int]] = []
    for rows in calls:
        turns = cycle(lanes)
        entries = [
            0 if tables.certain[r] else next(turns).entry(frequencies(tables, r)) for r in rows
        ]
        known.append([])
        for entry, row in zip(entries, rows, strict=True):
            escaped = not tables.certain[row] and entry == tables.sizes[row] - 1
            zigzag = fields.varint() if escaped else 0
            known[-1].append(
                zigzag >> 1 ^ -(zigzag & 1) if escaped else tables.offsets[row] + entry
            )
    assert all(lane.state == 1 and not lane.words for lane in lanes)
    assert not fields.left
    return known


def frequencies(tables: Tables, row: int) -> list[int]:
    found: list[int] = np.diff(tables.cdf[row, : tables.sizes[row] + 1].astype(int)).tolist()
    return found


def test_streams_are_as_specified() -> None:
    for seed in range(12):
        case = draw_case(seed)
        streams, known = case.encoded()
        for tile, stream in enumerate(streams):
            if stream:
                rows = [rows[tile] for _, rows in case.calls]
                read = read_as_specified(case.tables, stream, rows)
                assert read == [seen[tile].tolist() for seen in known]


def test_a_stream_stays_what_it_was() -> None:
    tables = Tables.from_pmf([np.array([0.25, 0.5, 0.125]), np.ones(1)], [-1, 0])
    rows = np.array([[0, 1, 0, 0, 0, 0, 0, 0]], np.int32)
    symbols = np.array([[-1, 9, 0, 1, 0, 0, 300, 0]], np.int32)
    streams, _ = Case(tables, [(symbols, rows)]).encoded(2)
    assert streams[0].hex() == GOLDEN


GOLDEN = "070203000201c0020120d804"


@bounded
@given(seeds, st.data())
def test_damage_is_noticed_or_at_least_harmless(seed: int, data: st.DataObject) -> None:
    case = draw_case(seed)
    streams, known = case.encoded()
    tile = data.draw(st.integers(0, len(streams) - 1))
    stream = bytearray(streams[tile])
    cut = data.draw(st.integers(0, len(stream)))
    for damaged in (stream[:cut], stream + b"\0", stream[1:], flipped(stream, cut)):
        if damaged != stream:
            broken = [*streams[:tile], bytes(damaged), *streams[tile + 1 :]]
            if outcome(case, broken) == "read":
                assert not same(case.decoded(broken), known)


def flipped(stream: bytearray, bit: int) -> bytearray:
    damaged = bytearray(stream)
    for place in range(bit % 8, 8 * len(stream), 1 + 8 * len(stream) // 3):
        damaged[place // 8] ^= 1 << place % 8
    return damaged


def test_every_truncation_is_refused() -> None:
    case = draw_case(3)
    streams, _ = case.encoded()
    assert all(map(len, streams))
    for tile, stream in enumerate(streams):
        for cut in range(0, len(stream), 1 + len(stream) // 100):
            assert outcome(case, [*streams[:tile], stream[:cut], *streams[tile + 1 :]]) == "refused"


@settings(bounded, max_examples=150)
@given(seeds, st.lists(st.binary(max_size=60), min_size=5, max_size=5))
def test_no_bytes_do_harm(seed: int, streams: list[bytes]) -> None:
    case = draw_case(seed % 20)
    outcome(case, streams[: len(case.calls[0][1])])


@settings(bounded, max_examples=100)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 9), st.binary(max_size=80))
def test_no_lanes_do_harm(lanes: int, least: int, width: int, rest: bytes) -> None:
    stream = varint(1000) + bytes([lanes, least, width]) + rest
    rows = np.zeros((1, 500), np.int32)
    outcome(Case(laplacian([2.0], 0.1), [(rows, rows), (rows, rows)]), [stream])


@pytest.mark.parametrize(
    ("numbers", "width"),
    [
        ((0, 0, 1), 0),
        ((0, 1, 1), 0),
        ((9, 0, 1), 0),
        ((9, 10, 1), 0),
        ((LANE_SYMBOLS + 1, 1, 1), 0),
        ((9, 1, 0), 0),
        ((1 << 62, 1 << 60, 1), 0),
        ((9, 1, 1 << 60), 0),
        ((1 << 62, 1 << 62, 1 << 62), 32),
        ((9, 1, 200), 32),
        ((9, 1, 1), 33),
        ((9, 1, 1), 255),
    ],
)
def test_lanes_that_cannot_be_are_refused(numbers: tuple[int, ...], width: int) -> None:
    head = b"".join(map(varint, numbers)) + bytes([width])
    for rest in (b"", bytes(100), b"\xff" * 100):
        with pytest.raises(FormatError):
            Decoder(gaussian([1.0]), [head + rest])


def test_bits_behind_the_lengths_are_refused() -> None:
    tables, rows = gaussian([1.0]), np.zeros((1, 1), np.int32)
    fine = b"\1\1\1\1" + b"\0" + b"\1"  # 1 symbol, 1 lane, 1 byte, 1 bit: 0, state 1
    assert outcome(Case(tables, [(rows, rows)]), [fine]) == "read"
    assert outcome(Case(tables, [(rows, rows)]), [fine.replace(b"\0", b"\2")]) == "refused"


def test_few_bytes_cannot_take_much_time() -> None:
    begin = time.perf_counter()
    for symbols, lanes in ((1 << 23, 255), (1 << 40, 1), (LANE_SYMBOLS, 1)):
        stream = varint(symbols) + varint(lanes) + b"\1\0" + bytes(lanes)
        rows = np.zeros((1, min(symbols, 1 << 23)), np.int32)
        assert outcome(Case(gaussian([1.0]), [(rows, rows)]), [stream]) == "refused"
    assert time.perf_counter() - begin < 10


def test_unlikely_numbers_of_symbols_have_enough_lanes() -> None:
    tables = Tables.from_pmf([np.array([1 - 2.0**-16])], [0])
    rows = np.zeros((1, 3 * LANE_SYMBOLS + 1), np.int32)
    case = Case(tables, [(rows, rows)])
    streams, known = case.encoded(1)
    assert streams[0][3] == 4
    assert same(case.decoded(streams), known)


@bounded
@given(seeds, st.integers(-40, 40).filter(bool))
def test_another_number_of_symbols_is_noticed(seed: int, more: int) -> None:
    random = np.random.default_rng(seed)
    rows = np.zeros((2, 300), np.int32)
    tables = laplacian([3.0])
    streams, _ = Case(tables, [(draw_symbols(random, tables, rows, 0.01), rows)]).encoded()
    other = np.zeros((2, 300 + more), np.int32)
    assert outcome(Case(tables, [(other, other)]), streams) == "refused"
    with pytest.raises(FormatError):
        Decoder(tables, streams).finish()


def test_a_stream_without_use_is_noticed() -> None:
    tables = Tables.from_pmf([np.ones(1), np.array([0.5])], [0, 0])
    rows = np.zeros((1, 4), np.int32)
    assert outcome(Case(tables, [(rows, rows)]), [b""]) == "read"
    assert outcome(Case(tables, [(rows, rows)]), [b"\1\1\1\0\1"]) == "refused"
    assert outcome(Case(tables, [(rows, rows + 1)]), [b""]) == "refused"


def test_calls_that_make_no_sense_are_refused() -> None:
    tables, zeros = gaussian([1.0, 2.0]), np.zeros((2, 3), np.int32)
    bad: list[Any] = [zeros + 2, zeros - 1, zeros[:1], zeros[0], zeros.astype(float), zeros > 0]
    bad += [zeros.astype(np.int64) + 2**32, (zeros - 1).astype(np.uint64)]
    for rows in bad:
        for coder in (Encoder(tables, 2), Counter(tables, 2), Decoder(tables, [b"", b""])):
            with pytest.raises(TecError):
                coder(zeros, rows)
    symbols: list[Any] = [None, zeros[:, :2], zeros.astype(np.int64), zeros.astype(float)]
    for wrong in symbols:
        with pytest.raises(TecError):
            Encoder(tables, 2)(wrong, zeros)
    with pytest.raises(TecError):
        Encoder(tables, 2, lanes=0)


def test_any_strides_and_integers_will_do() -> None:
    case = draw_case(6)
    streams, known = case.encoded()
    for kind in (np.int64, np.uint64, np.uint8, ">i4"):
        calls = [(s.T.copy().T, np.asfortranarray(r).astype(kind)) for s, r in case.calls]
        assert Case(case.tables, calls).encoded()[0] == streams
        assert same(Case(case.tables, calls).decoded(streams), known)


@pytest.mark.parametrize("family", [gaussian, laplacian])
@pytest.mark.parametrize("scale", [0.15, 0.3, 1.0, 8.0, 100.0])
@pytest.mark.parametrize("count", [200, 5000, 100_000])
def test_streams_are_hardly_longer_than_their_bits(family: Any, scale: float, count: int) -> None:
    random = np.random.default_rng(int(10 * scale) + count)
    draw = random.normal if family is gaussian else random.laplace
    symbols = np.rint(draw(0, scale, (1, count))).astype(np.int32)
    tables, rows = family([scale]), np.zeros((1, count), np.int32)
    streams, _ = Case(tables, [(symbols, rows)]).encoded()
    size, ideal = len(streams[0]), tables.bits(symbols, rows) / 8
    assert ideal < size <= 1.005 * ideal + 16
    counter = Counter(tables, 1)
    counter(symbols, rows)
    if size > 1000:
        assert counter.bits[0] / 8 == pytest.approx(size, rel=0.005)
    if size > 3000:
        assert ideal == pytest.approx(size, rel=0.01)


def test_counters_and_encoders_agree() -> None:
    for seed in range(5):
        case = draw_case(seed)
        counter = Counter(case.tables, len(case.calls[0][1]))
        assert same([counter(*call) for call in case.calls], case.encoded()[1])


def test_lanes_follow_from_the_content() -> None:
    tables, random = gaussian([20.0]), np.random.default_rng(0)
    sizes = [100, 20_000, 200_000]
    found = []
    for count in sizes:
        rows = np.zeros((1, count), np.int32)
        streams, _ = Case(tables, [(draw_symbols(random, tables, rows, 0), rows)]).encoded()
        fields = Reader(streams[0])
        assert fields.varint() == count
        found.append(fields.varint())
    assert found[0] < found[1] < found[2] < 400


def test_threads_may_share_tables() -> None:
    case = draw_case(1)
    streams, known = case.encoded()
    fresh = Tables(case.tables.cdf, case.tables.sizes, case.tables.offsets)
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(Case(fresh, case.calls).decoded, [streams] * 32))
    assert all(same(one, known) for one in decoded)
