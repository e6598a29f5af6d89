"""`gloveport ps`: the detached processes of a sandbox."""

from __future__ import annotations

import shlex

from gloveport.cli.options import JsonOption, SandboxArgument
from gloveport.cli.output import local_time, print_json, print_table, visible
from gloveport.client import connect
from gloveport.settings import Settings

__all__ = ["command"]


def command(sandbox: SandboxArgument, as_json: JsonOption = False) -> None:
    """List what `exec --detach` started. See the output of one with `gloveport logs ID --process NUMBER`."""
    with connect(Settings.load()) as runner:
        found = runner.call("processes", id=sandbox)["processes"]
    if as_json:
        print_json(found)
        return
    print_table(
        ("NUMBER", "PID", "STATE", "STARTED", "COMMAND"),
        [
            (
                str(process["number"]),
                str(process["pid"]),
                "running" if process["running"] else f"exit {process['status']}",
                local_time(process["started_at"]),
                visible(shlex.join(process["argv"]).encode("utf-8", "replace")).decode(),
            )
            for process in found
        ],
    )
