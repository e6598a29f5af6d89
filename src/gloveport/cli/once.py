"""`gloveport once`: run one command under a policy, in a sandbox that ends with it."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial

from gloveport.cli.exec import STDERR, STDOUT, exit_status, explain_exit, has_input
from gloveport.cli.output import write_all
from gloveport.cli.terminal import STDIN, on_terminal, terminal_size
from gloveport.cli.texts import parse_env
from gloveport.client import connect, encode
from gloveport.client.process import Streams, follow
from gloveport.errors import InvalidRequest
from gloveport.model import ExecRequest
from gloveport.settings import Settings

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Read the arguments, without the time that typer takes to import, and do what they say."""
    cut = words.index("--") if "--" in words else len(words)
    return _run(_parser().parse_args(words[:cut], Namespace(argv=tuple(words[cut + 1 :]))))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="gloveport once",
        usage="%(prog)s [options] -- ARGV…",
        description="Run a command (no shell) in a sandbox that is made for it and ends with it. In the directory "
        "itself where the policy makes it writable, and otherwise in a copy that is thrown away.",
        epilog="The exit status is the command's: its code, 128 + a signal, or 124 when its time ran out.",
        allow_abbrev=False,
    )
    parser.add_argument("--policy", metavar="FILE|NAME", action="append", default=[], help="as of create; repeatable")
    parser.add_argument("--cwd", metavar="DIR", default=".", help="directory of this host to work in (this one)")
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", default=[], help="a variable; repeatable")
    parser.add_argument("--timeout", metavar="S", type=float, help="seconds it may take")
    parser.add_argument("--no-input", action="store_true", help="do not pass a file or pipe on standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="on a terminal of its own, as large as this one")
    return parser


def _run(options: Namespace) -> int:
    if not options.argv:
        raise InvalidRequest("no command", hint="it follows two dashes: gloveport once --policy FILE -- ls -la")
    request = ExecRequest(
        argv=options.argv,
        env=parse_env(options.env),
        stdin=not options.no_input and has_input(),
        terminal=terminal_size(STDIN) if options.tty else None,
        timeout=options.timeout,
    )
    # The runner reads the policy: it has what that takes in memory already.
    facts = {"here": os.getcwd(), "directory": options.cwd, "policies": options.policy}
    with connect(Settings.load()) as runner:
        runner.begin("once", request=encode(request), **facts)
        if options.tty:
            with on_terminal() as streams:
                ended = follow(runner, streams)
        else:
            write_stdout, write_stderr = partial(write_all, STDOUT), partial(write_all, STDERR)
            streams = Streams(stdin=STDIN if request.stdin else None, stdout=write_stdout, stderr=write_stderr)
            ended = follow(runner, streams)
    explain_exit(ended)
    return exit_status(ended)
