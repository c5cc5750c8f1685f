"""Loops in machine code do what NumPy and torch do without numba."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.compiled import VARIABLE, compiled
from tec_zarr.config import TecConfig
from tec_zarr.entropy import loops as entropy_loops
from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.entropy.tables import laplacian
from tec_zarr.errors import ConfigError
from tec_zarr.models import givens, loops, square_loops
from tec_zarr.models.coding import BAND, Recorder, Replay
from tec_zarr.models.mixing import SIDE, Wide, filtered
from tests.cubes import pixels
from tests.plainly import LOOPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tec_zarr.entropy.tables import Tables

    Ints = NDArray[np.int32]

NAMES = {
    entropy_loops: ("write", "read", "find", "choose", "part", "place", "pad", "unpad"),
    loops: ("gather", "spread", "filters", "nearest", "to_rows", "look_up", "quantise", "lose"),
    square_loops: ("average", "smooth"),
    givens: ("find", "turn"),
    **LOOPS,
}


NUMBERS = st.one_of(
    st.floats(),
    st.tuples(st.integers(-(2**31), 2**31), st.floats(-2 * BAND, 2 * BAND)).map(
        lambda parts: parts[0] / 2 + parts[1]
    ),
)
"""Any, and those next to integers and to borders between them."""


BLOCKS = np.linspace(-300, 300, 2 * 10_001).reshape(2, -1)
"""More values than a loop takes at a time, some of them on borders."""
BLOCKS[:, ::997] = np.floor(BLOCKS[:, ::997]) + 0.5


def take_loops_away(patch: pytest.MonkeyPatch) -> None:
    for module, names in NAMES.items():
        for name in names:
            patch.setattr(module, name, None)


@pytest.mark.parametrize("quality", [32.0, 50.0])
def test_chunks_are_the_same_with_and_without_machine_code(quality: float) -> None:
    chunk = pixels((1, 12, 130, 200))
    chunk[..., 3, :, :] = np.repeat(np.repeat(chunk[..., 3, ::2, ::2], 2, -2), 2, -1)
    chunk[..., :40, :30] = 0
    config = TecConfig(quality=quality, nodata=0)
    data = encode_chunk(chunk, config)
    shown = decode_chunk(data)
    with pytest.MonkeyPatch.context() as patch:
        take_loops_away(patch)
        # Analysis may round otherwise here and there; integers have no such freedom.
        assert len(encode_chunk(chunk, config)) == pytest.approx(len(data), rel=0.002)
        other = decode_chunk(data)
    assert ((shown == 0) == (other == 0)).all()
    assert np.abs(shown.astype(int) - other.astype(int)).max() <= 1


@given(st.integers(0, 2**32), st.integers(0, 3000), st.integers(1, 40))
def test_streams_are_the_same_with_and_without_machine_code(
    seed: int, count: int, lanes: int
) -> None:
    random = np.random.default_rng(seed)
    tables = laplacian([0.1, 0.7, 3.0])
    rows = random.integers(0, 3, (2, count)).astype(np.int32)
    symbols = random.integers(-(2**31), 2**31, rows.shape).astype(np.int32)
    near = random.random(rows.shape) < 0.98
    symbols[near] = np.round(random.laplace(0, 2, near.sum())).astype(np.int32)
    streams = encoded(tables, symbols, rows, lanes)
    with pytest.MonkeyPatch.context() as patch:
        take_loops_away(patch)
        assert encoded(tables, symbols, rows, lanes) == streams
        assert (decoded(tables, streams, rows) == symbols).all()
    assert (decoded(tables, streams, rows) == symbols).all()


@given(st.integers(0, 2**32), st.tuples(*(st.integers(1, n) for n in (3, 4, 12, 9))), st.booleans())
def test_filters_are_those_of_torch(seed: int, size: tuple[int, ...], shifted: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    count, channels, *sides = size
    x = torch.randn((count, *sides, channels), generator=random, dtype=torch.float64)
    x = x.permute(0, 3, 1, 2)
    weight = torch.randn((channels, 1, SIDE, SIDE), generator=random, dtype=torch.float64)
    bias = torch.randn(channels, generator=random, dtype=torch.float64) if shifted else None
    with torch.no_grad():
        found = filtered(x, weight, bias)
    with pytest.MonkeyPatch.context() as patch:
        take_loops_away(patch)
        torch.testing.assert_close(found, filtered(x, weight, bias), rtol=1e-13, atol=1e-13)


@given(arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(0, 40)), elements=NUMBERS))
@example(BLOCKS)
def test_guards_are_the_same_with_and_without_machine_code(values: NDArray[np.float64]) -> None:
    given = torch.from_numpy(values)
    writer = Recorder(len(values))
    whole = writer(given)
    with pytest.MonkeyPatch.context() as patch:
        take_loops_away(patch)
        other = Recorder(len(values))
        assert torch.equal(other(given), whole)
        sections = other.finish()
        assert torch.equal(Replay(sections)(given), whole)
    assert writer.finish() == sections
    assert torch.equal(Replay(sections)(given), whole)


def test_filters_learn() -> None:
    x = torch.ones((1, 2, 6, 6), dtype=torch.float64)
    layer = Wide(2).double()
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert (layer.weight.grad > 0).all()


def encoded(tables: Tables, symbols: Ints, rows: Ints, lanes: int) -> list[bytes]:
    encoder = Encoder(tables, len(symbols), lanes)
    encoder(symbols, rows)
    return encoder.finish()


def decoded(tables: Tables, streams: list[bytes], rows: Ints) -> Ints:
    decoder = Decoder(tables, streams)
    found = decoder(None, rows)
    decoder.finish()
    return found


def test_numba_can_be_refused_and_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    assert compiled(sum) is None
    monkeypatch.setenv(VARIABLE, "maybe")
    with pytest.raises(ConfigError, match="must be 0 or 1"):
        compiled(sum)
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ConfigError, match="cannot be imported"):
        compiled(sum)
    monkeypatch.delenv(VARIABLE)
    assert compiled(sum) is None
    monkeypatch.setattr("tec_zarr.compiled.find_spec", {}.get)
    assert compiled(sum) is None
