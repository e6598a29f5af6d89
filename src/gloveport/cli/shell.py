"""`gloveport shell`: a person at a terminal in a sandbox."""

from __future__ import annotations

import os
from functools import partial
from types import MappingProxyType
from typing import Annotated

import typer

from gloveport.cli.options import SandboxArgument
from gloveport.cli.output import write_all
from gloveport.cli.terminal import raw_terminal, terminal_size
from gloveport.client import connect
from gloveport.client.process import Streams, run_process
from gloveport.model import WORKSPACE, ExecRequest
from gloveport.settings import Settings

__all__ = ["command"]

STDIN, STDOUT = 0, 1


def command(
    sandbox: SandboxArgument,
    cwd: Annotated[str, typer.Option(metavar="DIR", help="Absolute directory in the sandbox.")] = WORKSPACE,
) -> int:
    """Open an interactive bash on a terminal of its own. The exit status is bash's."""
    size = partial(terminal_size, STDIN)
    request = ExecRequest(
        argv=("/bin/bash", "-i"),
        cwd=cwd,
        env=MappingProxyType({"TERM": os.environ.get("TERM") or "xterm-256color"}),
        terminal=size(),
    )
    write = partial(write_all, STDOUT)
    with connect(Settings.load()) as runner, raw_terminal(STDIN):
        ended = run_process(runner, sandbox, request, Streams(stdin=STDIN, stdout=write, stderr=write, size=size))
    return ended.status
