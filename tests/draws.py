"""Random numbers that are the same on any machine: NumPy's Philox, keyed by name. No torch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def draw(name: str, shape: tuple[int, ...], scale: float = 1.0) -> NDArray[np.float32]:
    """Normal numbers that depend on the name alone."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    random = np.random.Generator(np.random.Philox(key))
    return (scale * random.standard_normal(shape)).astype(np.float32)
