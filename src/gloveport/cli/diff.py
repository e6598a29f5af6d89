"""`gloveport diff`: what changed in a workspace, as a patch."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from gloveport.cli.options import add_sandbox
from gloveport.cli.output import note, print_json, write_document
from gloveport.client import connect
from gloveport.settings import Settings

__all__ = ["arguments", "command"]


def arguments(parser: ArgumentParser) -> None:
    """A sandbox."""
    add_sandbox(parser)
    parser.add_argument("--ignored", action="store_true", help="include what .gitignore leaves out")


def command(options: Namespace) -> None:
    """Print the patch that turns the first state of the workspace into this one."""
    patch = bytearray()
    with connect(Settings.load()) as runner:
        result = runner.call("diff", id=options.sandbox, ignored=options.ignored, sink=patch.extend)
    if options.json:
        print_json({**result, "patch": patch.decode("utf-8", "surrogateescape")})
        return
    write_document(bytes(patch))
    for warning in result["warnings"]:
        note(warning)
