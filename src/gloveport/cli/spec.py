"""The options that make a spec, once for every command that makes a sandbox."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

from gloveport.cli.options import add_env, parse_env, parse_size
from gloveport.errors import InvalidRequest
from gloveport.model import GIB, Limits, Source, Spec

__all__ = ["add_spec", "make_spec"]

_LIMITS = Limits()
_SPEC = Spec()
_URL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_SCP_LIKE = re.compile(r"[^/:]+:")


def add_spec(parser: ArgumentParser) -> None:
    """The options that `make_spec` reads."""
    parser.add_argument("--repo", metavar="PATH|URL", help="what to work on: a directory, or a Git URL")
    parser.add_argument("--commit", metavar="SHA", help="a commit, tag or branch of it (default: a directory as it is)")
    parser.add_argument("--empty", action="store_true", help="start with an empty workspace instead")
    parser.add_argument(
        "--image", metavar="DIR", help="an unpacked root file system (default: this host's directories)"
    )
    parser.add_argument("--language", metavar="NAME", help="show this toolchain of the host: python, node, …")
    parser.add_argument(
        "--read-only", metavar="PATH", action="append", default=[], help="show this host path too; repeatable"
    )
    add_env(parser, "a variable of every process")
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=float,
        default=_LIMITS.exec_seconds,
        help="seconds that one exec may take (%(default)g)",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        type=parse_size,
        default=_LIMITS.memory_bytes,
        help=f"of all processes together ({_LIMITS.memory_bytes // GIB}g)",
    )
    parser.add_argument("--cpu", metavar="N", type=float, help="CPUs, such as 1.0 (default: as many as there are)")
    parser.add_argument(
        "--disk",
        metavar="SIZE",
        type=parse_size,
        default=_LIMITS.disk_bytes,
        help=f"what the workspace may grow by ({_LIMITS.disk_bytes // GIB}g)",
    )
    parser.add_argument(
        "--processes",
        metavar="N",
        type=int,
        default=_LIMITS.processes,
        help="processes and threads at once (%(default)d)",
    )
    parser.add_argument("--backend", metavar="NAME", default=_SPEC.backend, help="what makes the sandbox (%(default)s)")


def make_spec(options: Namespace) -> Spec:
    """The spec. Its paths are absolute, because the runner works elsewhere. Raises `InvalidRequest`."""
    if (options.repo is None) is not options.empty:
        raise InvalidRequest("say what to work on", hint="one of: --repo PATH, --repo URL, --empty")
    if options.commit is not None and options.repo is None:
        raise InvalidRequest("a commit of nothing", hint="name its repository with --repo")
    return Spec(
        backend=options.backend,
        source=None if options.repo is None else Source(repo=_located(options.repo), commit=options.commit),
        image=None if options.image is None else str(Path(options.image).absolute()),
        language=options.language,
        read_only=tuple(str(Path(path).absolute()) for path in options.read_only),
        env=parse_env(options.env),
        limits=replace(
            _LIMITS,
            exec_seconds=options.timeout,
            memory_bytes=options.memory,
            cpus=options.cpu,
            disk_bytes=options.disk,
            processes=options.processes,
        ),
    )


def _located(repo: str) -> str:
    """A local path as an absolute one; a URL, or `host:path` where no such file is, as it is."""
    if not repo:
        raise InvalidRequest("an empty repository", hint="give a directory or a Git URL")
    is_remote = _URL.match(repo) or _SCP_LIKE.match(repo)
    return repo if is_remote and not Path(repo).exists() else str(Path(repo).absolute())
