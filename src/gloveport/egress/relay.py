"""Two sockets joined: bytes move inside the kernel, each direction ends by itself, both are counted."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable

import anyio

from gloveport.egress.tasks import plain_group

__all__ = ["Idle", "OverBudget", "join"]

_PIPE_BYTES = 256 * 1024
_PIECE = 1024 * 1024
_GONE = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT)


class Idle(Exception):
    """Nothing moved for too long."""


class OverBudget(Exception):
    """The sandbox has used up its bytes."""


async def join(
    guest: socket.socket, peer: socket.socket, *, idle_seconds: float, count: Callable[[int, int], None]
) -> None:
    """Carry bytes both ways until both ends are done. The sockets are non-blocking, and stay open.

    `count` is told of bytes (from the guest, to the guest) before they pass, and may raise. Raises `Idle`, or
    `OSError` when one side breaks.
    """
    watch = _Watch(idle_seconds)
    async with plain_group() as tasks:
        tasks.start_soon(_pump, guest, peer, lambda size: count(size, 0), watch)
        tasks.start_soon(_pump, peer, guest, lambda size: count(0, size), watch)


class _Watch:
    """The idle clock that both directions share."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._moved_at = anyio.current_time()

    def moved(self) -> None:
        self._moved_at = anyio.current_time()

    async def wait(self, ready: Callable[[socket.socket], Awaitable[None]], sock: socket.socket) -> None:
        """Wait for the socket, as long as the other direction moves."""
        while True:
            left = self._moved_at + self._seconds - anyio.current_time()
            if left <= 0:
                raise Idle
            with anyio.move_on_after(left):
                await ready(sock)
                return


async def _pump(source: socket.socket, sink: socket.socket, spend: Callable[[int], None], watch: _Watch) -> None:
    """One direction. splice(2) moves pages from socket to pipe to socket: no byte is copied into this process."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while size := await _fill(source, writer, watch):
            spend(size)
            watch.moved()
            while size:
                size -= await _drain(reader, sink, size, watch)
                watch.moved()
        _end(sink)
    finally:
        os.close(reader)
        os.close(writer)


async def _fill(source: socket.socket, writer: int, watch: _Watch) -> int:
    while True:
        try:
            return os.splice(source.fileno(), writer, _PIECE)
        except BlockingIOError:
            await watch.wait(anyio.wait_readable, source)


async def _drain(reader: int, sink: socket.socket, count: int, watch: _Watch) -> int:
    while True:
        try:
            return os.splice(reader, sink.fileno(), count)
        except BlockingIOError:
            await watch.wait(anyio.wait_writable, sink)


def _end(sink: socket.socket) -> None:
    """Pass the end of the stream on."""
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno not in _GONE:
            raise
