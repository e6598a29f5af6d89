"""`gloveport exec`: run one command, or one standard tool, in a sandbox."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from functools import partial
from typing import Annotated, Any

import typer

from gloveport.cli.options import JsonOption, SandboxArgument, parse_env, parse_size
from gloveport.cli.output import note, print_json, write_all
from gloveport.cli.terminal import raw_terminal, terminal_size
from gloveport.client import connect, encode
from gloveport.client.process import Streams, run_process
from gloveport.errors import InvalidRequest
from gloveport.model import WORKSPACE, ExecRequest, Exit
from gloveport.settings import Settings

__all__ = ["command"]

STDIN, STDOUT, STDERR = 0, 1, 2
TIMED_OUT = 124
"""As timeout(1) says it."""


def command(
    sandbox: SandboxArgument,
    argv: Annotated[
        list[str] | None, typer.Argument(metavar="-- ARGV…", help="Program and arguments, no shell.")
    ] = None,
    *,
    tool: Annotated[
        str | None, typer.Option(metavar="T", help="Call a tool: file_read, file_write, shell, search, git.")
    ] = None,
    params: Annotated[str, typer.Option(metavar="JSON", help="The tool's parameters, an object.")] = "{}",
    cwd: Annotated[str, typer.Option(metavar="DIR", help="Absolute directory in the sandbox.")] = WORKSPACE,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable. Repeatable.")] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds it may take. [default: the sandbox's]")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes kept of each stream. [default: the sandbox's]")
    ] = None,
    stdin: Annotated[
        bool | None, typer.Option(help="Pass standard input on. [default: when it is a file or a pipe]")
    ] = None,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="On a terminal of its own, as large as this one.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running; print its number.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Run a command to its end, streaming; or call a tool.

    The exit status is the command's: its code, 128 + a signal, or 124 when its time ran out.
    """
    if tool is not None:
        return _call_tool(sandbox, tool, params, as_json=as_json)
    if not argv:
        raise InvalidRequest("no command", hint=f"for example: gloveport exec {sandbox} -- ls -la")
    request = ExecRequest(
        argv=tuple(argv),
        cwd=cwd,
        env=parse_env(env or ()),
        stdin=_has_input() if stdin is None else stdin,
        terminal=terminal_size(STDIN) if tty else None,
        timeout=timeout,
        output_bytes=None if output is None else parse_size(output),
    )
    if detach:
        return _detach(sandbox, request, as_json=as_json)
    if as_json:
        return _collect(sandbox, request)
    streams = Streams(
        stdin=STDIN if request.stdin or tty else None,
        stdout=partial(write_all, STDOUT),
        stderr=partial(write_all, STDERR),
        size=partial(terminal_size, STDIN) if tty else None,
    )
    with connect(Settings.load()) as runner, raw_terminal(STDIN) if tty else contextlib.nullcontext():
        ended = run_process(runner, sandbox, request, streams)
    return _status(ended)


def _has_input() -> bool:
    """Whether standard input is something to pass on: a terminal needs `--tty`, and no device has content."""
    try:
        mode = os.fstat(STDIN).st_mode
    except OSError:
        return False
    return not stat.S_ISCHR(mode)


def _collect(sandbox: str, request: ExecRequest) -> int:
    stdout, stderr = bytearray(), bytearray()
    streams = Streams(stdin=STDIN if request.stdin else None, stdout=stdout.extend, stderr=stderr.extend)
    with connect(Settings.load()) as runner:
        ended = run_process(runner, sandbox, request, streams)
    texts = {"stdout": stdout.decode("utf-8", "replace"), "stderr": stderr.decode("utf-8", "replace")}
    print_json({"exit": encode(ended), **texts})
    return TIMED_OUT if ended.timed_out else ended.status


def _detach(sandbox: str, request: ExecRequest, *, as_json: bool) -> int:
    with connect(Settings.load()) as runner:
        process = runner.call("exec", id=sandbox, request=encode(request), detach=True)["process"]
    if as_json:
        print_json(process)
    else:
        sys.stdout.write(f"{process['number']}\n")
    return 0


def _call_tool(sandbox: str, tool: str, params: str, *, as_json: bool) -> int:
    with connect(Settings.load()) as runner:
        result = runner.call("tool", id=sandbox, name=tool, params=_parameters(params))
    if as_json:
        print_json(result)
    else:
        sys.stdout.write(_ended_line(result["output"]))
        sys.stderr.write(_ended_line(result["error"] or ""))
    return int(result["exit_code"])


def _parameters(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"--params is not JSON: {error}", hint='for example: \'{"path": "README.md"}\'') from error
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"--params must be a JSON object, not {type(value).__name__}", hint='for example: \'{"path": "README.md"}\''
        )
    return value


def _ended_line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _status(ended: Exit) -> int:
    """The exit status, with what a status cannot say on stderr."""
    if ended.oom:
        note("killed: the sandbox passed its memory limit")
    if ended.disk_full:
        note("killed: the sandbox passed its disk limit")
    if ended.truncated:
        note(f"dropped {ended.dropped_stdout} bytes of stdout and {ended.dropped_stderr} of stderr: see --output")
    if ended.timed_out:
        note(f"killed: its time ran out after {ended.duration:.1f} s")
        return TIMED_OUT
    return ended.status
