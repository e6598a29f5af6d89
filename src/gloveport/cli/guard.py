"""Turns whatever ends a command into its exit status and, for errors, into words and the next step."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from gloveport.errors import GloveportError, Internal

__all__ = ["Command", "guarded", "report"]

Command = Callable[..., int | None]
"""Returns its exit status; `None` is 0."""

_BROKEN_PIPE = 128 + signal.SIGPIPE


def guarded(command: Command) -> Callable[..., None]:
    """`command`, ending in an exit status whatever happens in it. Its parameter `as_json` chooses how errors look."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            status = command(*arguments, **options)
            sys.stdout.flush()
        except GloveportError as error:
            status = report(error, as_json=bool(options.get("as_json")))
        except BrokenPipeError:
            # Whoever read the output is gone. The interpreter must not try to flush it once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = _BROKEN_PIPE
        except typer.Exit:
            raise
        except Exception as error:  # noqa: BLE001 - the last frame of the program
            status = report(_unexpected(error), as_json=bool(options.get("as_json")))
        raise typer.Exit(status or 0)

    return run


def report(error: GloveportError, *, as_json: bool) -> int:
    """Say what happened and what to do next; the exit status."""
    if as_json:
        sys.stdout.write(json.dumps({"error": error.body()}, default=str) + "\n")
    else:
        sys.stderr.write(f"error: {error.message}\n  next: {error.hint}\n")
    return error.status.exit


def _unexpected(error: Exception) -> Internal:
    if os.environ.get("GLOVEPORT_DEBUG"):
        traceback.print_exception(error)
    return Internal(
        f"unexpected {type(error).__name__}: {error}",
        hint="please report this, with what GLOVEPORT_DEBUG=1 prints when you repeat the command",
    )
