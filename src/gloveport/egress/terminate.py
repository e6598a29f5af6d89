"""TLS that ends at the proxy: one host a connection, each request in it decided by its method and path."""

from __future__ import annotations

import ssl

import h11

from gloveport.egress.client import Client
from gloveport.egress.dial import Refused
from gloveport.egress.exchange import Server, exchange, next_request, say_why
from gloveport.egress.gate import Gate
from gloveport.egress.http_parts import Asked, GuestHttp, split_origin
from gloveport.egress.inspection import Termination
from gloveport.egress.tls import OtherName, accept_tls

__all__ = ["serve_inside"]

_HANDSHAKE = b"\x16"
"""The first byte of TLS."""
_ONE_HOST = "built-in: one host in one connection"
_DEFAULT_PORTS = {"http": 80, "https": 443}


async def serve_inside(client: Client, host: str, port: int, termination: Termination, gate: Gate) -> None:
    """Serve what the guest says in a tunnel to `host`, canonical, to its end.

    Inside is TLS for that very host, or plain HTTP; in both every request must be for it. Anything else gets no
    further: what cannot be judged does not pass.
    """
    with gate.patience(client):
        first = await client.peek()
    protocol = "https" if first == _HANDSHAKE else "http"
    if first == _HANDSHAKE:
        inside = await _accept(client, host, port, termination, gate)
        if inside is None:
            return
        client = inside

    guest = GuestHttp(client, gate.budget.header_bytes, split_origin)
    server = Server(gate, protocol)
    try:
        while (asked := await next_request(guest, gate, protocol)) is not None:
            whole = await _for_this_host(guest, asked, (host, port), protocol, gate)
            if whole is None or not await exchange(client, guest, server, whole, gate):
                return
    finally:
        server.close()


async def _accept(client: Client, host: str, port: int, termination: Termination, gate: Gate) -> Client | None:
    try:
        with gate.patience(client):
            return await accept_tls(client, termination.authority.tls(host))
    except OtherName as other:
        with gate.recorded(client) as record:
            record.protocol, record.host, record.port = "https", host, port
            record.rule = _ONE_HOST
            record.reason = f"TLS names {str(other) or 'nobody'} in a connection to {host}"
            raise Refused from None
    except ssl.SSLError as error:
        with gate.recorded(client) as record:
            record.protocol, record.host, record.port = "https", host, port
            raise h11.RemoteProtocolError(f"no TLS with the guest: {error.reason or error}") from error
    return None


async def _for_this_host(
    guest: GuestHttp, asked: Asked, place: tuple[str, int], protocol: str, gate: Gate
) -> Asked | None:
    """The request with its real destination; `None`, and the guest told, when its `Host` is another."""
    host, port = place
    said = asked.port or _DEFAULT_PORTS[protocol]
    # A client that leaves the port out means the one it is connected to.
    if gate.is_same(asked.host, host) and (said == port or not asked.port):
        return Asked(method=asked.method, host=host, port=port, path=asked.path, headers=asked.headers)
    with gate.recorded(guest.client) as record:
        record.protocol, record.host, record.port = protocol, host, port
        record.method, record.path = asked.method, asked.path
        record.rule = _ONE_HOST
        record.reason = f"the request is for {asked.host[:253]} in a connection to {host}"
        refused = Refused()
        await say_why(guest, refused, record)
        raise refused
    return None
