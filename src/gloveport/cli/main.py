"""The table of commands, and the way from the command line to one of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Annotated, cast

import typer

from gloveport import __version__
from gloveport.cli.guard import Command, guarded

__all__ = ["COMMANDS", "main"]

COMMANDS: Mapping[str, str] = {
    "run": "gloveport.cli.run:command",
    "runs": "gloveport.cli.runs:command",
    "show": "gloveport.cli.show:command",
    "apply": "gloveport.cli.apply:command",
    "verify": "gloveport.cli.verify:command",
    "create": "gloveport.cli.create:command",
    "exec": "gloveport.cli.exec:command",
    "shell": "gloveport.cli.shell:command",
    "ps": "gloveport.cli.ps:command",
    "list": "gloveport.cli.list:command",
    "logs": "gloveport.cli.logs:command",
    "diff": "gloveport.cli.diff:command",
    "rm": "gloveport.cli.rm:command",
    "plan": "gloveport.cli.plan:command",
    "doctor": "gloveport.cli.doctor:command",
    "runner": "gloveport.cli.runner:command",
    "version": "gloveport.cli.version:command",
}
"""Name → where its function is. To add a command, add a module and a line."""


def main() -> None:
    """Run the command that the process's arguments name, and exit with its status."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    app = typer.Typer(
        name="gloveport",
        help="Sandboxes where coding agents work without being able to hurt anyone.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for known in [name] if name in COMMANDS else COMMANDS:
        app.command(known)(guarded(_load(COMMANDS[known])))
    app(prog_name="gloveport")


def _load(where: str) -> Command:
    module, _, function = where.partition(":")
    return cast("Command", getattr(importlib.import_module(module), function))


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"gloveport {__version__}")
        raise typer.Exit
