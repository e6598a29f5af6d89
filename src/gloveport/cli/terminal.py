"""The terminal of the person who types: its size, and its raw mode, which is always undone."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from gloveport.cli.output import write_all
from gloveport.client import connect
from gloveport.client.process import Streams, run_process
from gloveport.errors import InvalidRequest
from gloveport.model import ExecRequest, Exit, TerminalSize
from gloveport.settings import Settings

__all__ = ["STDIN", "on_terminal", "run_on_terminal", "terminal_size"]

STDIN, STDOUT = 0, 1


def terminal_size(descriptor: int) -> TerminalSize:
    """Rows and columns. Raises `InvalidRequest` when it is not a terminal."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError as error:
        raise InvalidRequest(
            "standard input is not a terminal", hint="run it from a terminal, or use: gloveport exec ID -- …"
        ) from error
    return TerminalSize(rows=rows or 24, columns=columns or 80)


def run_on_terminal(sandbox: str, request: ExecRequest) -> Exit:
    """Run `request`, which has a terminal, on the one of this process; it follows its size."""
    with connect(Settings.load()) as runner, on_terminal() as streams:
        return run_process(runner, sandbox, request, streams)


@contextmanager
def on_terminal() -> Iterator[Streams]:
    """The terminal of this process as a process's streams; raw while the scope lasts."""
    write = partial(write_all, STDOUT)
    with _raw(STDIN):
        yield Streams(stdin=STDIN, stdout=write, stderr=write, size=partial(terminal_size, STDIN))


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Every key goes through as a byte, until the scope is left: also when SIGTERM or SIGHUP ends it."""
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    tty.setraw(descriptor, termios.TCSADRAIN)  # keeps what was typed ahead
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)
