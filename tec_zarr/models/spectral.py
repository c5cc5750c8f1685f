"""The Karhunen-Loeve transform over bands, found anew for each frame of a tile.

Patches of 8x8 pixels are transformed by a DCT; then, for each of four groups of frequencies, a
rotation turns bands into components. Images differ so much in their bands that a rotation of their
own saves a fifth of the bytes; it costs some hundred bytes, as angles of Givens rotations.
Frequencies are weighted such that all of them count alike (their spectra span six octaves).
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tec_zarr.errors import FormatError
from tec_zarr.models import givens

EDGES = (1, 2, 4, 8)
"""Frequencies (v, u) are in the first group whose edge is above both."""

ANGLE_BITS = 10
"""A turn has 2**ANGLE_BITS steps. A bit less costs 0.7 % of the bytes at 44 dB, one more saves
0.2 %."""

COUNT_BITS = 4

WIDTH_BITS = 2
WIDTHS = (4, 6, 8, ANGLE_BITS)
"""Bits of an angle as it is stored, its highest ones: at low rates few of them are enough."""

TRIED = WIDTHS[1:]

Doubles = NDArray[np.float64]


class Turn(NamedTuple):
    """A rotation of bands as it is stored."""

    leading: int
    """How many leading components it sets; 0: the default rotation."""

    angles: NDArray[np.int64]
    """In steps of a turn; those of the first component come first."""


DEFAULT = Turn(0, np.zeros(0, np.int64))

Turns = tuple[list[Turn], ...]
"""The rotations of each frame, one a group."""


def dct(size: int) -> Tensor:
    """Orthonormal DCT-II of size x size values, (size**2, size**2), float64, frequencies as rows.

    Ahmed, Natarajan, Rao 1974. Row v * size + u.
    """
    k = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(torch.pi * (2 * k + 1) * k[:, None] / (2 * size)) * (2 / size) ** 0.5
    basis[0] /= 2**0.5
    return torch.kron(basis, basis)


def groups() -> Tensor:
    """(64,): the group of each frequency of an 8x8 DCT."""
    places = torch.arange(64)
    highest = torch.maximum(places // 8, places % 8)
    return torch.bucketize(highest, torch.tensor(EDGES), right=True)


def covariances(coefficients: Tensor) -> Tensor:
    """(n, 64, band, band) in float64, of (n, 64, band, places); that of frequency 0 is centred."""
    table = coefficients @ coefficients.mT
    first = coefficients[:, 0] - coefficients[:, 0].mean(2, keepdim=True)
    table[:, 0] = first @ first.mT
    return table.double() / coefficients.shape[3]


def noise(step: Tensor) -> Tensor:
    """Squared error of a coefficient that is coded in steps."""
    return step.square() / 12


def weighted(table: Tensor, noise: Tensor) -> Tensor:
    """(n, group, band, band): sums of covariances (n, 64, band, band) over groups, all alike.

    `noise` (n,) is the error that coding will make of each coefficient, squared.
    """
    power = table.diagonal(dim1=2, dim2=3).sum(2) + table.shape[2] * noise[:, None]
    share = table / power.clamp(min=1e-12)[..., None, None]
    member = torch.nn.functional.one_hot(groups()).to(share)
    return torch.einsum("nfab,fg->ngab", share, member)


def eigenvectors(table: Tensor, default: Tensor | None) -> Tensor:
    """Rotations with components as rows, strongest first, of (n, group, band, band).

    Signs are those of `default` (group, band, band), or positive sums.
    """
    _, vectors = torch.linalg.eigh(table)
    rows = vectors.mT.flip(2)
    towards = rows.sum(3) if default is None else (rows * default.to(rows)).sum(3)
    return torch.where(towards[..., None] < 0, -rows, rows)


def turns(table: Doubles, noise: float, places: int, default: Doubles) -> Turns:
    """The rotations worth their bits for frames with covariances (n, 64, band, band).

    One for each frame and group, for `places` patches that are coded with the squared error
    `noise`; `default` is (group, band, band).
    """
    table = np.where(np.isfinite(table).all((1, 2, 3), keepdims=True), table, 0)
    own = eigenvectors(
        weighted(torch.from_numpy(table), torch.full((len(table),), noise, dtype=torch.float64)),
        torch.from_numpy(default),
    ).numpy()
    member = groups().numpy()
    energy = _energy(own[:, member], table)
    strong = np.stack([energy[:, member == g].mean(1) for g in range(len(EDGES))], 1) > noise
    counts = np.minimum(strong.sum(2), default.shape[1] - 1)
    sizes = np.array([len(_pairs(default.shape[1], c)) for c in range(default.shape[1])])[counts]
    found = [_angles(own @ default.swapaxes(1, 2), counts, width) for width in TRIED]
    rows = [default[None], *(_rotated(angles, default) for angles in found)]
    bits = np.stack([places * _bits(_energy(r[:, member], table), noise) for r in rows])
    bits[1:] += WIDTH_BITS + np.multiply.outer(TRIED, sizes)
    bits[1:, counts == 0] = np.inf
    best = bits.argmin(0)
    return tuple(
        [
            Turn(int(counts[n, g]), found[b - 1][n, g, : sizes[n, g]]) if b else DEFAULT
            for g, b in enumerate(frame)
        ]
        for n, frame in enumerate(best.tolist())
    )


def _bits(energy: Doubles, noise: float) -> Doubles:
    """(n, group): bits of a patch in components of mean squares (n, 64, component)."""
    bits, member = np.log2(1 + energy.clip(min=0) / noise).sum(2) / 2, groups().numpy()
    return np.stack([bits[:, member == g].sum(1) for g in range(len(EDGES))], 1)


def rotations(stored: Turns, default: Doubles) -> Doubles:
    """(n, group, component, band) of stored rotations; `default` is (group, band, band)."""
    bands = default.shape[1]
    angles = np.zeros((len(stored), len(EDGES), len(_pairs(bands, bands - 1))), np.int64)
    for line, frame in zip(angles, stored, strict=True):
        for target, turn in zip(line, frame, strict=True):
            target[: len(turn.angles)] = turn.angles
    return _rotated(angles, default)


def pack(frames: Turns) -> bytes:
    """The rotations of a tile's frames; nothing if all are default."""
    if not any(turn.leading for frame in frames for turn in frame):
        return b""
    return np.packbits(np.concatenate([_packed(turn) for turn in chain(*frames)])).tobytes()


def _packed(turn: Turn) -> NDArray[np.uint8]:
    """A turn as bits, with angles of the least width that holds them."""
    count = _binary([turn.leading], COUNT_BITS)
    if not turn.leading:
        return count
    choice = _width(turn)
    angles = _binary(turn.angles >> (ANGLE_BITS - WIDTHS[choice]), WIDTHS[choice])
    return np.concatenate([count, _binary([choice], WIDTH_BITS), angles])


def _width(turn: Turn) -> int:
    """Which of the widths is the least that holds the angles."""
    missed = (1 << (ANGLE_BITS - np.array(WIDTHS))) - 1
    return int((turn.angles[:, None] & missed).any(0).argmin())


def unpack(data: bytes, frames: int, bands: int) -> Turns:
    """Invert `pack`; FormatError for other bytes."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if not len(bits):
        return ([DEFAULT] * len(EDGES),) * frames
    place = 0
    found = []
    for _ in range(frames * len(EDGES)):
        (count,), place = _numbers(bits, place, 1, COUNT_BITS)
        if count >= bands:
            raise FormatError(f"a rotation of {bands} bands sets {count} components")
        if not count:
            found.append(DEFAULT)
            continue
        (choice,), place = _numbers(bits, place, 1, WIDTH_BITS)
        number, width = len(_pairs(bands, int(count))), WIDTHS[choice]
        angles, place = _numbers(bits, place, number, width)
        turn = Turn(int(count), angles << (ANGLE_BITS - width))
        if _width(turn) != choice:
            raise FormatError("the angles of a tile have more bits than they need")
        found.append(turn)
    if len(bits) - place >= 8 or bits[place:].any():
        raise FormatError("the rotations of a tile are longer than they should be")
    if not any(turn.leading for turn in found):
        raise FormatError("the rotations of a tile are all default, and are stored nevertheless")
    starts = range(0, len(found), len(EDGES))
    return tuple(found[start : start + len(EDGES)] for start in starts)


def _angles(target: Doubles, counts: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Angles that turn unit vectors into the first `counts` rows of orthonormal matrices.

    `target` is (..., band, band), `counts` (...); zeros where a matrix has no more. Angles are
    multiples of 2**-width of a turn, in steps of 2**-ANGLE_BITS.
    """
    rest, steps = target.swapaxes(-1, -2).copy(), 2**width / (2 * np.pi)
    bands, unit = target.shape[-1], 2 ** (ANGLE_BITS - width)
    pairs = _pairs(bands, bands - 1)
    angles = np.zeros((*counts.shape, len(pairs)), np.int64)
    if givens.find and pairs:
        flat = rest.reshape(-1, bands, bands), angles.reshape(-1, len(pairs))
        givens.find(*flat, counts.ravel(), np.array(pairs), 2**width)
        return angles * unit
    for index, (row, column) in enumerate(pairs):
        angle = np.arctan2(rest[..., row, column], rest[..., row - 1, column])
        whole = np.round(angle * steps).astype(np.int64) % 2**width
        angles[..., index] = np.where(column < counts, whole, 0)
        _turn(rest, row, angles[..., index] / steps)
    return angles * unit


def _rotated(angles: NDArray[np.int64], default: Doubles) -> Doubles:
    """Default rotations (group, band, band), turned by angles (n, group, angle)."""
    bands, steps = default.shape[-1], 2**ANGLE_BITS / (2 * np.pi)
    result = np.tile(np.eye(bands), (*angles.shape[:2], 1, 1))
    pairs = _pairs(bands, bands - 1)
    if givens.turn and pairs:
        flat = result.reshape(-1, bands, bands), angles.reshape(-1, len(pairs))
        givens.turn(*flat, np.array(pairs), 2**ANGLE_BITS)
        return result.swapaxes(-1, -2) @ default
    for index, (row, _) in reversed(list(enumerate(pairs))):
        _turn(result, row, -angles[..., index] / steps)
    return result.swapaxes(-1, -2) @ default


def _pairs(size: int, count: int) -> list[tuple[int, int]]:
    """(row, column) of the Givens rotations of `count` components, in order."""
    return [(row, column) for column in range(count) for row in range(size - 1, column, -1)]


def _turn(matrix: Doubles, row: int, angle: Doubles) -> None:
    """Rotate the rows row - 1 and row of matrices, in place."""
    cosine, sine = np.cos(angle)[..., None], np.sin(angle)[..., None]
    above, below = matrix[..., row - 1, :].copy(), matrix[..., row, :].copy()
    matrix[..., row - 1, :] = cosine * above + sine * below
    matrix[..., row, :] = cosine * below - sine * above


def _energy(rows: Doubles, table: Doubles) -> Doubles:
    """Mean squares (n, 64, component) of components, given covariances (n, 64, band, band)."""
    energy: Doubles = ((rows @ table) * rows).sum(3)
    return energy


def _binary(numbers: NDArray[np.int64] | list[int], width: int) -> NDArray[np.uint8]:
    """Bits of numbers, highest first."""
    column = np.asarray(numbers, np.int64).reshape(-1, 1)
    return (column >> np.arange(width)[::-1] & 1).astype(np.uint8).ravel()


def _numbers(
    bits: NDArray[np.uint8], place: int, count: int, width: int
) -> tuple[NDArray[np.int64], int]:
    end = place + count * width
    if end > len(bits):
        raise FormatError("the rotations of a tile are cut off")
    digits = bits[place:end].reshape(count, width).astype(np.int64)
    return digits @ (1 << np.arange(width)[::-1]), end
