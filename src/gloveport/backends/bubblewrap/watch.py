"""Keeps the limits that the kernel does not: the sandbox's life time and what its workspace may grow by.

The disk is measured by walking the workspace: files that are unlinked but still open are in no directory and stay
unseen, as does what a directory holds that this user may not read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from gloveport.errors import BackendUnavailable
from gloveport.guest.channel import Channel
from gloveport.model import Limits

__all__ = ["Watch", "disk_usage"]

_SHORTEST_PAUSE = 0.5
_IDLE_PAUSE = 5.0
"""Seconds between two measurements while no exec runs and the last two were equal."""
_SHARE = 20
"""A measurement that took t seconds is followed by a pause of at least 20 t: under 5 % of a core."""
_BLOCK = 512
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Watch:
    """One sandbox's watchdog. `expire` is called once, when the sandbox's wall time is over."""

    def __init__(self, limits: Limits, channel: Channel, upper: Path, expire: Callable[[], Awaitable[None]]) -> None:
        self._limits = limits
        self._channel = channel
        self._upper = upper
        self._expire = expire
        self._deadline = time.monotonic() + limits.sandbox_seconds
        self._scope = anyio.CancelScope()
        self._over = False

    def cancel(self) -> None:
        """Stop watching."""
        self._over = True
        self._scope.cancel()

    async def run(self) -> None:
        """Watch until cancelled, until the sandbox is gone, or until its time is over."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch_disk)
                    with anyio.move_on_after(max(0.0, self._deadline - time.monotonic())):
                        await self._channel.ended()
                    self._over = True
                    tasks.cancel_scope.cancel()
        finally:
            self._over = True
        if not self._scope.cancel_called and self._channel.lost is None:
            with anyio.CancelScope(shield=True):
                await self._expire()

    async def _watch_disk(self) -> None:
        """Measure for ever: what an exec left behind in the background writes too."""
        before, quiet, busy_at, idle_at = 0, 0, 0.0, 0.0
        while True:
            await anyio.sleep(_SHORTEST_PAUSE)
            is_idle = quiet >= 2 and not self._channel.processes
            began = time.monotonic()
            if began < (idle_at if is_idle else busy_at):
                continue
            used = await anyio.to_thread.run_sync(disk_usage, self._upper, self._is_over)
            ended = time.monotonic()
            busy_at = ended + (ended - began) * _SHARE
            idle_at = max(busy_at, ended + _IDLE_PAUSE)
            quiet = quiet + 1 if used == before else 0
            # A workspace over its limit that shrinks is being tidied up: let that happen.
            if used > self._limits.disk_bytes and used > before:
                await self._kill()
            before = used

    async def _kill(self) -> None:
        try:
            await self._channel.kill_everything(disk_full=True)
        except BackendUnavailable:
            return  # the channel's own end says so to everybody

    def _is_over(self) -> bool:
        return self._over


def disk_usage(directory: Path, is_over: Callable[[], bool] = lambda: False) -> int:
    """Bytes that the files below `directory` occupy, hard links once. Never follows links; what vanishes is skipped.

    Paths may be of any length: two descriptors are open, however deep the tree. `is_over` is asked at every directory
    and ends the walk early.
    """
    try:
        root = os.open(directory, _DIRECTORY)
    except OSError:
        return 0
    try:
        return _Walk(root).run(is_over)
    finally:
        os.close(root)


@dataclass(slots=True)
class _Level:
    """One directory on the way from the root to where the walk is."""

    name: str
    identity: tuple[int, int]
    pending: list[str]
    """Its subdirectories that are still to be walked."""


class _Walk:
    """A walk with openat alone, in a tree that its owner may move about meanwhile."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._here = os.dup(root)
        self._levels: list[_Level] = []
        self._linked: set[tuple[int, int]] = set()
        self._total = 0

    def run(self, is_over: Callable[[], bool]) -> int:
        try:
            self._read("")
            while self._levels and not is_over():
                pending = self._levels[-1].pending
                if pending:
                    self._descend(pending.pop())
                else:
                    self._ascend()
        finally:
            os.close(self._here)
        return self._total

    def _read(self, name: str) -> None:
        """Add up the directory where the walk is, and make it the deepest level."""
        level = _Level(name, _identity(self._here), [])
        self._levels.append(level)
        try:
            with os.scandir(self._here) as entries:
                for entry in entries:
                    self._count(entry, level)
        except OSError:
            return

    def _count(self, entry: os.DirEntry[str], level: _Level) -> None:
        try:
            facts = entry.stat(follow_symlinks=False)
            is_directory = entry.is_dir(follow_symlinks=False)
        except OSError:
            return
        if is_directory:
            level.pending.append(entry.name)
        elif facts.st_nlink > 1:
            if (facts.st_dev, facts.st_ino) in self._linked:
                return
            self._linked.add((facts.st_dev, facts.st_ino))
        self._total += facts.st_blocks * _BLOCK

    def _descend(self, name: str) -> None:
        if self._move(name):
            self._read(name)

    def _ascend(self) -> None:
        self._levels.pop()
        if self._levels and not self._move("..", self._levels[-1].identity):
            self._find_back()

    def _find_back(self) -> None:
        """A directory on the way was moved: go on from the deepest one that is still where it was."""
        os.close(self._here)
        self._here = os.dup(self._root)
        for depth, level in enumerate(self._levels[1:], start=1):
            if not self._move(level.name, level.identity):
                del self._levels[depth:]
                return

    def _move(self, name: str, identity: tuple[int, int] | None = None) -> bool:
        """Go to a directory next to this one, if it is there (and is the one with `identity`)."""
        try:
            there = os.open(name, _DIRECTORY, dir_fd=self._here)
        except OSError:
            return False
        if identity not in (None, _identity(there)):
            os.close(there)
            return False
        os.close(self._here)
        self._here = there
        return True


def _identity(fd: int) -> tuple[int, int]:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino
