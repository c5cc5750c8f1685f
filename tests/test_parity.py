"""Symbols and reconstructions are those of the published package: tests/golden/parity/make.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from tec_zarr.entropy import exact
from tec_zarr.entropy.rans import Counter, Decoder, Encoder
from tec_zarr.models import registry, upstream
from tec_zarr.models.coding import Checked, Recorder, Replay
from tests.floats import in_float64
from tests.golden.parity import FOLDER
from tests.upstream import (
    LOUD,
    SENT,
    STEPS,
    TEMPORAL_LOUD,
    listed,
    narrowed,
    picture,
    series,
    state_of,
    temporal,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tec_zarr.models.model import Model
    from tec_zarr.models.priors import Coded
    from tec_zarr.models.temporal import Temporal

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


class Logged(Recorder):
    """A guard that keeps what it rounds, a call a token."""

    def __init__(self) -> None:
        super().__init__(1)
        self.calls: list[NDArray[np.float64]] = []

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        self.calls.append(values.numpy())
        return super().__call__(values)


def published_bits(values: NDArray[np.float64], tokens: NDArray[Any]) -> float:
    """Bits of tokens (windows, c) by the formula of the published package.

    `values` (windows, 2, c): places among the scales, hundredths of means less a half.
    """
    scales = np.array(exact.deviations(0.01, 256.01, 256))
    scale = scales[np.rint(values[:, 0]).astype(int).clip(0, 255)]
    mean = (values[:, 1] + 0.5) / 100
    distance = np.abs(tokens - np.rint(mean) - np.minimum(mean - np.rint(mean), 0.49))
    below = np.vectorize(math.erfc)
    likelihood = (
        below((distance - 0.5) / scale / 2**0.5) - below((distance + 0.5) / scale / 2**0.5)
    ) / 2
    return float(-np.log2(np.maximum(likelihood, 1e-9)).sum())


def closely(found: Any, expected: NDArray[Any], step: int = 3) -> bool:
    """Within 1e-4 of the deviation of what is expected, of which each `step`th value is known."""
    sample = found.numpy()[..., ::step, ::step]
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


@pytest.mark.parametrize("case", SENT)
def test_temporal_models_do_what_the_published_package_does(case: str) -> None:
    with np.load(FOLDER / f"{case}.npz") as file:
        golden = dict(file)
    assert golden["symbols"].min() <= -8
    assert golden["symbols"].max() >= 8
    state = state_of(narrowed(temporal(case)), loud=TEMPORAL_LOUD)
    model = cast("Temporal", registry.build(upstream.convert(state, ORIGIN)))
    code, guard = model.config.sent.index(SENT[case]), Logged()
    frames = torch.from_numpy(series(case, int(golden["picture"])))
    with torch.inference_mode(), in_float64():
        checked = Checked(Counter(model.tables, 1), guard, model.tables, 1)
        given = model.analyse(frames, code)
        seen = model.code(checked, given, model.grid(1, STEPS, (128, 128)), code)
        frame = model.synthesise(seen, code)[0]
        tokens = model.prior.windows_of(seen.maps[0][0]).numpy()
    assert (seen.maps[0][0].numpy() == golden["symbols"]).all()
    assert closely(frame, golden["frame"], 7)
    found = [
        sum(
            published_bits(guard.calls[16 * step + k].reshape(4, 2, -1), tokens[step, :, k])
            for k in range(SENT[case])
        )
        for step in range(STEPS)
    ]
    assert np.allclose(found, golden["bits"], rtol=1e-4)
