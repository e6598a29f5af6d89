"""The typer application: made anew for each invocation, of the one command that is invoked."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer

from gloveport import __version__
from gloveport.cli.main import COMMANDS

__all__ = ["run"]

Command = Callable[..., int | None]
"""Returns its exit status; `None` is 0."""


def run(words: Sequence[str]) -> int:
    """Invoke the command that `words` start with; the exit status. Without one, or for `--help`, list them all."""
    application = typer.Typer(
        name="gloveport",
        help="Sandboxes where coding agents work without being able to hurt anyone.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(_root)
    if words and words[0] in COMMANDS:
        application.command(words[0])(_returning(_load(COMMANDS[words[0]].where)))
    else:
        for name, row in COMMANDS.items():
            application.command(name, help=row.purpose)(_listed)
    try:
        application(list(words), prog_name="gloveport")
    except _Ended as ended:
        return ended.status
    return 0


class _Ended(BaseException):
    """Carries a command's status, and nothing else, past typer, which has its own idea of every exception."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _returning(command: Command) -> Callable[..., None]:
    @functools.wraps(command)
    def invoke(*arguments: Any, **options: Any) -> None:
        raise _Ended(command(*arguments, **options) or 0)

    return invoke


def _listed() -> None:
    """A command that is listed and not invoked needs no module."""


def _load(where: str) -> Command:
    module, _, function = where.partition(":")
    return cast("Command", getattr(importlib.import_module(module), function))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gloveport {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options without a command act by themselves."""
