"""`gloveport verify`: whether a run's records are as they were written."""

from __future__ import annotations

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import print_json
from gloveport.cli.show import RunArgument
from gloveport.jobs import find_run
from gloveport.model import EventKind
from gloveport.settings import Settings
from gloveport.store import verify_trail

__all__ = ["command"]


def command(run: RunArgument, as_json: JsonOption = False) -> None:
    """Check the hash chains of a run's trajectory and audit trail; a broken one is named with its first bad record."""
    directory = find_run(Settings.load().data, run)
    counts = {
        path.name: verify_trail(path, last=EventKind.RUN_ENDED) for path in (directory.trajectory, directory.audit)
    }
    if as_json:
        print_json({"run": directory.id, "records": counts})
        return
    for name, count in counts.items():
        typer.echo(f"{name}: {count} records, unbroken")
