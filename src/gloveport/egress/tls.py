"""TLS on either side of the proxy, over the same sockets and buffers as everything else."""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from gloveport.egress.client import Client, SocketWire
from gloveport.egress.connect import Unreachable
from gloveport.egress.ready import Late

if TYPE_CHECKING:
    from gloveport.egress.authority import HostTls

__all__ = ["OtherName", "TlsWire", "accept_tls", "open_tls"]


class OtherName(Exception):
    """The guest's TLS names another host than its connection; the text is that name."""


class TlsWire:
    """TLS as a wire."""

    def __init__(self, stream: TLSStream) -> None:
        self._stream = stream

    async def receive(self, until: float = math.inf) -> bytes:
        """What is there, waiting for a byte; empty at the end. Raises `Late`, which loses nothing, at `until`."""
        try:
            with anyio.move_on_after(until - time.monotonic()):
                return await self._stream.receive()
            raise Late
        except anyio.EndOfStream:
            return b""
        except anyio.BrokenResourceError as error:
            raise ConnectionResetError("TLS was broken off") from error

    async def send(self, data: bytes) -> None:
        """Write all of it. Raises `OSError` when the other end is gone."""
        try:
            await self._stream.send(data)
        except anyio.BrokenResourceError as error:
            raise ConnectionResetError("TLS was broken off") from error


async def accept_tls(client: Client, tls: HostTls) -> Client:
    """The same guest, as it speaks inside TLS. Raises `OtherName`, or `OSError` when no TLS comes about."""
    try:
        stream = await _wrap(client.some, client.send, tls.context, None)
    except ssl.SSLError:
        # Set in the same step as the error, before any other guest had its turn.
        name, tls.refused = tls.refused, None
        if name is not None:
            raise OtherName(name) from None
        raise
    return Client(client.socket, client.scope, TlsWire(stream))


async def open_tls(peer: socket.socket, host: str, context: ssl.SSLContext, seconds: float) -> TlsWire:
    """TLS to the server `host`, whose certificate is verified. Raises `Unreachable`."""
    wire = SocketWire(peer)
    try:
        with anyio.fail_after(seconds):
            return TlsWire(await _wrap(wire.receive, wire.send, context, host))
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"the certificate of {host} is not trusted: {error.verify_message}") from error
    except TimeoutError:
        raise Unreachable(f"{host} made no TLS within {seconds:g} s") from None
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise Unreachable(f"no TLS with {host}: {error or 'it closed the connection'}") from error


async def _wrap(
    receive: Callable[[], Awaitable[bytes]],
    send: Callable[[bytes], Awaitable[None]],
    context: ssl.SSLContext,
    host: str | None,
) -> TLSStream:
    # Many servers and clients leave without TLS's own goodbye; HTTP has lengths of its own.
    return await TLSStream.wrap(
        _Transport(receive, send),
        server_side=host is None,
        hostname=host,
        ssl_context=context,
        standard_compatible=False,
    )


class _Transport(ByteStream):
    """A wire as anyio's TLS wants it. Pieces that two tasks send go out in the order they were encrypted in."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]) -> None:
        self._receive = receive
        self._send = send
        self._turn = anyio.Lock()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._receive()
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        async with self._turn:
            await self._send(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        """The socket belongs to who made it."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {}
