"""Published models by name: fetched from the hub or given as files, converted once, then cached.

Beside a converted artifact the cache keeps a note, `<name>-<lambda>.json`, with its identity.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tec_zarr.errors import ConfigError, ModelMismatchError, ModelNotFoundError
from tec_zarr.models import registry, shelf, upstream
from tec_zarr.releases import Release, releases

if TYPE_CHECKING:
    from collections.abc import Mapping


def identity(name: str, quality: float) -> str:
    """Identity of the artifact of a published model; fetched and converted if it is not at hand.

    Raises ConfigError for a quality that was not published, ModelNotFoundError if the checkpoint
    cannot be reached (the message says what to do), ModelMismatchError if it is not what it should
    be.
    """
    release = releases()[name]
    trained_at = release.trained_at(quality)
    noted = _noted(release, trained_at)
    if noted and shelf.cached(noted):
        return noted
    if release.family not in upstream.CONVERTERS:
        raise ModelNotFoundError(f"this release of tec-zarr cannot read {name}: upgrade it")
    return _keep(fetch(release, trained_at), release, trained_at)


def recovered(wanted: str) -> bool:
    """Whether an artifact (the first digits of its hash) is a published one that was now fetched.

    Raises as `identity`.
    """
    for release in releases().values():
        for trained_at, known in release.identities.items():
            if known.startswith(wanted):
                _keep(fetch(release, trained_at), release, trained_at)
                return True
    return False


def add(path: Path, quality: float | None = None) -> str:
    """Convert a checkpoint file and keep its artifact in the cache; returns its identity.

    Which release it belongs to is seen from its tensors; its lambda is `quality`, or else follows
    from the name that the file was published under. Raises ModelNotFoundError if there is no such
    file, ModelMismatchError if none was published that is like it, ConfigError if its lambda is not
    known.
    """
    state = upstream.read(path)
    kind = (upstream.family_of(state), upstream.bands_of(state))
    found = [entry for entry in releases().values() if (entry.family, entry.bands) == kind]
    if not found:
        raise ModelMismatchError(f"no {' '.join(kind)} model was published: {path}")
    trained_at = _published_as(path, found[0]) if quality is None else found[0].trained_at(quality)
    return _keep(path, found[0], trained_at, state)


def fetch(release: Release, trained_at: str) -> Path:
    """File of a checkpoint, from the hub or its client's cache.

    ModelNotFoundError if it cannot be reached.
    """
    file = release.file(trained_at)
    cure = (
        f"where it can be reached, get {file} from {release.repository} on the Hugging Face hub "
        f"(revision {release.revision}), copy it here and run: tec-zarr models add {file}"
    )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as err:
        raise ModelNotFoundError(
            f"{release.name} is not in {shelf.cache_folder()}; to fetch it: pip install "
            f"'tec-zarr[hub]'. Or {cure}"
        ) from err
    try:
        found = hf_hub_download(release.repository, file, revision=release.revision)
    except (OSError, ValueError) as err:  # all that the client raises is one of these
        raise ModelNotFoundError(
            f"{release.name} is not in {shelf.cache_folder()} and the hub cannot be reached; "
            f"{cure} ({err})"
        ) from err
    return Path(found)


def _keep(
    path: Path, release: Release, trained_at: str, state: upstream.State | None = None
) -> str:
    """Convert a checkpoint and put artifact and note into the cache; returns the identity."""
    source = upstream.digest(path)
    card = {
        "name": release.name,
        "lambda": trained_at,
        "licence": "Apache-2.0",
        "source": f"{release.repository}/{release.file(trained_at)}",
        "source_sha256": source,
        "summary": f"{release.name}, lambda {trained_at}, converted from the published checkpoint",
    }
    origin = upstream.Origin(release.bands, float(trained_at), card)
    artifact = upstream.convert(upstream.read(path) if state is None else state, origin)
    found, expected = artifact.identity(), release.identities.get(trained_at)
    if expected not in (None, found):
        raise ModelMismatchError(f"{path} becomes artifact {found[:16]}, not {str(expected)[:16]}")
    registry.keep(artifact)
    note = json.dumps({"identity": found, "source_sha256": source}, indent=1)
    shelf.write(_note(release, trained_at), note.encode())
    return found


def _noted(release: Release, trained_at: str) -> str | None:
    """Identity that is known of a checkpoint, from the release or from a note in the cache."""
    if trained_at in release.identities:
        return release.identities[trained_at]
    try:
        note: Mapping[str, str] = json.loads(_note(release, trained_at).read_text("utf-8"))
        return note["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(release: Release, trained_at: str) -> Path:
    return shelf.cache_folder() / f"{release.name}-{trained_at}.json"


def _published_as(path: Path, release: Release) -> str:
    """The lambda of a file with a published name, which a file of the user's own must not take."""
    for trained_at in release.lambdas:
        if path.name == release.file(trained_at):
            return trained_at
    example = release.file(release.lambdas[0])
    raise ConfigError(
        f"{path.name} is not called like a published checkpoint ({example}): if it is"
        " one, say its lambda as quality; one of your own becomes a model by: tec-zarr models"
        " convert FILE OUT"
    )
