"""`gloveport exec`: run one command, or one standard tool, in a sandbox."""

from __future__ import annotations

import json
import os
import stat
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any

from gloveport.cli.output import note, print_json, write_all
from gloveport.cli.terminal import STDIN, run_on_terminal, terminal_size
from gloveport.cli.texts import parse_env
from gloveport.client import connect, encode
from gloveport.client.process import Streams, run_process
from gloveport.errors import InvalidRequest
from gloveport.model import WORKSPACE, ExecRequest, Exit, parse_size
from gloveport.settings import Settings

__all__ = ["STDERR", "STDOUT", "exit_status", "explain_exit", "has_input", "main"]

STDOUT, STDERR = 1, 2
TIMED_OUT = 124
"""As timeout(1) says it."""
_EXAMPLE = 'for example: --tool file_read --params \'{"path": "README.md"}\''


def main(words: Sequence[str]) -> int:
    """Read the arguments, without the time that typer takes to import, and do what they say."""
    cut = words.index("--") if "--" in words else len(words)
    return _run(_parser().parse_args(words[:cut], Namespace(argv=tuple(words[cut + 1 :]))))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="gloveport exec",
        usage="%(prog)s ID [options] -- ARGV…\n       %(prog)s ID --tool T --params JSON",
        description="Run a command (no shell) to its end, streaming; or call a tool.",
        epilog="The exit status is the command's: its code, 128 + a signal, or 124 when its time ran out.",
        allow_abbrev=False,
    )
    parser.add_argument("sandbox", metavar="ID", help="a sandbox: its id, or the first letters of it")
    parser.add_argument("--tool", metavar="T", help="call a tool: file_read, file_write, shell, search or git")
    parser.add_argument("--params", metavar="JSON", default="{}", help="the tool's parameters, an object")
    parser.add_argument("--cwd", metavar="DIR", default=WORKSPACE, help="absolute directory there (%(default)s)")
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", default=[], help="a variable; repeatable")
    parser.add_argument("--timeout", metavar="S", type=float, help="seconds it may take (default: the sandbox's)")
    parser.add_argument("--output", metavar="SIZE", help="bytes kept of each stream (default: the sandbox's)")
    parser.add_argument("--no-input", action="store_true", help="do not pass a file or pipe on standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="on a terminal of its own, as large as this one")
    parser.add_argument("-d", "--detach", action="store_true", help="leave it running; print its number")
    parser.add_argument("--json", action="store_true", help="print JSON, errors included")
    return parser


def _run(options: Namespace) -> int:
    if options.tool is not None:
        return _call_tool(options)
    if not options.argv:
        raise InvalidRequest("no command", hint=f"it follows two dashes: gloveport exec {options.sandbox} -- ls -la")
    request = ExecRequest(
        argv=options.argv,
        cwd=options.cwd,
        env=parse_env(options.env),
        stdin=not options.no_input and has_input(),
        terminal=terminal_size(STDIN) if options.tty else None,
        timeout=options.timeout,
        output_bytes=None if options.output is None else parse_size(options.output),
    )
    if options.detach:
        return _detach(options, request)
    if options.json:
        return _collect(options, request)
    if options.tty:
        return run_on_terminal(options.sandbox, request).status
    write_stdout, write_stderr = partial(write_all, STDOUT), partial(write_all, STDERR)
    streams = Streams(stdin=STDIN if request.stdin else None, stdout=write_stdout, stderr=write_stderr)
    with connect(Settings.load()) as runner:
        ended = run_process(runner, options.sandbox, request, streams)
    explain_exit(ended)
    return exit_status(ended)


def has_input() -> bool:
    """Whether standard input is something to pass on: a terminal needs `--tty`, /dev/null is empty."""
    try:
        mode = os.fstat(STDIN).st_mode
    except OSError:
        return False
    return not stat.S_ISCHR(mode)


def _collect(options: Namespace, request: ExecRequest) -> int:
    stdout, stderr = bytearray(), bytearray()
    streams = Streams(stdin=STDIN if request.stdin else None, stdout=stdout.extend, stderr=stderr.extend)
    with connect(Settings.load()) as runner:
        ended = run_process(runner, options.sandbox, request, streams)
    texts = {"stdout": stdout.decode("utf-8", "replace"), "stderr": stderr.decode("utf-8", "replace")}
    print_json({"exit": encode(ended), **texts})
    return exit_status(ended)


def _detach(options: Namespace, request: ExecRequest) -> int:
    with connect(Settings.load()) as runner:
        process = runner.call("exec", id=options.sandbox, request=encode(request), detach=True)["process"]
    if options.json:
        print_json(process)
    else:
        sys.stdout.write(f"{process['number']}\n")
    return 0


def _call_tool(options: Namespace) -> int:
    params = _parameters(options.params)
    with connect(Settings.load()) as runner:
        result = runner.call("tool", id=options.sandbox, name=options.tool, params=params)
    if options.json:
        print_json(result)
    else:
        sys.stdout.write(_ended_line(result["output"]))
        sys.stderr.write(_ended_line(result["error"] or ""))
    return int(result["exit_code"])


def _parameters(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"--params is not JSON: {error}", hint=_EXAMPLE) from error
    except RecursionError as error:
        raise InvalidRequest("--params is nested too deeply", hint=_EXAMPLE) from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"--params must be a JSON object, not {type(value).__name__}", hint=_EXAMPLE)
    return value


def _ended_line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def explain_exit(ended: Exit) -> None:
    """Say what a status cannot, on stderr."""
    if ended.timed_out:
        note(f"killed: its time ran out after {ended.duration:.1f} s")
    if ended.oom:
        note("killed: the sandbox passed its memory limit")
    if ended.disk_full:
        note("killed: the sandbox passed its disk limit")
    if ended.truncated:
        note(f"dropped {ended.dropped_stdout} bytes of stdout and {ended.dropped_stderr} of stderr: see --output")


def exit_status(ended: Exit) -> int:
    """This process's exit status for a command that ended so."""
    return TIMED_OUT if ended.timed_out else ended.status
