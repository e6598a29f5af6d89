"""Keeps the limits that the kernel does not: the sandbox's life time and what its workspace may grow by."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread

from gloveport.guest.channel import Channel
from gloveport.model import Limits

__all__ = ["Watch", "disk_usage"]

_SHORTEST_PAUSE = 0.5
_SHARE = 20
"""A measurement that took t seconds is followed by a pause of at least 20 t: under 5 % of a core."""
_BLOCK = 512


class Watch:
    """One sandbox's watchdog. `expire` is called once, when the sandbox's wall time is over."""

    def __init__(self, limits: Limits, channel: Channel, upper: Path, expire: Callable[[], Awaitable[None]]) -> None:
        self._limits = limits
        self._channel = channel
        self._upper = upper
        self._expire = expire
        self._deadline = time.monotonic() + limits.sandbox_seconds
        self._scope = anyio.CancelScope()

    def cancel(self) -> None:
        """Stop watching."""
        self._scope.cancel()

    async def run(self) -> None:
        """Watch until cancelled, until the sandbox is gone, or until its time is over."""
        with self._scope:
            largest = 0
            pause = _SHORTEST_PAUSE
            while self._channel.lost is None:
                remaining = self._deadline - time.monotonic()
                if remaining <= 0:
                    break
                with anyio.move_on_after(min(pause, remaining)):
                    await self._channel.ended()
                    return
                if not self._channel.processes:
                    continue
                began = time.monotonic()
                used = await anyio.to_thread.run_sync(disk_usage, self._upper)
                pause = max(_SHORTEST_PAUSE, (time.monotonic() - began) * _SHARE)
                # A workspace over its limit that shrinks is being tidied up: let that happen.
                if used > self._limits.disk_bytes and used > largest:
                    for process in self._channel.processes:
                        await process.kill_for_disk()
                largest = used
        if not self._scope.cancel_called and self._channel.lost is None:
            with anyio.CancelScope(shield=True):
                await self._expire()


def disk_usage(directory: Path) -> int:
    """Bytes that the files below `directory` occupy, hard links once. Never follows links; what vanishes is skipped."""
    total = 0
    seen: set[tuple[int, int]] = set()
    stack = [os.fsencode(directory)]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    try:
                        facts = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if facts.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if (facts.st_dev, facts.st_ino) in seen:
                            continue
                        seen.add((facts.st_dev, facts.st_ino))
                    total += facts.st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
        except OSError:
            continue
    return total
