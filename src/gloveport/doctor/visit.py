"""Runs the attacks in a process of their own, which moves to a network of its own, and takes its reports."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from gloveport.doctor.attack import Report
from gloveport.doctor.guards import GUARDS
from gloveport.doctor.report import decode_reports
from gloveport.errors import BackendUnavailable, NotFound
from gloveport.store import remove_tree

__all__ = ["attack_host", "attack_without"]

_PARENT = "/var/tmp"
"""On a disk, as repositories are, and open for the sandboxes' users to pass through."""
_PREFIX = "gloveport-doctor-"


async def attack_host() -> Report:
    """The whole suite against this host's default backend; its progress goes to standard error.

    Raises `BackendUnavailable` where the attacks cannot be run.
    """
    return (await _visit(()))[""]


async def attack_without(guards: Sequence[str]) -> Mapping[str, Report]:
    """A report for each of these guards taken away: every one should name the guard. `NotFound` for an unknown one."""
    for name in guards:
        if name not in GUARDS:
            raise NotFound(f"no guard is called {name!r}", hint=f"one of: {', '.join(GUARDS)}")
    return await _visit(guards)


async def _visit(guards: Sequence[str]) -> dict[str, Report]:
    place = _make_place()
    try:
        # Not from the working directory: whoever wrote what lies there would run on the host.
        command = [sys.executable, "-P", "-m", "gloveport.doctor", str(place), *guards]
        done = await anyio.run_process(
            command, stdin=subprocess.DEVNULL, stderr=None, check=False, env=_variables(), cwd=place
        )
        if done.returncode != 0:
            raise BackendUnavailable(
                "the attacks could not be run: the reason is above",
                hint="see what this host lacks with: gloveport doctor",
            )
        return decode_reports(done.stdout.decode())
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, place)


def _make_place() -> Path:
    _sweep()
    place = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_PARENT))
    place.chmod(0o711)
    return place


def _sweep() -> None:
    """Remove what doctors of this user that were killed left behind."""
    for place in Path(_PARENT).glob(f"{_PREFIX}*"):
        owner = place.name.removeprefix(_PREFIX).partition("-")[0]
        is_left = owner.isdigit() and not Path(f"/proc/{owner}").exists()
        if is_left and place.lstat().st_uid == os.geteuid() and not place.is_symlink():
            remove_tree(place)


def _variables() -> dict[str, str]:
    """Of this process's variables, what a program needs to start: the attacks look for all others."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
