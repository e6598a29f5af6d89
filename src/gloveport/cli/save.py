"""`gloveport save`: a snapshot as one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import print_json
from gloveport.errors import InvalidRequest
from gloveport.sandbox.snapshot_files import save_snapshot, write_snapshot
from gloveport.settings import Settings
from gloveport.store import Snapshots

__all__ = ["command"]


def command(
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Its id, the first digits of it, or its label.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write; - for standard output.")],
    as_json: JsonOption = False,
) -> None:
    """Write a snapshot, and the whole source it lies on, as one file that `gloveport load` takes anywhere.

    It is an OCI image layout in a tar. What policies hide from guests is in it, too: it is for you alone.
    """
    store = Snapshots(Settings.load().data / "snapshots")
    if str(file) == "-":
        if sys.stdout.isatty():
            raise InvalidRequest("a terminal cannot show a snapshot", hint="name a file, or pipe it on")
        write_snapshot(store, snapshot, sys.stdout.buffer)
        return
    saved = save_snapshot(store, snapshot, file)
    if as_json:
        print_json({"id": saved.id, "file": str(file), "bytes": file.stat().st_size})
