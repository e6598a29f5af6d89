"""`python -m gloveport.runner`: the runner as a process, in the foreground unless a client starts it."""

from __future__ import annotations

import json
import logging
import os
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


def main(words: Sequence[str]) -> int:
    """Run until stopped; the exit status.

    With `--announce` stdout gets `READY` once it listens, or a line of JSON that says why it cannot; then it is closed.
    """
    announce = "--announce" in words
    for number in _NEVER_IGNORED:
        signal.signal(number, signal.SIG_DFL)
    try:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        anyio.run(Runner(Settings.load()).run, _announce if announce else None)
    except GloveportError as error:
        if announce:
            os.write(STDOUT, json.dumps(error.body()).encode() + b"\n")
        sys.stderr.write(f"error: {error.message}\n  next: {error.hint}\n")
        return error.status.exit
    return 0


def _announce() -> None:
    os.write(STDOUT, READY)
    os.dup2(STDERR, STDOUT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
