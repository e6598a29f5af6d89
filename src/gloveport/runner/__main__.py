"""`python -m gloveport.runner`: the runner as a process, in the foreground unless a client starts it."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence

import anyio

from gloveport.client.start import READY
from gloveport.errors import GloveportError
from gloveport.runner.server import Runner
from gloveport.settings import Settings

__all__ = ["main"]

STDOUT, STDERR = 1, 2
_NEVER_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""A caller that is a background job ignores some of these; every process of a guest would inherit that."""
_MOST_FILES = 2**18
"""Descriptors for some 37,000 sandboxes. Not more: old kernels make programs try each possible one to close them."""


def main(words: Sequence[str]) -> int:
    """Run until stopped; the exit status.

    With `--announce` stdout gets `READY` once it listens, or a line of JSON that says why it cannot; then it is closed.
    """
    announce = "--announce" in words
    for number in _NEVER_IGNORED:
        signal.signal(number, signal.SIG_DFL)
    _raise_open_files()
    try:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        anyio.run(Runner(Settings.load()).run, _announce if announce else None)
    except GloveportError as error:
        if announce:
            os.write(STDOUT, json.dumps(error.body()).encode() + b"\n")
        sys.stderr.write(f"error: {error.message}\n  next: {error.hint}\n")
        return error.status.exit
    return 0


def _raise_open_files() -> None:
    """As many descriptors as the host lets this process have; a guest's processes get what their sandbox says."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _announce() -> None:
    os.write(STDOUT, READY)
    os.dup2(STDERR, STDOUT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
