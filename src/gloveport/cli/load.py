"""`gloveport load`: a snapshot from a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import print_json
from gloveport.client import encode
from gloveport.sandbox.snapshot_files import load_snapshot, read_snapshot
from gloveport.settings import Settings
from gloveport.store import Snapshots, make_private

__all__ = ["command"]


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `gloveport save`; - for standard input.")],
    as_json: JsonOption = False,
) -> None:
    """Take in a snapshot that `gloveport save` wrote, here or elsewhere, and print its id.

    Nothing of a file is believed: every digest is checked, and what is no whole snapshot is refused.
    """
    store = Snapshots(make_private(Settings.load().data) / "snapshots")
    made = read_snapshot(store, sys.stdin.buffer) if str(file) == "-" else load_snapshot(store, file)
    if as_json:
        print_json({"id": made.id, "entries": made.entries, "size": made.size, **encode(made)})
    else:
        sys.stdout.write(f"{made.id}\n")
