"""The table of commands, and the way from the command line to one of them and to an exit status."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from gloveport import __version__
from gloveport.cli.output import print_error
from gloveport.errors import GloveportError, Internal, InvalidRequest

__all__ = ["COMMANDS", "Command", "main"]

COMMANDS: Mapping[str, str] = {
    "run": "let an agent work on a repository, in a sandbox",
    "runs": "list the runs",
    "show": "show a run",
    "apply": "apply a run's patch to your files",
    "verify": "check that an audit trail was not altered",
    "create": "make a sandbox",
    "exec": "run a command or a tool in a sandbox",
    "shell": "open a shell in a sandbox",
    "ps": "list what runs detached in a sandbox",
    "list": "list the sandboxes",
    "logs": "print what was done in a sandbox",
    "diff": "print what changed in a workspace",
    "rm": "delete sandboxes",
    "plan": "print what create would do",
    "doctor": "examine this host",
    "runner": "show or stop the runner",
    "version": "print the version",
}
"""Name → what it is for. The module of this package that has a command's name holds the command."""

_BROKEN_PIPE = 128 + signal.SIGPIPE
_INTERRUPTED = 128 + signal.SIGINT


class Command(Protocol):
    """What the module of a command offers."""

    def arguments(self, parser: ArgumentParser) -> None:
        """Declare options. Every command also gets `--json`, and `rest`: what follows `--`."""
        ...

    def command(self, options: Namespace) -> int | None:
        """Do it; the exit status, `None` for 0. Its docstring is the help text."""
        ...


def main() -> None:
    """Run the command that the process's arguments name, and exit with its status."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        sys.exit(_run(words[0], words[1:]))
    parser = _root_parser()
    if not words:
        parser.print_help()
        sys.exit(0)
    parser.parse_args(words)


def _run(name: str, words: Sequence[str]) -> int:
    found = cast("Command", importlib.import_module(f"{__package__}.{name}"))
    options = _parse(name, found, words)
    try:
        status = found.command(options)
        sys.stdout.flush()
    except GloveportError as error:
        return print_error(error, as_json=options.json)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output is gone. The interpreter must not try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the last frame of the program
        return print_error(_unexpected(error), as_json=options.json)
    return status or 0


def _parse(name: str, found: Command, words: Sequence[str]) -> Namespace:
    cut = words.index("--") if "--" in words else len(words)
    parser = ArgumentParser(
        prog=f"gloveport {name}",
        description=found.command.__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(rest=words[cut + 1 :])
    found.arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, errors included")
    try:
        return parser.parse_args(words[:cut])
    except InvalidRequest as error:  # an option's text means nothing
        sys.exit(print_error(error, as_json="--json" in words[:cut]))


def _root_parser() -> ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items())
    parser = ArgumentParser(
        prog="gloveport",
        usage="gloveport COMMAND [options]",
        description=f"Sandboxes where coding agents work without being able to hurt anyone.\n\ncommands:\n{listing}",
        epilog="Each has its own --help.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gloveport {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of the above")
    return parser


def _unexpected(error: Exception) -> Internal:
    if os.environ.get("GLOVEPORT_DEBUG"):
        traceback.print_exception(error)
    return Internal(
        f"unexpected {type(error).__name__}: {error}",
        hint="please report this, with what GLOVEPORT_DEBUG=1 prints when you repeat the command",
    )
