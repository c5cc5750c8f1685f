from __future__ import annotations

import json
import math
import pickle
import warnings
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
from dask.base import tokenize
from hypothesis import given
from hypothesis import strategies as st

from tec_zarr import TEC, TecConfig, TecError, TECSerializer
from tec_zarr.bands import S2L2A
from tec_zarr.config import OPTIONS, TecOptions
from tec_zarr.errors import ConfigError

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
CONFIGS = st.builds(
    TecConfig,
    model=st.text(min_size=1),
    quality=FLOATS,
    nodata=st.none() | st.just("NaN") | st.integers(-(2**31), 2**31) | FLOATS,
    bands=st.none() | st.lists(st.sampled_from(S2L2A), min_size=1, unique=True),
    scale=FLOATS.filter(bool),
    offset=FLOATS,
    tile=st.integers(1, 1023).map(lambda units: 64 * units),
    measure=st.booleans(),
)
NEWER = {"model": "tec-tt-s2l2a", "max_error": 5, "quality": "best", "layers": [1, 2]}


@given(CONFIGS)
def test_json_holds_everything(config: TecConfig) -> None:
    text = json.dumps(config.to_dict(), allow_nan=False)
    again = TecConfig.from_dict(json.loads(text))
    assert again == config
    assert hash(again) == hash(config)
    assert tokenize(again) == tokenize(config)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "options",
    [
        {"model": ""},
        {"model": None},
        {"quality": math.nan},
        {"quality": math.inf},
        {"quality": "44"},
        {"quality": True},
        {"nodata": math.inf},
        {"nodata": "nan"},
        {"nodata": True},
        {"bands": "B02"},
        {"bands": []},
        {"bands": [1, 2]},
        {"bands": ["B02", "B02"]},
        {"bands": 5},
        {"scale": 0},
        {"scale": math.nan},
        {"offset": None},
        {"tile": 0},
        {"tile": 100},
        {"tile": 256.0},
        {"tile": 2**22},
        {"measure": 1},
        {"max_error": 0},
        {"device": "cpu"},
    ],
)
def test_the_constructor_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TecConfig(**options)


def test_an_unknown_option_is_answered_with_the_known_ones() -> None:
    for kind in (TecConfig, TEC, TECSerializer):
        with pytest.raises(TecError, match=r"qualty.*there are.*'quality'"):
            kind(qualty=40)  # type: ignore[call-arg]


def test_numpy_scalars_become_plain_python() -> None:
    config = TecConfig(
        quality=np.float32(40),  # type: ignore[arg-type]
        nodata=np.uint16(65535),  # type: ignore[arg-type]
        scale=np.float32(1e-4),  # type: ignore[arg-type]
        offset=np.int64(-1000),  # type: ignore[arg-type]
        tile=np.int64(128),  # type: ignore[arg-type]
        bands=np.array(["B02", "B03"]),  # type: ignore[arg-type]
        measure=np.True_,  # type: ignore[arg-type]
    )
    assert config == TecConfig(
        quality=40,
        nodata=65535,
        scale=1e-4,
        offset=-1000,
        tile=128,
        bands=("B02", "B03"),
        measure=True,
    )
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    assert {type(value) for value in config.to_dict().values()} <= {str, float, int, list, bool}


def test_nan_is_a_string_in_metadata_and_a_number_in_use() -> None:
    config = TecConfig(nodata=math.nan)
    assert config.nodata == "NaN"
    assert config == TecConfig(nodata=np.float64("nan")) == TecConfig(nodata="NaN")
    assert config.nodata_value is not None
    assert math.isnan(config.nodata_value)
    assert TecConfig(nodata=-9999.0).nodata_value == -9999
    assert TecConfig(nodata=None).nodata_value is None


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        TecConfig().quality = 40  # type: ignore[misc]
    assert replace(TecConfig(), quality=40) == TecConfig(quality=40)


def test_the_options_are_declared_alike_for_constructors_and_type_checkers() -> None:
    declared = {item.name: item.type for item in fields(TecConfig) if item.init}
    assert set(TecOptions.__annotations__) == set(declared) == set(OPTIONS)


def test_what_a_newer_release_wrote_is_kept_and_only_encoding_refuses() -> None:
    with pytest.warns(
        UserWarning, match=r"newer tec-zarr: \['layers', 'max_error', 'quality'\]"
    ) as seen:
        config = TecConfig.from_dict(NEWER)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert config.model == "tec-tt-s2l2a"
    assert config.quality == TecConfig().quality
    assert {key: config.to_dict()[key] for key in NEWER} == NEWER
    with pytest.raises(ConfigError, match=r"\['layers', 'max_error', 'quality'\].*newer"):
        config.for_encoding()


def test_newer_configurations_compare_hash_and_travel() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config, same, other = (
            TecConfig.from_dict(data) for data in (NEWER, NEWER, NEWER | {"max_error": 6})
        )
    assert config == same == pickle.loads(pickle.dumps(config))
    assert hash(config) == hash(same)
    assert config != other
    assert tokenize(config) == tokenize(same) != tokenize(other)


def test_missing_keys_are_defaults() -> None:
    assert TecConfig.from_dict({}) == TecConfig()
    assert TecConfig().for_encoding() == TecConfig()
