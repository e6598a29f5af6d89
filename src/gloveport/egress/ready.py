"""Waiting for sockets, each wait with its end."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable

__all__ = ["Late", "readable", "writable"]


class Late(Exception):
    """What was waited for did not come in time."""


async def readable(sock: socket.socket, until: float = math.inf) -> None:
    """Wait for a socket to have something, or to have ended. Raises `Late` at `until`, by `time.monotonic`."""
    loop = asyncio.get_running_loop()
    await _wait(loop, sock.fileno(), until, loop.add_reader, loop.remove_reader)


async def writable(sock: socket.socket, until: float = math.inf) -> None:
    """Wait for a socket to take something, or to be connected. Raises `Late` as `readable` does."""
    loop = asyncio.get_running_loop()
    await _wait(loop, sock.fileno(), until, loop.add_writer, loop.remove_writer)


async def _wait(
    loop: asyncio.AbstractEventLoop,
    descriptor: int,
    until: float,
    add: Callable[..., None],
    remove: Callable[[int], bool],
) -> None:
    # A cancel scope with a deadline does the same for several times the price, and every request waits twice.
    ready: asyncio.Future[bool] = loop.create_future()
    add(descriptor, _end, ready, True)
    clock = loop.call_at(until, _end, ready, False) if until < math.inf else None
    try:
        if not await ready:
            raise Late
    finally:
        remove(descriptor)
        if clock is not None:
            clock.cancel()


def _end(ready: asyncio.Future[bool], value: bool) -> None:
    if not ready.done():
        ready.set_result(value)
