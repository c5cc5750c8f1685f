"""`tec-zarr models`: list and show those at hand, add others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tec_zarr.cli import show

app = typer.Typer(help="List models, show one; add and convert others.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="A file on this machine.")]


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models() -> None:
    """List the models at hand: bundled, added to the cache, or named by TEC_ZARR_MODELS."""
    from tec_zarr.cli.app import out
    from tec_zarr.models.catalogue import catalogue

    out.print(show.models(catalogue()))


@app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="Name of a model, or first digits of its hash.")],
) -> None:
    """Check a model's file, and show what it is and what its card says."""
    from tec_zarr.cli.app import out
    from tec_zarr.models.catalogue import find

    out.print(show.model(find(name)))


@app.command()
def add(
    place: Annotated[
        str, typer.Argument(metavar="STORE_OR_FILE", help="An archive, an artifact, or a .pt file.")
    ],
) -> None:
    """Add to this user's cache the models that an archive carries, or a file.

    Files are artifacts or published checkpoints (.pt). Hashes are checked, no code is run.
    """
    from tec_zarr import archive

    for identity in archive.add_models(place):
        typer.echo(identity)


@app.command()
def convert(
    file: File,
    out: Annotated[
        Path | None, typer.Argument(help="Artifact to write, of a checkpoint of your own.")
    ] = None,
    quality: Annotated[
        float | None, typer.Option(help="Its lambda. [as its name says: ...lambda-10.pt]")
    ] = None,
    summary: Annotated[str | None, typer.Option(help="For the card of OUT: one line.")] = None,
    licence: Annotated[str | None, typer.Option(help="For the card of OUT.")] = None,
) -> None:
    """Convert a checkpoint (.pt, in CompressAI's format) to an artifact.

    With OUT it becomes that file. Without, it is taken for a published one of its family and
    lambda, and added to this user's cache under that name.
    """
    from tec_zarr.models import official, upstream

    if out is None:
        typer.echo(official.add(file, quality))
        return
    said = {key: value for key, value in (("summary", summary), ("licence", licence)) if value}
    typer.echo(upstream.convert_file(file, quality, said).save(out))
