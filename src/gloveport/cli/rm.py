"""`gloveport rm`: delete sandboxes."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from gloveport.cli.output import print_error, print_json
from gloveport.client import connect
from gloveport.errors import GloveportError
from gloveport.settings import Settings

__all__ = ["arguments", "command"]


def arguments(parser: ArgumentParser) -> None:
    """Sandboxes."""
    parser.add_argument("sandboxes", metavar="ID", nargs="+", help="sandboxes: ids, or the first letters of them")


def command(options: Namespace) -> int:
    """Kill everything in the sandboxes and free everything; print their ids. Logs are kept.

    One that cannot be deleted does not keep the others; the exit status is the first failure's.
    """
    settings = Settings.load()
    status = 0
    for name in options.sandboxes:
        try:
            with connect(settings) as runner:
                deleted = runner.call("delete", id=name)
        except GloveportError as error:
            failed = print_error(error, as_json=options.json)
            status = status or failed
            continue
        if options.json:
            print_json(deleted)
        else:
            sys.stdout.write(f"{deleted['id']}\n")
    return status
