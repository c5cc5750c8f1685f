from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr.errors import FormatError
from tec_zarr.models import spectral
from tec_zarr.models.spectral import (
    ANGLE_BITS,
    COUNT_BITS,
    DEFAULT,
    EDGES,
    WIDTH_BITS,
    WIDTHS,
    Doubles,
    Turn,
    Turns,
)

STEPS = 2**ANGLE_BITS
BANDS = st.integers(1, 12)


def angles_of(bands: int, leading: int) -> int:
    """Each component has an angle less than the one before it."""
    return sum(bands - 1 - component for component in range(leading))


@st.composite
def turns(draw: st.DrawFn, bands: int) -> Turn:
    leading = draw(st.integers(0, bands - 1))
    seed = draw(st.integers(0, 2**32))
    count, width = angles_of(bands, leading), draw(st.sampled_from(WIDTHS))
    angles = np.random.default_rng(seed).integers(0, 2**width, count)
    return Turn(leading, angles << (ANGLE_BITS - width))


def size_of(turn: Turn) -> int:
    """Bits of a turn as the page says, but for the count."""
    if not turn.leading:
        return 0
    width = next(w for w in WIDTHS if not (turn.angles % (STEPS >> w)).any())
    return WIDTH_BITS + width * len(turn.angles)


def tiles_of(bands: int, most: int = 4) -> st.SearchStrategy[Turns]:
    """The rotations of some frames."""
    frame = st.lists(turns(bands), min_size=len(EDGES), max_size=len(EDGES))
    return st.lists(frame, min_size=1, max_size=most).map(tuple)


def plain(stored: Turns) -> list[list[tuple[int, list[int]]]]:
    """Arrays as lists, to compare."""
    return [[(turn.leading, turn.angles.tolist()) for turn in frame] for frame in stored]


def random_rotations(bands: int, seed: int) -> Doubles:
    """(group, band, band)."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(EDGES), bands, bands)))
    return rotation


def random_covariances(frames: int, bands: int, seed: int) -> Doubles:
    """(frames, 64, band, band): bands that have much in common, strong low frequencies.

    All frequencies of a group have the same components, each frame others.
    """
    own = random_rotations(bands, seed) if frames == 1 else None
    powers = 4.0 ** -np.arange(bands) * (1 + np.arange(64)[:, None] / 8) ** -3.0
    tables = []
    for frame in range(frames):
        rows = random_rotations(bands, seed + frame) if own is None else own
        member = rows[spectral.groups().numpy()]
        tables.append(np.einsum("fcb,fc,fcd->fbd", member, powers, member))
    return np.stack(tables)


@pytest.mark.parametrize("size", [4, 8])
def test_the_dct_is_that_of_the_definition(size: int) -> None:
    rows = spectral.dct(size)
    assert rows.shape == (size**2, size**2)
    assert torch.allclose(rows @ rows.T, torch.eye(size**2).double(), atol=1e-12)
    patch = np.random.default_rng(0).normal(size=(size, size))
    found = (rows @ torch.from_numpy(patch).flatten()).view(size, size)
    for v in range(size):
        for u in range(size):
            total = sum(
                patch[y, x]
                * math.cos(math.pi * v * (2 * y + 1) / (2 * size))
                * math.cos(math.pi * u * (2 * x + 1) / (2 * size))
                for y in range(size)
                for x in range(size)
            )
            norm = math.sqrt((1 + (v > 0)) * (1 + (u > 0))) / size
            assert float(found[v, u]) == pytest.approx(total * norm, abs=1e-12)


def test_groups_are_squares_of_frequencies() -> None:
    places = spectral.groups().view(8, 8)
    for v in range(8):
        for u in range(8):
            assert int(places[v, u]) == next(g for g, edge in enumerate(EDGES) if max(u, v) < edge)
    assert spectral.groups().bincount().tolist() == [1, 3, 12, 48]


@given(st.data(), BANDS)
def test_rotations_come_back_from_their_bytes(data: st.DataObject, bands: int) -> None:
    stored = data.draw(tiles_of(bands))
    packed = spectral.pack(stored)
    bits = sum(COUNT_BITS + size_of(turn) for frame in stored for turn in frame)
    assert len(packed) == (-(-bits // 8) if any(t.leading for f in stored for t in f) else 0)
    back = spectral.unpack(packed, len(stored), bands)
    assert plain(back) == plain(stored)
    default = random_rotations(bands, 0)
    assert (spectral.rotations(back, default) == spectral.rotations(stored, default)).all()


@given(st.data(), BANDS)
def test_rotations_are_orthonormal_whatever_their_angles(data: st.DataObject, bands: int) -> None:
    stored, default = data.draw(tiles_of(bands)), random_rotations(bands, 1)
    found = spectral.rotations(stored, default)
    assert found.shape == (len(stored), len(EDGES), bands, bands)
    assert np.allclose(found @ found.swapaxes(2, 3), np.eye(bands), atol=1e-12)


def test_default_rotations_cost_nothing() -> None:
    default = random_rotations(12, 2)
    stored = ([DEFAULT] * len(EDGES),) * 3
    assert spectral.pack(stored) == b""
    assert plain(spectral.unpack(b"", 3, 12)) == plain(stored)
    assert np.allclose(spectral.rotations(stored, default), default, atol=1e-15)


def test_bits_lie_where_the_page_says() -> None:
    """docs/format.md: counts, widths, angles, highest bit first, zeros at the end."""
    stored = ([Turn(1, np.array([512, 16])), DEFAULT, Turn(2, np.array([1, 1023, 0])), DEFAULT],)
    bits = "0001" + "01" + "100000" + "000001" + "0000"
    bits += "0010" + "11" + "0000000001" + "1111111111" + "0000000000" + "0000"
    expected = int(bits.ljust(64, "0"), 2).to_bytes(8, "big")
    assert spectral.pack(stored) == expected
    assert plain(spectral.unpack(expected, 1, 3)) == plain(stored)


def test_angles_turn_bands_in_the_order_of_the_page() -> None:
    """docs/format.md: G(1, a) G(2, b) ... from the last angle to the first, on the identity."""
    stored = ([Turn(2, np.array([100, 700, 300])), *[DEFAULT] * 3],)
    default = random_rotations(3, 5)

    def step(row: int, angle: int) -> Doubles:
        matrix, turned = np.eye(3), 2 * np.pi * angle / 1024
        matrix[row - 1 : row + 1, row - 1 : row + 1] = [
            [np.cos(turned), -np.sin(turned)],
            [np.sin(turned), np.cos(turned)],
        ]
        return matrix

    product = step(2, 100) @ step(1, 700) @ step(2, 300)
    found = spectral.rotations(stored, default)[0]
    assert np.allclose(found[0], product.T @ default[0], atol=1e-12)
    assert np.allclose(found[1:], default[1:], atol=1e-12)


@pytest.mark.parametrize("bands", [1, 2, 3, 5, 12])
def test_stored_rotations_are_close_to_the_exact_ones(bands: int) -> None:
    tables, default = random_covariances(3, bands, 10), random_rotations(bands, 4)
    stored = spectral.turns(tables, 1e-12, 1000, default)
    exact = spectral.eigenvectors(
        spectral.weighted(torch.from_numpy(tables), torch.full((3,), 1e-12).double()), None
    ).numpy()
    alike = np.abs((spectral.rotations(stored, default) * exact).sum(3))
    assert all(turn.leading == bands - 1 for frame in stored for turn in frame)
    assert alike.min() > 0.999


@given(st.integers(2, 12), st.integers(0, 2**20), st.floats(-9, 0))
def test_rotations_save_more_than_they_cost(bands: int, seed: int, log_noise: float) -> None:
    places, noise = 64, 10.0**log_noise
    tables, default = random_covariances(2, bands, seed), random_rotations(bands, 3)
    stored = spectral.turns(tables, noise, places, default)
    member = spectral.groups().numpy()

    def bits(rows: Doubles) -> float:
        rows = np.broadcast_to(rows, (2, *rows.shape[-3:]))[:, member]
        energy = ((rows @ tables) * rows).sum(3)
        return float(places * np.log2(1 + energy / noise).sum() / 2)

    cost = sum(size_of(turn) for frame in stored for turn in frame)
    assert bits(spectral.rotations(stored, default)) + cost <= bits(default) + 1e-6


def test_frames_like_the_default_and_silent_ones_store_nothing() -> None:
    tables = random_covariances(1, 5, 7)
    alike = random_rotations(5, 7)
    for table, places in ((tables, 10**6), (tables * 0, 10**6), (tables, 0)):
        stored = spectral.turns(table, 1e-3, places, alike)
        assert plain(stored) == plain(([DEFAULT] * 4,))


@given(st.binary(max_size=120), BANDS, st.integers(1, 5))
def test_hostile_bytes_are_an_error_or_rotations(data: bytes, bands: int, frames: int) -> None:
    try:
        stored = spectral.unpack(data, frames, bands)
    except FormatError:
        return
    assert len(stored) == frames
    assert all(len(frame) == len(EDGES) for frame in stored)
    for turn in (turn for frame in stored for turn in frame):
        assert turn.leading < bands
        assert len(turn.angles) == angles_of(bands, turn.leading)
    found = spectral.rotations(stored, random_rotations(bands, 0))
    assert np.allclose(found @ found.swapaxes(2, 3), np.eye(bands), atol=1e-12)
    assert spectral.pack(stored) == data


@given(st.data(), st.integers(2, 12))
def test_bytes_that_are_cut_or_go_on_are_an_error(data: st.DataObject, bands: int) -> None:
    stored = data.draw(tiles_of(bands).filter(lambda t: any(u.leading for f in t for u in f)))
    packed = spectral.pack(stored)
    for wrong in (packed[:-1], packed + b"\0", packed + b"\xff"):
        if wrong:
            with pytest.raises(FormatError):
                spectral.unpack(wrong, len(stored), bands)
    with pytest.raises(FormatError):
        spectral.unpack(packed, len(stored) + 4 * len(packed), bands)


def test_bits_behind_the_last_angle_are_an_error() -> None:
    packed = spectral.pack(([Turn(1, np.array([5])), *[DEFAULT] * 3],))
    assert len(packed) == 4
    with pytest.raises(FormatError, match="longer"):
        spectral.unpack(packed[:-1] + bytes([packed[-1] | 1]), 1, 2)


@pytest.mark.parametrize(("frames", "size"), [(1, 2), (3, 6)])
def test_default_rotations_have_one_form(frames: int, size: int) -> None:
    with pytest.raises(FormatError, match="all default"):
        spectral.unpack(bytes(size), frames, 12)


@pytest.mark.parametrize("bands", range(1, 16))
def test_as_many_components_as_bands_are_an_error(bands: int) -> None:
    data = bytes([bands << 4]) + bytes(1000)
    with pytest.raises(FormatError, match="components"):
        spectral.unpack(data, 1, bands)


def test_long_bytes_cost_no_more_memory_than_they_pay_for() -> None:
    for data in (bytes(10**6), b"\x11" * 10**6):
        tracemalloc.start()
        with pytest.raises(FormatError):
            spectral.unpack(data, 3, 12)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12 * len(data)


def test_covariances_are_those_of_centred_means_and_of_bare_details() -> None:
    random = np.random.default_rng(0)
    spectrum = torch.from_numpy(random.normal(size=(2, 64, 3, 50)))
    spectrum[:, 0] += 1000
    table = spectral.covariances(spectrum)
    for frame in range(2):
        first = np.cov(spectrum[frame, 0].numpy(), bias=True)
        assert np.allclose(table[frame, 0], first, atol=1e-6)
        detail = spectrum[frame, 9].numpy()
        assert np.allclose(table[frame, 9], detail @ detail.T / 50, atol=1e-12)
