"""Keeps the limits that the kernel does not: the sandbox's life time and what its workspace may grow by."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from gloveport.backends.bubblewrap.disk import BEYOND, disk_usage, free_space
from gloveport.errors import BackendUnavailable
from gloveport.guest.channel import Channel
from gloveport.model import Limits

__all__ = ["Look", "Watch", "Watched"]

_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0
"""Seconds between two measurements at most, whatever the guest made of its workspace; and while no exec runs and the
last two were equal."""
_SHARE = 20
"""A measurement that took t seconds is followed by a pause of 20 t: under 5 % of a core, where that is not too long."""
_MOST_FAILURES = 10
"""Measurements in a row that the host may fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Where the disk of one sandbox is to be measured."""

    upper: Path
    workspace: str
    """The same in the guest."""
    open_proc: Callable[[], int | None]
    """A new descriptor of the guest's own `/proc`, or `None` when it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One measurement, and when the next one is due."""

    began: float
    ended: float
    used: int
    free: int
    """What the file system had left when the measurement began."""

    def is_due(self, now: float, *, free: int, room: int, idle: bool) -> bool:
        """Whether to measure again: in time, or at once when the file system lost more than the sandbox has left."""
        took = self.ended - self.began
        if now < self.ended + took:
            return False
        if self.free - free > room:
            return True
        return now >= self.ended + (_LONGEST_PAUSE if idle else min(took * _SHARE, _LONGEST_PAUSE))


class Watch:
    """One sandbox's watchdog. `expire` is called once, when the sandbox's wall time is over."""

    def __init__(
        self, limits: Limits, channel: Channel, watched: Watched, expire: Callable[[], Awaitable[None]]
    ) -> None:
        self._limits = limits
        self._channel = channel
        self._watched = watched
        self._expire = expire
        self._deadline = time.monotonic() + limits.sandbox_seconds
        self._scope = anyio.CancelScope()
        self._over = False

    def cancel(self) -> None:
        """Stop watching."""
        self._over = True
        self._scope.cancel()

    async def run(self) -> None:
        """Watch until cancelled, until the sandbox is gone, or until its time is over.

        Raises what keeps it from watching, in an `ExceptionGroup`: the sandbox must not go on then.
        """
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
        limit = self._limits.disk_bytes
        last = Look(began=0.0, ended=0.0, used=0, free=0)
        quiet, failures, killed = 0, 0, False
        while True:
            await anyio.sleep(_SHORTEST_PAUSE)
            idle = quiet >= 2 and not self._channel.processes
            try:
                free = free_space(self._watched.upper)
                if not last.is_due(time.monotonic(), free=free, room=max(0, limit - last.used), idle=idle):
                    continue
                look = await self._look(free)
            except OSError as error:
                failures += 1
                if failures > _MOST_FAILURES:
                    raise BackendUnavailable(
                        f"the workspace cannot be measured: {error.strerror}",
                        hint="save its changes and make a new sandbox; see: gloveport doctor",
                    ) from error
                continue
            failures = 0
            quiet = quiet + 1 if look.used == last.used else 0
            # What was written until the kill shows in the look after it, when somebody may be tidying up already; and a
            # workspace over its limit that shrinks is being tidied up: let that happen.
            grew = look.used == BEYOND or look.used > last.used
            killed = not killed and look.used > limit and grew
            if killed:
                await self._kill()
            last = look

    async def _look(self, free: int) -> Look:
        watched = self._watched
        # A descriptor for this measurement alone: guestd may be reaped meanwhile.
        guest = watched.open_proc()
        measure = partial(disk_usage, watched.upper, self._is_over, guest=guest, workspace=watched.workspace)
        began = time.monotonic()
        try:
            used = await anyio.to_thread.run_sync(measure)
        finally:
            if guest is not None:
                os.close(guest)
        return Look(began=began, ended=time.monotonic(), used=used, free=free)

    async def _kill(self) -> None:
        try:
            await self._channel.kill_everything(disk_full=True)
        except BackendUnavailable:
            return  # the channel's own end says so to everybody

    def _is_over(self) -> bool:
        return self._over
