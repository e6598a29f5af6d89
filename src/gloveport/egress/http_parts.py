"""The proxy's HTTP: `CONNECT`, and requests with a whole address, parsed and written anew by h11."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from gloveport.egress.client import Client, ClientGone, receive, send_all

__all__ = ["Asked", "GuestHttp", "PeerHttp", "split_target"]

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer upgrade".split()
)
_REASON_BYTES = 400
_HTTP = 80
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request's head."""

    method: str
    host: str
    """As the client wrote it."""
    port: int
    path: str
    """Path and query; empty for `CONNECT`."""
    headers: Headers = ()


class GuestHttp:
    """The server's side, towards the guest. One request at a time."""

    def __init__(self, client: Client, header_bytes: int) -> None:
        self._client = client
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=header_bytes)

    async def request(self) -> Asked | None:
        """The next request; `None` when the guest is done. Raises `h11.RemoteProtocolError` for nonsense."""
        if self._connection.our_state is h11.DONE and self._connection.their_state is h11.DONE:
            self._connection.start_next_cycle()
        if self._connection.our_state is not h11.IDLE:
            return None
        event = await self._event()
        if not isinstance(event, h11.Request):
            return None
        return split_target(event)

    async def body(self) -> bytes | None:
        """The next piece of the request's body; `None` at its end."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return None

    async def tunnel(self) -> None:
        """Accept a `CONNECT`; what the guest has sent ahead is put back."""
        await self._send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
        self._client.put_back(bytes(self._connection.trailing_data[0]))

    async def refuse(self, status: int, reason: str) -> None:
        """Answer with an error of the proxy's own; `reason` reaches whoever reads the status line, and the body."""
        if self._connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"gloveport: {reason}\n".encode()
        headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            ("x-gloveport", "refused"),
        ]
        line = "".join(char if " " <= char <= "~" else "?" for char in reason)[:_REASON_BYTES]
        await self._send(h11.Response(status_code=status, headers=headers, reason=line.encode()))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def pass_on(self, event: h11.Event) -> None:
        """Send a part of the server's response to the guest."""
        if isinstance(event, h11.Response | h11.InformationalResponse):
            kept = _end_to_end(event.headers.raw_items())
            event = type(event)(status_code=event.status_code, headers=kept, reason=event.reason)
        await self._send(event)

    async def _event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        while True:
            event = self._connection.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._connection.receive_data(await self._client.some())

    async def _send(self, event: h11.Event) -> None:
        data = self._connection.send(event)
        if data:
            await self._client.send(data)


class PeerHttp:
    """The client's side, towards the server."""

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self._connection = h11.Connection(h11.CLIENT)

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on the same connection."""
        return self._connection.our_state is h11.DONE and self._connection.their_state is h11.DONE

    async def ask(self, asked: Asked, host: str) -> int:
        """Send a request's head, its `Host` being the canonical `host` that was decided; the bytes written."""
        if self.reusable:
            self._connection.start_next_cycle()
        host = f"[{host}]" if ":" in host else host
        name = host if asked.port == 80 else f"{host}:{asked.port}"
        headers = [(b"Host", name.encode()), *(h for h in _end_to_end(asked.headers) if h[0].lower() != b"host")]
        return await self.send(h11.Request(method=asked.method, target=asked.path, headers=headers))

    async def send(self, event: h11.Event) -> int:
        """Write one event; its bytes."""
        data = self._connection.send(event)
        if data:
            await send_all(self.socket, data)
        return len(data or b"")

    async def event(self) -> tuple[h11.Event, int]:
        """The next part of the response, and the bytes that were read for it."""
        count = 0
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.ConnectionClosed):
                raise ClientGone("the server ended in the middle of its answer")
            if event is not h11.NEED_DATA and not isinstance(event, type):
                return event, count
            data = await receive(self.socket)
            count += len(data)
            self._connection.receive_data(data)


def split_target(request: h11.Request) -> Asked:
    """Where a request goes. Raises `h11.RemoteProtocolError` for a target that is not for a proxy."""
    method = request.method.decode("ascii")
    target = request.target.decode("latin-1")
    try:
        asked = _tunnel(target) if method == "CONNECT" else _plain(method, target, request)
    except ValueError:
        asked = None
    if asked is None:
        raise h11.RemoteProtocolError("not a request for a proxy", error_status_hint=400)
    return asked


def _tunnel(target: str) -> Asked | None:
    parts = urlsplit(f"//{target}")
    if parts.port is None or parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return Asked(method="CONNECT", host=_host(target), port=parts.port, path="")


def _plain(method: str, target: str, request: h11.Request) -> Asked | None:
    parts = urlsplit(target)
    if parts.scheme != "http" or not parts.netloc or parts.username is not None or parts.fragment:
        return None
    return Asked(
        method=method,
        host=_host(parts.netloc),
        port=_HTTP if parts.port is None else parts.port,
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        headers=list(request.headers.raw_items()),
    )


def _host(authority: str) -> str:
    """The host of `host:port` as it is written: `urlsplit` would change its case and drop odd bytes."""
    if authority.startswith("["):
        return authority[: authority.index("]") + 1]
    return authority.rpartition(":")[0] or authority


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers that are not about one connection alone."""
    listed = list(headers)
    named = {
        name.strip().lower() for key, value in listed if key.lower() == b"connection" for name in value.split(b",")
    }
    chunked = any(key.lower() == b"transfer-encoding" for key, _ in listed)
    dropped = _HOP_BY_HOP | named | ({b"content-length"} if chunked else set())
    return [(key, value) for key, value in listed if key.lower() not in dropped]
