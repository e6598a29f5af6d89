"""Two sockets joined: bytes move inside the kernel, each direction ends by itself, both are counted."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

__all__ = ["Idle", "OverBudget", "join"]

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
    joint = _Joint(idle_seconds)
    try:
        joint.carry(guest, peer, lambda size: count(size, 0))
        joint.carry(peer, guest, lambda size: count(0, size))
        await joint.end
    finally:
        joint.close()


class _Joint:
    """Both directions, and the idle clock that they share.

    The loop calls back: tasks that wait for each piece anew would cost every message some more turns of the loop.
    """

    def __init__(self, idle_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.end: asyncio.Future[None] = self._loop.create_future()
        self._seconds = idle_seconds
        self._moved_at = self._loop.time()
        self._clock = self._loop.call_later(idle_seconds, self._look)
        self._pumps: list[_Pump] = []

    def carry(self, source: socket.socket, sink: socket.socket, spend: Callable[[int], None]) -> None:
        """Begin one direction. Raises `OSError` when there is no pipe to be had."""
        pump = _Pump(source, sink, spend, self)
        self._pumps.append(pump)
        pump.wait(fills=True)

    def moved(self) -> None:
        """Bytes have passed."""
        self._moved_at = self._loop.time()

    def try_to(self, step: Callable[[], None]) -> None:
        """Do what a socket is ready for. A failure is the end of both directions."""
        if self.end.done():
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whoever awaits the end tells them apart
            self.end.set_exception(error)
            return
        if all(pump.is_done for pump in self._pumps):
            self.end.set_result(None)

    def close(self) -> None:
        """Let go of the sockets, and of everything made for them."""
        self._clock.cancel()
        for pump in self._pumps:
            pump.close()

    def _look(self) -> None:
        left = self._moved_at + self._seconds - self._loop.time()
        if left > 0:
            self._clock = self._loop.call_later(left, self._look)
        elif not self.end.done():
            self.end.set_exception(Idle())


class _Pump:
    """One direction. splice(2) moves pages from socket to pipe to socket: no byte is copied into this process."""

    def __init__(self, source: socket.socket, sink: socket.socket, spend: Callable[[int], None], joint: _Joint) -> None:
        self.is_done = False
        self._source, self._sink = source.fileno(), sink
        self._spend = spend
        self._joint = joint
        self._loop = asyncio.get_running_loop()
        self._held = 0
        self._fills = self._drains = False
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wait(self, *, fills: bool = False, drains: bool = False) -> None:
        """Wait for the source to have something, or for the sink to take it, or for neither."""
        if fills and not self._fills:
            self._loop.add_reader(self._source, self._joint.try_to, self._fill)
        elif self._fills and not fills:
            self._loop.remove_reader(self._source)
        if drains and not self._drains:
            self._loop.add_writer(self._sink, self._joint.try_to, self._resume)
        elif self._drains and not drains:
            self._loop.remove_writer(self._sink)
        self._fills, self._drains = fills, drains

    def close(self) -> None:
        """Take no more."""
        self.wait()
        os.close(self._reader)
        os.close(self._writer)

    def _fill(self) -> None:
        try:
            self._held = os.splice(self._source, self._writer, _PIECE)
        except BlockingIOError:
            return
        if not self._held:
            self.wait()
            _end(self._sink)
            self.is_done = True
            return
        self._spend(self._held)
        self._drain()
        if self._held:
            self.wait(drains=True)

    def _resume(self) -> None:
        self._drain()
        if not self._held:
            self.wait(fills=True)

    def _drain(self) -> None:
        self._joint.moved()
        try:
            while self._held:
                self._held -= os.splice(self._reader, self._sink.fileno(), self._held)
                self._joint.moved()
        except BlockingIOError:
            return


def _end(sink: socket.socket) -> None:
    """Pass the end of the stream on."""
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno not in _GONE:
            raise
