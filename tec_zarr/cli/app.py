"""The sub-commands: each parses, calls one public function and shows what it found."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tec_zarr import archive
from tec_zarr.cli import models, show, train
from tec_zarr.config import TecConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tec_zarr.layout import Sizes

app = typer.Typer(
    help="TerraCodec learned compression of Sentinel-2 cubes in Zarr.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
app.command()(train.train)
# A pipe has no width: let tables be as wide as they are.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
DEFAULT = TecConfig()


class Format(StrEnum):
    """Versions of Zarr."""

    two = "2"
    three = "3"


Source = Annotated[str, typer.Argument(metavar="SRC", help="A Zarr store: path or address.")]
Target = Annotated[str, typer.Argument(metavar="DST", help="The store to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace DST if it is a store.")]
SIZES = "y=512,x=512 (others as usual) or 1,12,512,512"


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"tec-zarr {version('tec-zarr')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def compress(  # noqa: PLR0913 - the options of one command
    source: Source,
    target: Target,
    *,
    model: Annotated[str, typer.Option(help="Name or hash; see `models`.")] = DEFAULT.model,
    quality: Annotated[
        str, typer.Option(help="PSNR in dB, 28 to 56. Of FlexTEC 1 to 16, or for each date: 16,8.")
    ] = f"{DEFAULT.qualities[0]:g}",
    zarr_format: Annotated[Format, typer.Option(help="Format of DST.")] = Format.three,
    chunks: Annotated[str | None, typer.Option(help=f"Of images: {SIZES}.")] = None,
    shards: Annotated[str | None, typer.Option(help="Of images in format 3, like chunks.")] = None,
    nodata: Annotated[
        float | None, typer.Option(help="Stored value without data (may be nan). [_FillValue or 0]")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Digital numbers per stored unit; 10000 for reflectances.")
    ] = None,
    embed_model: Annotated[
        bool, typer.Option("--embed-model", help="Put the model into DST, for other readers.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Compress the images of a store; copy all else as it is."""
    given = {"nodata": nodata, "scale": scale}
    options: Any = {key: value for key, value in given.items() if value is not None}
    with _progress("compressing") as progress:
        archive.compress(
            source,
            target,
            model=model,
            quality=_qualities(quality),
            zarr_format=cast("Any", int(zarr_format.value)),
            chunks=_sizes("chunks", chunks),
            shards=_sizes("shards", shards),
            overwrite=overwrite,
            embed_model=embed_model,
            progress=progress,
            **options,
        )
    out.print(show.size_line(target, archive.info(target)))


@app.command()
def decompress(
    source: Source,
    target: Target,
    codec: Annotated[
        str, typer.Option(help='"blosc", "none", or a codec that Zarr knows by name.')
    ] = "blosc",
    zarr_format: Annotated[Format | None, typer.Option(help="Format of DST. [that of SRC]")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a plain Zarr store of an archive, for readers without this package."""
    kind = cast("Any", int(zarr_format.value) if zarr_format else None)
    with _progress("decompressing") as progress:
        archive.decompress(
            source, target, codec=codec, zarr_format=kind, overwrite=overwrite, progress=progress
        )
    out.print(show.size_line(target, archive.info(target)))


@app.command()
def info(
    place: Annotated[str, typer.Argument(metavar="STORE", help="A store, or a file of one chunk.")],
) -> None:
    """Show what a store or a chunk file holds."""
    with _progress("reading headers") as progress:
        found = archive.info(place, progress)
    for part in show.chunk(found) if isinstance(found, archive.ChunkInfo) else show.store(found):
        out.print(part)


@app.command()
def verify(
    place: Annotated[str, typer.Argument(metavar="STORE", help="An archive.")],
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="What it was made of, to compare with.")
    ] = None,
) -> None:
    """Read every chunk and check all checksums; the exit status is 1 if anything is wrong."""
    with _progress("verifying") as progress:
        report = archive.verify(place, source, progress)
    for part in show.report(report):
        out.print(part)
    if report.problems:
        raise typer.Exit(1)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if somebody is looking."""
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _qualities(text: str) -> float | list[float]:
    """`"44"`, or one number for each date as in `"16,8"`."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not like 44 or 16,8", param_hint="--quality"
        ) from None
    return numbers if len(numbers) > 1 else numbers[0]


def _sizes(name: str, text: str | None) -> Sizes:
    """`"y=512,x=512"` or `"1,12,512,512"` as what `.tec.to_zarr` takes."""
    if text is None:
        return None
    try:
        parts = [part.partition("=") for part in text.split(",")]
        if not any(equals for _, equals, _ in parts):
            return [int(size) for size, _, _ in parts]
        return {dim.strip(): int(size) for dim, _, size in parts}
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like {SIZES}", param_hint=f"--{name}") from None
