"""The proxy's HTTP: `CONNECT`, and requests with a whole address, parsed and written anew by h11."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from gloveport.egress.client import Client, SocketWire, Wire
from gloveport.egress.connect import Unreachable

__all__ = ["Asked", "GuestHttp", "Headers", "PeerHttp", "split_origin", "split_target"]

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer upgrade".split()
)
_REASON_BYTES = 400
_HTTP, _HTTPS = 80, 443
_SWITCHING = 101
_VERSIONS = (b"1.0", b"1.1")
_UPGRADE = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
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

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks to go on as a WebSocket."""
        return any(name.lower() == b"upgrade" and value.strip().lower() == b"websocket" for name, value in self.headers)


class GuestHttp:
    """The server's side, towards the guest. One request at a time."""

    def __init__(self, client: Client, header_bytes: int, read: Callable[[h11.Request], Asked] | None = None) -> None:
        """`read` tells where a request goes; the requests are for a proxy unless it is given."""
        self._client = client
        self._read = read or split_target
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
        if event.http_version not in _VERSIONS:
            raise h11.RemoteProtocolError("a version of HTTP that nobody speaks", error_status_hint=505)
        return self._read(event)

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
        self.release()

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
            if event.status_code == _SWITCHING:
                kept += _UPGRADE
            event = type(event)(status_code=event.status_code, headers=kept, reason=event.reason)
        await self._send(event)

    def release(self) -> None:
        """HTTP is over on this connection: what the guest has sent ahead is put back."""
        self._client.put_back(bytes(self._connection.trailing_data[0]))

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

    def __init__(self, peer: socket.socket, wire: Wire | None = None) -> None:
        """`wire` is TLS over the socket, where there is any."""
        self.socket = peer
        self.wire = wire or SocketWire(peer)
        self._default_port = _HTTP if wire is None else _HTTPS
        self._read = 0
        self._connection = h11.Connection(h11.CLIENT)

    @property
    def is_done(self) -> bool:
        """Whether a request was answered, after which another may follow on the same connection."""
        return self._connection.our_state is h11.DONE and self._connection.their_state is h11.DONE

    @property
    def reusable(self) -> bool:
        """Whether another request would still be heard."""
        return self.is_done and _is_quiet(self.socket)

    async def ask(self, asked: Asked, host: str) -> int:
        """Send a request's head, its `Host` being the canonical `host` that was decided; the bytes written."""
        if self.is_done:
            self._connection.start_next_cycle()
        host = f"[{host}]" if ":" in host else host
        name = host if asked.port == self._default_port else f"{host}:{asked.port}"
        headers = [(b"Host", name.encode()), *(h for h in _end_to_end(asked.headers) if h[0].lower() != b"host")]
        if asked.wants_websocket:
            headers += _UPGRADE
        return await self.send(h11.Request(method=asked.method, target=asked.path, headers=headers))

    async def send(self, event: h11.Event) -> int:
        """Write one event; its bytes."""
        data = self._connection.send(event)
        if data:
            await self.wire.send(data)
        return len(data or b"")

    def release(self) -> bytes:
        """HTTP is over on this connection: what the server has sent ahead."""
        return bytes(self._connection.trailing_data[0])

    async def event(self) -> tuple[h11.Event, int]:
        """The next part of the response, and the bytes that were read for it. Cancelling loses neither.

        Raises `Unreachable` when there is no more of it.
        """
        try:
            while True:
                event = self._connection.next_event()
                if isinstance(event, h11.ConnectionClosed):
                    raise Unreachable("the server ended in the middle of its answer")
                if event is not h11.NEED_DATA and not isinstance(event, type):
                    count, self._read = self._read, 0
                    return event, count
                data = await self.wire.receive()
                self._read += len(data)
                self._connection.receive_data(data)
        except OSError as error:
            raise Unreachable(f"the server broke off: {error.strerror or error}") from error
        except h11.RemoteProtocolError as error:
            raise Unreachable(f"the server's answer makes no sense: {error}") from error


def _is_quiet(sock: socket.socket) -> bool:
    """Whether a server that owes nothing has neither ended the connection nor said anything."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


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


def split_origin(request: h11.Request) -> Asked:
    """A request to a server itself; the host is what its `Host` says. Raises `h11.RemoteProtocolError`."""
    target = request.target.decode("latin-1")
    named = [value.decode("latin-1") for name, value in request.headers if name == b"host"]
    if not target.startswith("/") or len(named) != 1:
        raise h11.RemoteProtocolError("not a request with a path and one Host", error_status_hint=400)
    try:
        port = urlsplit(f"//{named[0]}").port
    except ValueError:
        raise h11.RemoteProtocolError("its Host has no port like that", error_status_hint=400) from None
    return Asked(
        method=request.method.decode("ascii"),
        host=_host(named[0]),
        port=port or 0,
        path=target,
        headers=list(request.headers.raw_items()),
    )


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
