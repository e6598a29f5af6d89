"""The proxy's HTTP: `CONNECT`, and requests with a whole address, parsed and written anew by h11."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from gloveport.egress.client import Client, SocketWire, Wire
from gloveport.egress.connect import Unreachable

__all__ = ["Asked", "GuestHttp", "Headers", "PeerHttp", "split_origin", "split_target"]

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer upgrade".split()
)
_HOP_BY_HOP_OR_HOST = _HOP_BY_HOP | {b"host"}
_REASON_BYTES = 400
_HTTP, _HTTPS = 80, 443
_SWITCHING = 101
_OURS = b"1.1"
_VERSIONS = (b"1.0", _OURS)
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
        self.client = client
        self._read = read or split_target
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=header_bytes)
        self._ahead: type[h11.NEED_DATA | h11.PAUSED] | h11.Event = h11.NEED_DATA
        """What was parsed of the request and not used yet."""
        self._unsent: list[bytes] = []

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

    def ends(self) -> bool:
        """Whether the request ended with its head. Waits for nothing; a body is left where it is."""
        self._ahead = self._connection.next_event()
        if not isinstance(self._ahead, h11.EndOfMessage):
            return False
        self._ahead = h11.NEED_DATA
        return True

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
        self._write(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
        await self.flush()
        self.release()

    async def refuse(self, status: int, reason: str) -> None:
        """Answer with an error of the proxy's own; `reason` reaches whoever reads the status line, and the body.

        Where an answer has begun that one stays, as far as it came.
        """
        if self._connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            await self.flush()
            return
        body = f"gloveport: {reason}\n".encode()
        headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            ("x-gloveport", "refused"),
        ]
        line = "".join(char if " " <= char <= "~" else "?" for char in reason)[:_REASON_BYTES]
        self._write(h11.Response(status_code=status, headers=headers, reason=line.encode()))
        self._write(h11.Data(data=body))
        self._write(h11.EndOfMessage())
        await self.flush()

    def pass_on(self, event: h11.Event) -> None:
        """Write a part of the server's response for the guest; `flush` sends it."""
        if isinstance(event, h11.Response | h11.InformationalResponse):
            written = event.headers.raw_items()
            kept = _end_to_end(written)
            if event.status_code == _SWITCHING:
                kept += _UPGRADE
            if len(kept) != len(written) or event.http_version != _OURS:
                event = type(event)(status_code=event.status_code, headers=kept, reason=event.reason)
        self._write(event)

    async def flush(self) -> None:
        """Send what was written, all of it at once."""
        if self._unsent:
            data, self._unsent = b"".join(self._unsent), []
            await self.client.send(data)

    def release(self) -> None:
        """HTTP is over on this connection: what the guest has sent ahead is put back."""
        self.client.put_back(bytes(self._connection.trailing_data[0]))

    async def _event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        event, self._ahead = self._ahead, h11.NEED_DATA
        while event is h11.NEED_DATA:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                self._connection.receive_data(await self.client.some())
        return event

    def _write(self, event: h11.Event) -> None:
        data = self._connection.send(event)
        if data:
            self._unsent.append(data)


class PeerHttp:
    """The client's side, towards the server."""

    def __init__(self, peer: socket.socket, wire: Wire | None = None) -> None:
        """`wire` is TLS over the socket, where there is any."""
        self.socket = peer
        self.wire = wire or SocketWire(peer)
        self._default_port = _HTTP if wire is None else _HTTPS
        self._connection = h11.Connection(h11.CLIENT)

    @property
    def is_done(self) -> bool:
        """Whether a request was answered, after which another may follow on the same connection."""
        return self._connection.our_state is h11.DONE and self._connection.their_state is h11.DONE

    @property
    def reusable(self) -> bool:
        """Whether another request would still be heard."""
        return self.is_done and not self._connection.trailing_data[0] and _is_quiet(self.socket)

    async def ask(self, asked: Asked, host: str) -> int:
        """Send a request's head, its `Host` being the canonical `host` that was decided; the bytes written."""
        if self.is_done:
            self._connection.start_next_cycle()
        host = f"[{host}]" if ":" in host else host
        name = host if asked.port == self._default_port else f"{host}:{asked.port}"
        headers = [(b"Host", name.encode()), *_end_to_end(asked.headers, _HOP_BY_HOP_OR_HOST)]
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

    def event(self) -> h11.Event | None:
        """The next part of the response; `None` where more has to be heard for it.

        Raises `Unreachable` when there is no more of it.
        """
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise Unreachable(f"the server's answer makes no sense: {error}") from error
        if isinstance(event, h11.ConnectionClosed):
            raise Unreachable("the server ended in the middle of its answer")
        return None if isinstance(event, type) else event

    async def hear(self, until: float) -> int:
        """Take what the server says next; the bytes. Raises `Unreachable`, and `Late` as `Wire.receive` does."""
        try:
            data = await self.wire.receive(until)
        except OSError as error:
            raise Unreachable(f"the server broke off: {error.strerror or error}") from error
        self._connection.receive_data(data)
        return len(data)


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
        headers=request.headers.raw_items(),
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
        headers=request.headers.raw_items(),
    )


def _host(authority: str) -> str:
    """The host of `host:port` as it is written: `urlsplit` would change its case and drop odd bytes."""
    if authority.startswith("["):
        return authority[: authority.index("]") + 1]
    return authority.rpartition(":")[0] or authority


def _end_to_end(headers: Headers, dropped: Collection[bytes] = _HOP_BY_HOP) -> list[tuple[bytes, bytes]]:
    """Headers that are not about one connection alone: none of `dropped`, and none that `Connection` names."""
    named: set[bytes] = set()
    lower = [name.lower() for name, _ in headers]
    if b"connection" in lower:
        values = [value for key, (_, value) in zip(lower, headers, strict=True) if key == b"connection"]
        named = {name.strip().lower() for value in values for name in value.split(b",")}
    if b"transfer-encoding" in lower:
        named.add(b"content-length")
    kept = zip(lower, headers, strict=True)
    return [header for key, header in kept if key not in dropped and key not in named]
