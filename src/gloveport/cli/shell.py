"""`gloveport shell`: a person at a terminal in a sandbox."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gloveport.cli.options import SandboxArgument
from gloveport.cli.terminal import STDIN, run_on_terminal, terminal_size
from gloveport.model import WORKSPACE, ExecRequest

__all__ = ["command"]


def command(
    sandbox: SandboxArgument,
    cwd: Annotated[str, typer.Option(metavar="DIR", help="Absolute directory in the sandbox.")] = WORKSPACE,
) -> int:
    """Open an interactive bash on a terminal of its own. The exit status is bash's."""
    request = ExecRequest(
        argv=("/bin/bash", "-i"),
        cwd=cwd,
        env={"TERM": os.environ.get("TERM") or "xterm-256color"},
        terminal=terminal_size(STDIN),
    )
    return run_on_terminal(sandbox, request).status
