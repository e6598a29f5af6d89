"""`gloveport runner`: look at the runner, or stop it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from gloveport.cli.output import local_time, print_json
from gloveport.client import Connection, stop_runner
from gloveport.errors import NotFound
from gloveport.settings import Settings

__all__ = ["arguments", "command"]


def arguments(parser: ArgumentParser) -> None:
    """What to do with it."""
    parser.add_argument("action", choices=("status", "stop"), help="show it, or end it with all its sandboxes")


def command(options: Namespace) -> None:
    """Look at, or end, the process that holds the sandboxes.

    It starts with the first command that needs it, and ends when it holds nothing and nobody calls.
    """
    settings = Settings.load()
    if options.action == "stop":
        stopped = stop_runner(settings.socket)
        if options.json:
            print_json({"stopped": stopped})
        else:
            sys.stdout.write("stopped\n" if stopped else "there was no runner\n")
        return
    connection = Connection.open(settings.socket)
    if connection is None:
        raise NotFound("no runner", hint="it starts with the first command that needs it, such as: gloveport create")
    with connection:
        _show(connection.call("info"), as_json=options.json)


def _show(info: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    sys.stdout.write(
        f"running: pid {info['pid']}, version {info['version']}, since {local_time(info['started_at'])},"
        f" sandboxes: {info['sandboxes']}\n"
    )
