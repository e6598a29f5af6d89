"""Who listens at every address of the private network, and says to whoever comes where they arrived."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc

__all__ = ["ABSTRACT", "PORTS", "open_witness"]

PORTS = (80, 443, 8080)
ABSTRACT = "gloveport-witness"
"""The name of a socket without a file."""
_LONGEST_HEAD = 65536
_SECONDS = 10.0


@asynccontextmanager
async def open_witness() -> AsyncIterator[None]:
    """Listen while the scope is open."""
    async with anyio.create_task_group() as tasks:
        for port in PORTS:
            listener = await anyio.create_tcp_listener(local_port=port)
            tasks.start_soon(listener.serve, _answer)
        hidden = socket.socket(socket.AF_UNIX)
        hidden.bind("\0" + ABSTRACT)
        hidden.listen()
        hidden.setblocking(False)
        tasks.start_soon(_say, hidden)
        yield
        tasks.cancel_scope.cancel()


async def _answer(stream: anyio.abc.SocketStream) -> None:
    async with stream:
        with anyio.move_on_after(_SECONDS):
            await _converse(stream)


async def _converse(stream: anyio.abc.SocketStream) -> None:
    """Request after request, as long as the client wants to keep the connection. None of them has a body."""
    address = str(stream.extra(anyio.abc.SocketAttribute.raw_socket).getsockname()[0])  # noqa: S610 - no Django here
    rest = b""
    try:
        while True:
            while b"\r\n\r\n" not in rest and len(rest) < _LONGEST_HEAD:
                rest += await stream.receive()
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            hosts = [line[5:].strip() for line in lines if line.lower().startswith(b"host:")]
            said = b"reached %s %s as %s\n" % (address.removeprefix("::ffff:").encode(), lines[0], b",".join(hosts))
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))
            if b"connection: close" in head.lower():
                return
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return


async def _say(hidden: socket.socket) -> None:
    with hidden:
        while True:
            await anyio.wait_readable(hidden)
            accepted, _ = hidden.accept()
            with accepted:
                accepted.sendall(b"reached the host")
