"""`gloveport list`: the sandboxes of this installation."""

from __future__ import annotations

import sys

from gloveport.cli.options import JsonOption
from gloveport.cli.output import local_time, print_json, print_table
from gloveport.client import connect, decode
from gloveport.model import SandboxStatus
from gloveport.settings import Settings

__all__ = ["command"]


def command(as_json: JsonOption = False) -> None:
    """List every sandbox, whatever its state."""
    with connect(Settings.load()) as runner:
        found = runner.call("list")["sandboxes"]
    if as_json:
        print_json(found)
        return
    statuses = [decode(SandboxStatus, status) for status in found]
    print_table(("ID", "STATE", "IMAGE", "CREATED", "SOURCE"), [_row(status) for status in statuses])
    sys.stdout.write(f"{len(statuses)} sandbox{'' if len(statuses) == 1 else 'es'}\n")


def _row(status: SandboxStatus) -> tuple[str, ...]:
    state = f"{status.state} ({status.reason})" if status.reason else str(status.state)
    return (status.ref.id, state, status.image, local_time(status.created_at), status.source or "(empty)")
