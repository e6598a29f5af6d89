"""`gloveport rm`: delete sandboxes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import print_error, print_json
from gloveport.client import connect
from gloveport.errors import GloveportError
from gloveport.settings import Settings

__all__ = ["command"]


def command(
    sandboxes: Annotated[list[str], typer.Argument(metavar="ID…", help="Their ids, or the first letters of them.")],
    as_json: JsonOption = False,
) -> int:
    """Kill everything in the sandboxes and free everything; print their ids. Logs are kept.

    One that cannot be deleted does not keep the others; the exit status is the first failure's.
    """
    settings = Settings.load()
    status = 0
    for name in sandboxes:
        try:
            with connect(settings) as runner:
                deleted = runner.call("delete", id=name)
        except GloveportError as error:
            failed = print_error(error, as_json=as_json)
            status = status or failed
            continue
        if as_json:
            print_json(deleted)
        else:
            sys.stdout.write(f"{deleted['id']}\n")
    return status
