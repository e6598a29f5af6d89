"""Stops every process of a guest, and lets them go on: for a pause, and for as long as a snapshot is taken."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio

from gloveport.backends.bubblewrap.live import LiveSandbox
from gloveport.errors import BackendUnavailable, Conflict
from gloveport.guest.wire import encode_signal
from gloveport.model import SandboxState

__all__ = ["freeze", "frozen", "thaw"]

_STOP_SECONDS = 10.0
"""A process stops when its system call ends; the longest that a disk takes for one."""
_AGAIN_SECONDS = 0.1
"""One that has called `vfork` waits, as for a disk, for a child that was stopped before its `exec`: so it goes on, and
is stopped elsewhere."""
_LOOK_SECONDS = 0.001
_STOPPED = frozenset(b"TtZX")
_FIRST = "1"


async def freeze(sandbox: LiveSandbox) -> None:
    """Stop everything but guestd, at one moment: a process of the guest cannot fork its way out.

    Raises `Conflict` where one does not stop in time, after letting the others go on.
    """
    sandbox.thawed = anyio.Event()
    try:
        await sandbox.channel.send(encode_signal(0, signal.SIGSTOP, tree=True))
        await _wait(sandbox)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await thaw(sandbox)
        raise


async def thaw(sandbox: LiveSandbox) -> None:
    """Let everything go on, also what had been stopped by somebody else before."""
    try:
        if sandbox.channel.lost is None:
            await sandbox.channel.send(encode_signal(0, signal.SIGCONT, tree=True))
    except BackendUnavailable:
        return  # it has ended meanwhile: there is nothing to go on
    finally:
        thawed, sandbox.thawed = sandbox.thawed, None
        if thawed is not None:
            thawed.set()


@asynccontextmanager
async def frozen(sandbox: LiveSandbox) -> AsyncIterator[None]:
    """A scope in which nothing of the guest runs, or it ends with `Conflict`. What is paused already stays so."""
    async with sandbox.saving:
        if sandbox.state is SandboxState.PAUSED:
            yield
            return
        await freeze(sandbox)
        try:
            yield
            if moving := _moving(sandbox):
                raise Conflict(
                    f"{len(moving)} processes of the sandbox went on while it was saved",
                    hint="something wakes them (a timer that sends SIGCONT): end it, and try again",
                    processes=moving,
                )
        finally:
            with anyio.CancelScope(shield=True):
                await thaw(sandbox)


async def _wait(sandbox: LiveSandbox) -> None:
    # Before guestd has done it, what is stopped may be so from the last time, and be about to go on for a moment.
    with anyio.move_on_after(_STOP_SECONDS):
        await sandbox.channel.heard()
    until = time.monotonic() + _STOP_SECONDS
    again = time.monotonic() + _AGAIN_SECONDS
    # One that is looked at early may be woken by one that is looked at late: so nothing may move twice in a row.
    while moving := _moving(sandbox) or _moving(sandbox):
        now = time.monotonic()
        if now > until:
            raise Conflict(
                f"{len(moving)} processes of the sandbox cannot be stopped",
                hint="they wait for a disk; try again later, or end them",
                processes=moving,
            )
        if now > again:
            await sandbox.channel.send(encode_signal(0, signal.SIGCONT, tree=True))
            await sandbox.channel.send(encode_signal(0, signal.SIGSTOP, tree=True))
            await sandbox.channel.heard()
            again = now + _AGAIN_SECONDS
        await anyio.sleep(_LOOK_SECONDS)


def _moving(sandbox: LiveSandbox) -> list[str]:
    """The processes of a guest that have not stopped."""
    proc = sandbox.launched.open_proc()
    if proc is None:
        raise BackendUnavailable(f"sandbox {sandbox.plan.sandbox} has ended", hint="make a new sandbox")
    try:
        return [pid for pid, state in _states(proc) if state not in _STOPPED]
    finally:
        os.close(proc)


def _states(proc: int) -> Iterator[tuple[str, int]]:
    """Every thread in a guest's `/proc` but guestd, by its process, and how the kernel spells what it does."""
    for name in os.listdir(proc):
        if not name.isdigit() or name == _FIRST:
            continue
        try:
            threads = os.open(f"{name}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
        except OSError:
            continue  # it has ended
        try:
            for thread in os.listdir(threads):
                said = _read(f"{thread}/stat", threads)
                if said:
                    # The program's name is in brackets, and may hold anything.
                    yield name, said[said.rindex(b")") + 2]
        except OSError:
            continue
        finally:
            os.close(threads)


def _read(path: str, directory: int) -> bytes:
    """A short file of `/proc`; empty for what has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
