"""Lets the runner outlive whoever started it: its own session, no inherited descriptors, a log file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from gloveport.errors import GloveportError, Internal

__all__ = ["detach"]

_LARGEST_LOG = 2**20
_FIRST_DESCRIPTOR = 3
_MOST_DESCRIPTORS = 65_536


def detach(log: Path, run: Callable[[Callable[[], None]], None]) -> int:
    """Run `run(ready)` in a process of its own; return this one's exit status once it is ready or has failed.

    The error of a run that failed before it was ready is printed as JSON on stdout.
    Preconditions: one thread, and nothing open that the other process needs.
    """
    receiver, sender = os.pipe()
    if os.fork() == 0:
        os._exit(_run_detached(log, run, sender))
    os.close(sender)
    with open(receiver, "rb") as pipe:
        problem = pipe.read()
    if not problem:
        return 0
    sys.stdout.write(problem.decode())
    return 1


def _run_detached(log: Path, run: Callable[[Callable[[], None]], None], sender: int) -> int:
    os.setsid()
    os.chdir("/")
    sender = _rearrange(log, sender)
    waiting = True

    def ready() -> None:
        nonlocal waiting
        waiting = False
        os.close(sender)

    try:
        run(ready)
    except BaseException as error:  # noqa: BLE001 - the last frame of this process: whatever it is, it is told
        problem = error if isinstance(error, GloveportError) else Internal(repr(error), hint=f"see {log}")
        sys.stderr.write(f"{problem}\n")
        if waiting:
            os.write(sender, json.dumps(problem.body()).encode())
        return problem.status.exit
    return 0


def _rearrange(log: Path, sender: int) -> int:
    """Standard streams to nowhere and to the log; every other descriptor but `sender` is closed. The new `sender`."""
    if log.exists() and log.stat().st_size > _LARGEST_LOG:
        log.replace(log.with_name(log.name + ".1"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    for source, target in ((nothing, 0), (written, 1), (written, 2), (sender, _FIRST_DESCRIPTOR)):
        os.dup2(source, target, inheritable=target < _FIRST_DESCRIPTOR)
    os.closerange(_FIRST_DESCRIPTOR + 1, _MOST_DESCRIPTORS)
    return _FIRST_DESCRIPTOR
