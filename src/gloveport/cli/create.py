"""`gloveport create`: make a sandbox that outlives the command."""

from __future__ import annotations

import sys

from gloveport.cli.options import JsonOption
from gloveport.cli.output import note, print_json
from gloveport.cli.spec import takes_spec
from gloveport.client import connect, encode
from gloveport.model import Spec
from gloveport.settings import Settings

__all__ = ["command"]


@takes_spec
def command(spec: Spec, as_json: JsonOption = False) -> None:
    """Make a sandbox and print its id.

    It lives until `gloveport rm`, the end of its time, or `gloveport runner stop`.
    """
    with connect(Settings.load()) as runner:
        status = runner.call("create", spec=encode(spec))["status"]
    if as_json:
        print_json(status)
        return
    name = status["ref"]["id"]
    sys.stdout.write(f"{name}\n")
    if sys.stderr.isatty():
        note(f"ready. Try: gloveport exec {name} -- ls -la   or: gloveport shell {name}")
