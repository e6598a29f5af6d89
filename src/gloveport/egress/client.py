"""The guest's end of one connection, while the proxy still talks to it itself."""

from __future__ import annotations

import math
import socket
import time
from typing import Protocol

import anyio

from gloveport.egress.ready import Late, readable, writable

__all__ = ["Client", "ClientGone", "SocketWire", "Wire", "receive", "send_all"]

_PIECE = 64 * 1024


class ClientGone(Exception):
    """The guest ended its stream in the middle of something."""


class Wire(Protocol):
    """Bytes both ways: a socket, or TLS over one."""

    async def receive(self, until: float = math.inf) -> bytes:
        """What is there, waiting for a byte; empty at the end. Raises `Late`, which loses nothing, at `until`."""
        ...

    async def send(self, data: bytes) -> None:
        """Write all of it. Raises `OSError` when the other end is gone."""
        ...


class SocketWire:
    """A non-blocking socket as a wire."""

    def __init__(self, sock: socket.socket, seconds: float = math.inf) -> None:
        """`seconds` as for `send_all`."""
        self._socket = sock
        self._seconds = seconds

    async def receive(self, until: float = math.inf) -> bytes:
        """What is there, waiting for a byte; empty at the end. Raises `Late`, which loses nothing, at `until`."""
        return await receive(self._socket, until)

    async def send(self, data: bytes) -> None:
        """Write all of it. Raises `OSError` when the other end is gone."""
        await send_all(self._socket, data, self._seconds)


class Client:
    """A buffered reader and a writer over a non-blocking socket, or over `wire` where that is TLS on the socket."""

    def __init__(
        self, sock: socket.socket, scope: anyio.CancelScope, wire: Wire | None = None, *, seconds: float = math.inf
    ) -> None:
        """`seconds`, for a socket, as for `send_all`."""
        sock.setblocking(False)
        self.socket = sock
        self.scope = scope
        """Ends the connection, whatever it is about."""
        self.until = math.inf
        """When whoever reads has waited long enough, by `time.monotonic`; then that raises `Late`."""
        self._wire = wire or SocketWire(sock, seconds)
        self._held = b""

    async def peek(self) -> bytes:
        """The first byte, left where it is; empty at the end."""
        if not self._held:
            self._held = await self._wire.receive(self.until)
        return self._held[:1]

    async def read(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises `ClientGone`."""
        while len(self._held) < count:
            more = await self._wire.receive(self.until)
            if not more:
                raise ClientGone("the guest ended in the middle of a message")
            self._held += more
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    async def some(self) -> bytes:
        """What is there, at least a byte; empty at the end."""
        taken, self._held = self._held or await self._wire.receive(self.until), b""
        return taken

    def take(self) -> bytes:
        """What was read and not used."""
        taken, self._held = self._held, b""
        return taken

    def put_back(self, data: bytes) -> None:
        """Undo a read."""
        self._held = data + self._held

    async def send(self, data: bytes) -> None:
        """Write all of it. Raises `OSError` when the guest is gone."""
        await self._wire.send(data)


async def receive(sock: socket.socket, until: float = math.inf) -> bytes:
    """What a non-blocking socket has, waiting for a byte; empty at the end. Raises `Late` as `readable` does."""
    while True:
        try:
            return sock.recv(_PIECE)
        except BlockingIOError:
            await readable(sock, until)


async def send_all(sock: socket.socket, data: bytes, seconds: float = math.inf) -> None:
    """Write all of it to a non-blocking socket. Raises `OSError`, also when nothing is taken for `seconds`."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            try:
                await writable(sock, time.monotonic() + seconds)
            except Late:
                raise TimeoutError(f"nothing was taken for {seconds:g} s") from None
