"""`gloveport diff`: what changed in a workspace, as a patch."""

from __future__ import annotations

from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import note, print_json, write_document
from gloveport.client import connect
from gloveport.settings import Settings

__all__ = ["command"]


def command(
    sandbox: Annotated[str, typer.Argument(metavar="ID", help="A sandbox.")],
    ignored: Annotated[bool, typer.Option("--ignored", help="Include what .gitignore leaves out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the patch that turns the first state of the workspace into this one; --json lists the paths."""
    patch = bytearray()
    with connect(Settings.load()) as runner:
        result = runner.call("diff", id=sandbox, ignored=ignored, sink=patch.extend)
    if as_json:
        print_json({**result, "patch": patch.decode("utf-8", "replace")})
        return
    write_document(bytes(patch))
    for warning in result["warnings"]:
        note(warning)
