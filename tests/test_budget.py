"""What an artifact only claims costs no memory, and what does not fit is refused."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tec_zarr.errors import ModelMismatchError, TecError
from tec_zarr.models import registry
from tests.tiny import elic_artifact, patch_artifact, strided_artifact

if TYPE_CHECKING:
    from tec_zarr.models.artifact import Artifact
    from tests.cubes import Whatever

NONSENSE: list[object] = [
    None, -1, 0, 1 << 20, 1 << 70, 1.5, "x", [], [[]], {}, [1 << 40], True, float("nan"),
]  # fmt: skip
MAKERS = pytest.mark.parametrize("make", [strided_artifact, patch_artifact, elic_artifact])


def with_option(genuine: Artifact, name: str, value: object) -> Artifact:
    fields = json.loads(json.dumps(genuine.fields))
    fields["config"][name] = value
    return replace(genuine, fields=fields)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@MAKERS
def test_nonsense_makes_a_model_or_an_error_of_ours(make: Whatever) -> None:
    genuine = make()
    for name in genuine.fields["config"]:
        for value in NONSENSE:
            with suppress(TecError):  # what no tensor depends on may be nonsense
                registry.build(with_option(genuine, name, value))
    others: list[dict[str, Any]] = [
        {},
        {"family": []},
        {"family": "fp"},
        {"family": "fp", "config": 3},
    ]
    for fields in others:
        with pytest.raises(ModelMismatchError):
            registry.build(replace(genuine, fields={"version": 1, **fields}))


@MAKERS
def test_tensors_of_other_shapes_are_refused(make: Whatever) -> None:
    genuine = make()
    for name, value in list(genuine.tensors.items())[:: 1 if len(genuine.tensors) < 99 else 9]:
        for other in (np.zeros((0, 3), value.dtype), value[None, None]):
            with pytest.raises(TecError):
                registry.build(replace(genuine, tensors={**genuine.tensors, name: other}))


def test_integers_must_be_integers_and_name_what_there_is() -> None:
    genuine = patch_artifact()
    wrong: dict[str, Whatever] = {
        name: value.astype(np.float32) + 0.5
        for name, value in genuine.tensors.items()
        if name.startswith("prior.")
    }
    wrong["prior.extents"] = genuine.tensors["prior.extents"] + 1000
    wrong["transform.order"] = genuine.tensors["transform.order"] * 0
    wrong["transform.lead_order"] = genuine.tensors["transform.lead_order"] + 1
    for name, value in wrong.items():
        with pytest.raises(ModelMismatchError):
            registry.build(replace(genuine, tensors={**genuine.tensors, name: value}))


def test_sizes_that_are_only_claimed_take_no_memory() -> None:
    genuine = strided_artifact()
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, value in (("width", 60000), ("latents", 1 << 30), ("width", 1 << 40)):
        with pytest.raises(ModelMismatchError, match="larger sizes"):
            registry.build(with_option(genuine, name, value))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * unit < 50_000_000
