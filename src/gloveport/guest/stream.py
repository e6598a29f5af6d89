"""A byte stream to somebody who is never trusted: whole writes, reads by callback, an end that wakes everybody."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

import anyio

from gloveport.errors import BackendUnavailable

__all__ = ["STALL_SECONDS", "ByteStream"]

STALL_SECONDS: Final = 30.0
"""How long the other side may leave a message unread."""
_READ_SIZE: Final = 128 * 1024


class ByteStream:
    """One connected socket, which it owns."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._writing = anyio.Lock()
        self._end: asyncio.Future[None] | None = None

    async def receive(self, take: Callable[[bytes], None]) -> None:
        """Hand over what arrives until the stream ends. Raises what `take` raises, and `OSError`."""
        # The loop calls back: waiting for each piece anew would cost every exec some more turns of the loop.
        loop = asyncio.get_running_loop()
        self._end = loop.create_future()
        loop.add_reader(self._socket, self._read, take, self._end)
        try:
            await self._end
        finally:
            loop.remove_reader(self._socket)

    def _read(self, take: Callable[[bytes], None], end: asyncio.Future[None]) -> None:
        if end.done():
            return
        try:
            data = self._socket.recv(_READ_SIZE)
            take(data)
        except BlockingIOError:
            return
        except Exception as error:  # noqa: BLE001 - whoever awaits `receive` tells them apart
            end.set_exception(error)
        else:
            if not data:
                end.set_result(None)

    async def send(self, data: bytes) -> None:
        """Write one message, whole, in the order of the calls. Raises `OSError` when the stream is gone.

        Half a message would garble the stream for everybody, so a cancelled call is finished too.
        """
        if not self._writing.locked():
            sent = self._write(data)
            if sent == len(data):
                return
            self._writing.acquire_nowait()
        else:
            sent = 0
            with anyio.CancelScope(shield=True):
                await self._writing.acquire()
        try:
            await self._send_rest(memoryview(data)[sent:])
        except anyio.ClosedResourceError as error:
            raise _closed() from error
        finally:
            self._writing.release()

    async def _send_rest(self, rest: memoryview) -> None:
        with anyio.move_on_after(STALL_SECONDS, shield=True):
            while rest := rest[self._write(rest) :]:
                await anyio.wait_writable(self._socket)
        if rest:
            self._break(BackendUnavailable("guestd does not read", hint="make a new sandbox"))
            raise _closed()

    def _write(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def _break(self, error: Exception) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_exception(error)

    def close_writing(self) -> None:
        """Shut our side. Idempotent."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise

    def close(self) -> None:
        """Give the socket back; who waits in `send` gets `OSError`. Idempotent."""
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()


def _closed() -> OSError:
    return OSError(errno.EPIPE, "the stream is closed")
