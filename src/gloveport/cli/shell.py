"""`gloveport shell`: a person at a terminal in a sandbox."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace

from gloveport.cli.options import add_sandbox
from gloveport.cli.terminal import run_on_terminal, terminal_size
from gloveport.model import WORKSPACE, ExecRequest

__all__ = ["arguments", "command"]

STDIN = 0


def arguments(parser: ArgumentParser) -> None:
    """A sandbox."""
    add_sandbox(parser)
    parser.add_argument("--cwd", metavar="DIR", default=WORKSPACE, help="absolute directory there (%(default)s)")


def command(options: Namespace) -> int:
    """Open an interactive bash on a terminal of its own. The exit status is bash's."""
    request = ExecRequest(
        argv=("/bin/bash", "-i"),
        cwd=options.cwd,
        env={"TERM": os.environ.get("TERM") or "xterm-256color"},
        terminal=terminal_size(STDIN),
    )
    return run_on_terminal(options.sandbox, request).status
