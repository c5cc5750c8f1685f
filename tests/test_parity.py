"""Symbols and reconstructions are those of the published package: tests/golden/parity/make.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tec_zarr.entropy.rans import Decoder, Encoder
from tec_zarr.models import registry, upstream
from tec_zarr.models.coding import Checked, Recorder, Replay
from tests.golden.parity import FOLDER
from tests.upstream import LOUD, listed, picture, state_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tec_zarr.models.model import Model
    from tec_zarr.models.priors import Coded

ORIGIN = upstream.Origin("s2l2a", 10.0, {})


def there_and_back(model: Model, frame: NDArray[np.float32]) -> tuple[Coded, Coded]:
    """What a frame (1, band, y, x) becomes: as the writer sees it, as readers do."""
    given = model.analyse(torch.from_numpy(frame[None]), 0)
    grid = model.grid(1, 1, (frame.shape[2], frame.shape[3]))
    encoder, recorder = Encoder(model.tables, 1), Recorder(1)
    seen = model.code(Checked(encoder, recorder, model.tables, 1), given, grid, 0)
    decoder, replay = Decoder(model.tables, encoder.finish()), Replay(recorder.finish())
    back = model.code(Checked(decoder, replay, model.tables, 1), None, grid, 0)
    return seen, back


def closely(found: Any, expected: NDArray[Any]) -> bool:
    """Within 1e-4 of the deviation of what is expected."""
    sample = found.numpy()[:, ::3, ::3]
    return bool(np.abs(sample - expected).max() <= 1e-4 * expected.std())


@pytest.mark.parametrize("case", LOUD)
def test_symbols_and_reconstructions_are_those_of_the_published_package(case: str) -> None:
    with np.load(FOLDER / f"{case}.npz") as file:
        golden = dict(file)
    assert golden["symbols"].min() <= -8
    assert golden["symbols"].max() >= 8
    model = registry.build(upstream.convert(state_of(listed(case), loud=LOUD[case]), ORIGIN))
    with torch.inference_mode():
        seen, back = there_and_back(model, picture(case, int(golden["picture"])))
        frame = model.synthesise(back, 0)[0, 0]
    names = ["z", "symbols"] if "z" in golden else ["symbols"]
    for index, name in enumerate(names):
        assert (seen.maps[index][0, 0].numpy() == golden[name]).all()
        assert (back.maps[index][0, 0].numpy() == golden[name]).all()
    if "latents" in golden:
        assert closely(back.maps[2][0, 0], golden["latents"])
    assert closely(frame, golden["frame"])
