"""`gloveport snapshots`: what sandboxes were saved as."""

from __future__ import annotations

import sys

from gloveport.cli.options import JsonOption
from gloveport.cli.output import local_time, print_json, print_table
from gloveport.client import connect
from gloveport.model import BASE_LAYER
from gloveport.settings import Settings
from gloveport.tools.text import size_of

__all__ = ["command"]

_SHORT = 19
"""Of an id: enough to name it."""


def command(as_json: JsonOption = False) -> None:
    """List every snapshot, the oldest first."""
    with connect(Settings.load()) as runner:
        found = runner.call("snapshots")["snapshots"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"][:_SHORT],
            each["label"] or "-",
            local_time(each["created_at"]),
            each["sandbox"],
            str(each["entries"]),
            size_of(each["size"]),
            each["base"]["path"] or ("(its own)" if BASE_LAYER in each["layers"] else "(empty)"),
        )
        for each in found
    ]
    print_table(("ID", "LABEL", "CREATED", "SANDBOX", "FILES", "SIZE", "SOURCE"), rows)
    sys.stdout.write(f"{len(rows)} snapshot{'' if len(rows) == 1 else 's'}\n")
