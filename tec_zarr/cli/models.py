"""`tec-zarr models`: list the named ones, add files of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tec_zarr.cards import cards
from tec_zarr.cli import show

app = typer.Typer(help="List models that have a name; add and convert others.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="A file on this machine.")]


@app.callback(invoke_without_command=True)
def _list(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from tec_zarr.cli.app import out

        out.print(show.models(cards().values()))


@app.command()
def add(file: File) -> None:
    """Add an artifact, or a published checkpoint (.pt), to this user's cache."""
    from tec_zarr.models import registry

    typer.echo(registry.add(file))


@app.command()
def convert(
    file: File,
    quality: Annotated[
        float | None, typer.Option(help="Its lambda. [as its name says: ...lambda-10.pt]")
    ] = None,
) -> None:
    """Convert a published checkpoint (.pt) and add it to this user's cache."""
    from tec_zarr.models import official

    typer.echo(official.add(file, quality))
