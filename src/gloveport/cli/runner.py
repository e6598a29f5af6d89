"""`gloveport runner`: look at the runner, or stop it."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import local_time, print_json
from gloveport.client import Connection, stop_runner
from gloveport.errors import NotFound
from gloveport.settings import Settings

__all__ = ["Action", "command"]


class Action(StrEnum):
    """What can be done with a runner."""

    STATUS = "status"
    STOP = "stop"


def command(
    action: Annotated[Action, typer.Argument(help="Show it, or end it with all its sandboxes.")],
    as_json: JsonOption = False,
) -> None:
    """Look at, or end, the process that holds the sandboxes.

    It starts with the first command that needs it, and ends when it holds nothing and nobody calls.
    """
    settings = Settings.load()
    if action is Action.STOP:
        stopped = stop_runner(settings.socket)
        if as_json:
            print_json({"stopped": stopped})
        else:
            sys.stdout.write("stopped\n" if stopped else "there was no runner\n")
        return
    connection = Connection.open(settings.socket)
    if connection is None:
        raise NotFound("no runner", hint="it starts with the first command that needs it, such as: gloveport create")
    with connection:
        _show(connection.call("info"), as_json=as_json)


def _show(info: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    sys.stdout.write(
        f"running: pid {info['pid']}, version {info['version']}, since {local_time(info['started_at'])},"
        f" sandboxes: {info['sandboxes']}\n"
    )
