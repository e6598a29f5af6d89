"""`gloveport create`: make a sandbox that outlives the command."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from gloveport.cli.output import note, print_json
from gloveport.cli.spec import add_spec, make_spec
from gloveport.client import connect, encode
from gloveport.settings import Settings

__all__ = ["arguments", "command"]


def arguments(parser: ArgumentParser) -> None:
    """A spec."""
    add_spec(parser)


def command(options: Namespace) -> None:
    """Make a sandbox and print its id.

    It lives until `gloveport rm`, the end of its time, or `gloveport runner stop`.
    """
    spec = make_spec(options)
    with connect(Settings.load()) as runner:
        status = runner.call("create", spec=encode(spec))["status"]
    if options.json:
        print_json(status)
        return
    name = status["ref"]["id"]
    sys.stdout.write(f"{name}\n")
    if sys.stderr.isatty():
        note(f"ready. Try: gloveport exec {name} -- ls -la   or: gloveport shell {name}")
