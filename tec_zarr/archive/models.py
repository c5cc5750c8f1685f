"""Models that stores carry become known to this machine, after a check of their hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tec_zarr.archive.stores import local, open_group
from tec_zarr.carried import carried, read
from tec_zarr.errors import ModelMismatchError, ModelNotFoundError, TecError

if TYPE_CHECKING:
    import zarr

    from tec_zarr.archive.stores import Location


def add_models(place: Location) -> tuple[str, ...]:
    """Add the models of an archive, or of a file, to this user's cache; returns their identities.

    A file is an artifact or a published checkpoint. No code of it is run. Raises
    ModelNotFoundError if there is no such file or the archive carries no model, ModelMismatchError
    if a model is damaged, is none, or has another hash than it is stored under.
    """
    from tec_zarr.models import registry

    path = local(place)
    if path is not None and path.is_file():
        return (registry.add(path),)
    found = carried(open_group(place))
    if not found:
        raise ModelNotFoundError(
            f"{place} carries no model; archives do that were written with embed_model=True"
        )
    for name, array in found.items():
        registry.add_bytes(check_model(name, array), name.split("/")[-1])
    return tuple(sorted({name.split("/")[-1] for name in found}))


def check_model(name: str, array: zarr.Array[Any]) -> bytes:
    """The content of an artifact file that a store carries, by the path of its array.

    Raises ModelMismatchError unless it is the artifact that its name promises.
    """
    from tec_zarr.models import artifact

    try:
        data = read(array)
        artifact.check(artifact.loads(data), name.split("/")[-1])
    except TecError as err:
        raise ModelMismatchError(f"the model {name} is damaged: {err}") from err
    return data
