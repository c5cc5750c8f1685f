"""Streams that no encoder made: they give a FormatError or other symbols, and soon."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tec_zarr.entropy.rans import MOST_STEPS, Decoder
from tec_zarr.entropy.stream import Stream
from tec_zarr.errors import FormatError
from tec_zarr.wire import varint
from tests.symbols import INT32, SKEWED, draw_case, outcome, same, seeds


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(0, 30), st.sampled_from([0, 1, 300, 70_000]))
def test_streams_come_back_from_their_bytes(seed: int, lanes: int, spread: int) -> None:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 5, lanes)
    lengths[:1] += spread
    states = random.integers(0, 2**32, lanes, np.uint32)
    words = random.integers(0, 2**16, int(lengths.sum()), np.uint16)
    escaped = random.integers(INT32.min, INT32.max, 9 if lanes else 0, np.int32, endpoint=True)
    again = Stream.parse(Stream(states, lengths, words, escaped >> 9).pack())
    for name, value in (("states", states), ("lengths", lengths), ("words", words)):
        assert np.array_equal(getattr(again, name), value)
    assert np.array_equal(again.escaped, escaped >> 9)


@settings(deadline=None, max_examples=60)
@given(seeds, st.data())
def test_a_stream_that_is_cut_or_longer_is_refused(seed: int, data: st.DataObject) -> None:
    case = draw_case(seed, 2, (150, 20), 0.05)
    streams, _ = case.encoded()
    for tile, stream in enumerate(streams):
        more = data.draw(st.binary(min_size=1, max_size=9))
        broken = [stream[:end] for end in range(len(stream))] + [stream + more]
        for other in broken:
            assert outcome(case, [*streams[:tile], other, *streams[tile + 1 :]]) is None


@settings(deadline=None, max_examples=100)
@given(seeds, st.sampled_from([0.0, 0.1]), st.data())
def test_a_flipped_bit_is_refused_or_changes_symbols(
    seed: int, wild: float, data: st.DataObject
) -> None:
    case = draw_case(seed, 1, (200,), wild)
    (stream,), seen = case.encoded()
    for _ in range(min(len(stream), 20)):
        bit = data.draw(st.integers(0, 8 * len(stream) - 1))
        broken = bytearray(stream)
        broken[bit // 8] ^= 1 << bit % 8
        assert not same(outcome(case, [bytes(broken)]), seen)


@settings(deadline=None, max_examples=150)
@given(seeds, st.lists(st.binary(max_size=200), min_size=3, max_size=3))
def test_noise_gives_an_error_or_symbols(seed: int, streams: list[bytes]) -> None:
    case = draw_case(seed, 3, (100, 3))
    for found, (_, rows) in zip(outcome(case, streams) or [], case.calls, strict=False):
        assert found.shape == rows.shape


@settings(deadline=None, max_examples=150)
@given(seeds, st.integers(1, 20), st.integers(0, 9), st.sampled_from([0, 1, 2, 4]), st.data())
def test_noise_behind_a_header_that_fits_gives_an_error_or_symbols(
    seed: int, lanes: int, least: int, width: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    excess = random.integers(0, 4, lanes)
    words = random.bytes(2 * int(excess.sum() * (width > 0) + least * lanes))
    escaped = data.draw(st.binary(max_size=9))
    stream = b"".join(
        [
            *(varint(lanes), varint(least), bytes([width])),
            excess.astype(f"<u{width}").tobytes() if width else b"",
            *(random.bytes(4 * lanes), words, escaped),
        ]
    )
    outcome(draw_case(seed, 1, (300,)), [stream])


@pytest.mark.parametrize(
    "stream",
    [
        b"\x00",
        b"\x00\x00\x00",
        b"\x01\x00\x03\x01\x00\x00\x00",
        varint(2**62) + b"\x00\x00",
        varint(2**62) + b"\x00\x04" + bytes(100),
        varint(2**40) + varint(2**40) + b"\x00" + bytes(100),
        b"\x01" + varint(2**62) + b"\x00" + bytes(100),
        b"\x01\x00\x04" + b"\xff" * 4 + bytes(100),
        b"\x09\x00\x04" + b"\xff" * 36 + bytes(100),
        b"\x01\x00\x00\x01\x00\x00\x00" + b"\x80",
        b"\x01\x00\x00\x01\x00\x00\x00" + b"\x80\x00",
        b"\x01\x00\x00\x01\x00\x00\x00" + b"\xff" * 4 + b"\x10",
        b"\x01\x00\x00\x01\x00\x00\x00" + b"\x80" * 5 + b"\x01",
    ],
)
def test_headers_that_promise_too_much_are_refused(stream: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(FormatError):
        Decoder(SKEWED, [stream])
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_neither_few_lanes_nor_many_take_long() -> None:
    # One tile has the most steps that are allowed, the other a lane for each symbol.
    least = b"\x01\x00\x00" + b"\x01\x00\x00\x00"
    many = varint(MOST_STEPS) + b"\x00\x00" + b"\x01\x00\x00\x00" * MOST_STEPS
    decoder = Decoder(SKEWED, [least, many])
    rows = np.zeros((2, MOST_STEPS), np.int32)
    decoder(None, rows[:, :1])  # builds the tables
    tracemalloc.start()
    start = time.process_time()
    with suppress(FormatError):  # there is nothing to read in these lanes
        decoder(None, rows[:, 1:])
    assert time.process_time() - start < 10
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    with pytest.raises(FormatError, match="too few lanes"):
        decoder(None, rows[:, :1])
