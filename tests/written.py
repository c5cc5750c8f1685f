"""Tiles as a writer leaves them, and what a reader makes of them; no chunk around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.models.coding import Checked, Recorder, Replay

if TYPE_CHECKING:
    from tec_zarr.models.priors import Coded, Grid


class Written:
    """What a batch becomes."""

    def __init__(
        self,
        model: Any,
        given: Coded,
        grid: Grid,
        quality: int = -1,
        coder: type[Checked] = Checked,
    ) -> None:
        self.model, self.quality = model, quality % len(model.qualities)
        encoder, guard = Encoder(model.tables, grid.tiles), Recorder(grid.tiles)
        self.checked = coder(encoder, guard, model.tables, grid.tiles)
        self.seen: Coded = model.code(self.checked, given, grid, self.quality)
        self.overrides, self.streams = guard.finish(), encoder.finish()
        self.checksums = self.checked.checksums
        self.grid = grid._replace(sides=tuple(model.sides(self.seen)))

    def read(self, model: Any = None) -> Coded:
        reader = model or self.model
        decoder, guard = Decoder(reader.tables, self.streams), Replay(self.overrides)
        checked = Checked(decoder, guard, reader.tables, self.grid.tiles)
        back: Coded = reader.code(checked, None, self.grid, self.quality)
        decoder.finish()
        guard.finish()
        assert checked.checksums == self.checksums
        return back
