"""What models ask of an entropy coder, and the checksum of what it coded. All is integer here."""

from __future__ import annotations

from typing import Protocol

import google_crc32c
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]


class Coder(Protocol):
    """Turns symbols into bytes or bytes into symbols; the caller need not know which.

    Symbols and table rows are (tiles, n). Returned are the symbols as every reader will see them.
    """

    def __call__(self, symbols: Ints | None, rows: Ints) -> Ints: ...


class Checked:
    """A coder that also keeps the CRC-32C of each tile's integers, little-endian int32."""

    def __init__(self, coder: Coder, tiles: int) -> None:
        self.coder = coder
        self.checksums = [0] * tiles

    def __call__(self, symbols: Ints | None, rows: Ints) -> Ints:
        known = np.ascontiguousarray(self.coder(symbols, rows), "<i4")
        for tile, values in enumerate(known):
            self.checksums[tile] = google_crc32c.extend(self.checksums[tile], values.tobytes())
        return known
