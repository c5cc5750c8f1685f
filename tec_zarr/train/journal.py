"""What a run writes beside its checkpoint: its options, and a log that can be plotted."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tec_zarr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Record = dict[str, Any]
    Report = Callable[[Record], None]
    """Gets the records of a log."""

MAY_CHANGE = ("steps", "save_every")
"""Options that another part of a run may have another value of."""


def check_same_run(path: Path, options: Mapping[str, Any], begun: bool) -> None:
    """Note the options of a run; ConfigError if one that has begun was told others."""
    fixed = {key: value for key, value in options.items() if key not in MAY_CHANGE}
    if begun and path.exists():
        began = json.loads(path.read_text("utf-8"))
        if other := sorted(key for key in fixed if began.get(key) != fixed[key]):
            raise ConfigError(
                f"{path.parent} holds a run that began with other {', '.join(other)}: choose"
                " another folder, or the same options to go on with it"
            )
        return
    path.write_text(json.dumps(fixed, indent=1), "utf-8")


@contextmanager
def continued(path: Path, step: int) -> Iterator[Report]:
    """Append records to a log, of which those after `step` are dropped first."""
    kept = [record for record in read(path) if record["step"] <= step] if path.exists() else []
    path.write_text("".join(json.dumps(record) + "\n" for record in kept), "utf-8")
    with path.open("a", encoding="utf-8") as lines:

        def write(record: Record) -> None:
            lines.write(json.dumps(record) + "\n")
            lines.flush()

        yield write


def read(path: Path) -> list[Record]:
    """The records of a log; a last line that was cut off is left out.

    Raises ConfigError if there is no such log.
    """
    if not path.is_file():
        raise ConfigError(f"there is no log {path}")
    records = []
    for line in path.read_text("utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
