from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tec_zarr.entropy.rans import Counter, Decoder, Encoder
from tec_zarr.errors import FormatError, TecError
from tec_zarr.models import registry
from tec_zarr.models.factorized import Factorized
from tec_zarr.models.priors import ActivityPrior
from tests.tiny import CERTAIN, RARE, ROWS, patch_artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tec_zarr.models.coding import Ints


@pytest.fixture(scope="module")
def model() -> Factorized:
    built = registry.build(patch_artifact())
    assert isinstance(built, Factorized)
    return built


def draw(tiles: int, size: int, seed: int, density: float) -> tuple[Ints, Ints]:
    """Rows of all kinds, and symbols that are zero in certain rows, mostly in rare ones."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, ROWS, (tiles, size)).astype(np.int32)
    symbols = np.round(random.laplace(0, 4, rows.shape)).astype(np.int32)
    symbols[random.random(rows.shape) > density] = 0
    symbols[rows < CERTAIN] = 0
    return symbols, rows


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 700), st.integers(0, 99), st.sampled_from([0, 0.02, 0.9]))
def test_symbols_come_back(tiles: int, size: int, seed: int, density: float) -> None:
    built = registry.build(patch_artifact())
    assert isinstance(built, Factorized)
    assert isinstance(built.wide, ActivityPrior)
    symbols, rows = draw(tiles, size, seed, density)
    encoder = Encoder(built.tables, tiles)
    assert np.array_equal(built.wide.sparse(encoder, symbols, rows), symbols)
    decoder = Decoder(built.tables, encoder.finish())
    assert np.array_equal(built.wide.sparse(decoder, None, rows), symbols)
    decoder.finish()


def test_values_out_of_all_tables_and_long_runs_come_back(model: Factorized) -> None:
    symbols = np.zeros((2, 50000), np.int32)
    rows = np.full(symbols.shape, CERTAIN, np.int32)
    symbols[0, [0, 49999]], symbols[1, 25000] = (2**31 - 1, -(2**30)), -1
    encoder = Encoder(model.tables, 2)
    prior = model.wide
    assert isinstance(prior, ActivityPrior)
    prior.sparse(encoder, symbols, rows)
    back = prior.sparse(Decoder(model.tables, encoder.finish()), None, rows)
    assert np.array_equal(back, symbols)


def test_lists_cost_what_single_symbols_cost(model: Factorized) -> None:
    """The runs of a list need as many bits as the model's chance of a symbol says."""
    prior, random = model.wide, np.random.default_rng(5)
    assert isinstance(prior, ActivityPrior)
    rows = np.full((1, 400_000), CERTAIN + 1, np.int32)
    chance = prior.sparse.chances[1] / 2**24
    symbols = (random.random(rows.shape) < chance).astype(np.int32)
    counter = Counter(model.tables, 1, lanes=1)
    prior.sparse(counter, symbols, rows)
    entropy = -chance * np.log2(chance) - (1 - chance) * np.log2(1 - chance)
    values = symbols.sum() * 3  # the test model's values cost 1.3 to 4.3 bits
    assert counter.bits[0] < 1.15 * (entropy * rows.size + values)


class Hostile:
    """A coder that returns what it likes."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)

    def __call__(self, symbols: NDArray[np.int32] | None, rows: Ints) -> Ints:
        del symbols
        return np.full(rows.shape, self.answers.pop(0), np.int32)


@pytest.mark.parametrize(
    "answers",
    [(0, 10**9), (0, -(10**9)), (0, 5, -1), (0, 5, 2**31 - 1), (0, 5, 40)],
    ids=["too many", "too few", "backwards", "far away", "too far"],
)
def test_hostile_streams_are_errors(model: Factorized, answers: tuple[int, ...]) -> None:
    prior = model.wide
    assert isinstance(prior, ActivityPrior)
    rows = np.full((1, 100), CERTAIN, np.int32)
    with pytest.raises(FormatError):
        prior.sparse(Hostile(*answers), None, rows)


def test_artifacts_with_impossible_rows_are_refused() -> None:
    genuine = patch_artifact()
    shifts = np.full(RARE, 40, np.int32)
    with pytest.raises(TecError, match="runs of zeros"):
        registry.build(replace(genuine, tensors={**genuine.tensors, "prior.shifts": shifts}))
