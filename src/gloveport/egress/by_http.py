"""Serves a guest that speaks HTTP: tunnels, and plain requests one after another."""

from __future__ import annotations

import socket

import h11

from gloveport.egress.client import Client
from gloveport.egress.dial import Refused, Unreachable
from gloveport.egress.gate import Gate, OddHost
from gloveport.egress.http_parts import Asked, GuestHttp, PeerHttp
from gloveport.egress.record import Destination, EgressRecord
from gloveport.egress.tasks import plain_group

__all__ = ["serve_http"]

_BAD_REQUEST, _FORBIDDEN, _BAD_GATEWAY = 400, 403, 502
_ADVICE = "ask your operator to allow it; another way out does not exist"


async def serve_http(client: Client, gate: Gate) -> None:
    """One connection of the guest, to its end. Each request is decided by itself."""
    guest = GuestHttp(client, gate.budget.header_bytes)
    server = _Server(gate)
    try:
        while True:
            asked = await _next(guest, gate)
            if asked is None:
                return
            if asked.method == "CONNECT":
                await _tunnel(client, guest, asked, gate)
                return
            if not await _exchange(guest, server, asked, gate):
                return
    finally:
        server.close()


async def _next(guest: GuestHttp, gate: Gate) -> Asked | None:
    try:
        async with gate.patience():
            return await guest.request()
    except h11.RemoteProtocolError as error:
        with gate.recorded() as record:
            record.protocol = "http"
            await guest.refuse(error.error_status_hint or _BAD_REQUEST, str(error))
            raise
    return None


async def _tunnel(client: Client, guest: GuestHttp, asked: Asked, gate: Gate) -> None:
    with gate.recorded() as record, await _connected(guest, asked, "connect", gate, record) as peer:
        await guest.tunnel()
        await gate.join(client, peer, record)


async def _connected(guest: GuestHttp, asked: Asked, protocol: str, gate: Gate, record: EgressRecord) -> socket.socket:
    """A socket to where the request goes, or an answer that says why not."""
    record.protocol, record.host, record.port = protocol, asked.host, asked.port
    try:
        return await gate.connect(_destination(asked, protocol, gate), record)
    except (OddHost, Refused, Unreachable) as error:
        await _say_why(guest, error, record)
        raise


async def _exchange(guest: GuestHttp, server: _Server, asked: Asked, gate: Gate) -> bool:
    """One plain request and its answer; whether another may follow."""
    with gate.recorded() as record:
        record.protocol, record.host, record.port = "http", asked.host, asked.port
        try:
            peer = await server.reach(_destination(asked, "http", gate), record)
        except (OddHost, Refused, Unreachable) as error:
            await _say_why(guest, error, record)
            raise
        gate.count(record, sent=await peer.ask(asked, record.host))
        async with plain_group() as tasks:
            tasks.start_soon(_send_body, guest, peer, gate, record)
            await _pass_answer(guest, peer, gate, record)
            tasks.cancel_scope.cancel()
        return peer.reusable
    return False


async def _send_body(guest: GuestHttp, peer: PeerHttp, gate: Gate, record: EgressRecord) -> None:
    while (piece := await guest.body()) is not None:
        gate.count(record, sent=await peer.send(h11.Data(data=piece)))
    await peer.send(h11.EndOfMessage())


async def _pass_answer(guest: GuestHttp, peer: PeerHttp, gate: Gate, record: EgressRecord) -> None:
    while True:
        event, count = await peer.event()
        gate.count(record, received=count)
        await guest.pass_on(event)
        if isinstance(event, h11.EndOfMessage):
            return


class _Server:
    """The server of the last plain request, kept for the next one to the same place."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._peer: PeerHttp | None = None
        self._place = ("", 0)

    async def reach(self, destination: Destination, record: EgressRecord) -> PeerHttp:
        """A connection that this very request was decided for. Raises `Refused` or `Unreachable`."""
        place = (destination.host, destination.port)
        if self._peer is not None and self._peer.reusable and self._place == place:
            await self._gate.confirm(destination, record, self._peer.socket)
            return self._peer
        self.close()
        self._peer, self._place = PeerHttp(await self._gate.connect(destination, record)), place
        return self._peer

    def close(self) -> None:
        if self._peer is not None:
            self._peer.socket.close()
            self._peer = None


def _destination(asked: Asked, protocol: str, gate: Gate) -> Destination:
    tunnel = protocol == "connect"
    return Destination(
        host=gate.canonical(asked.host),
        port=asked.port,
        protocol=protocol,
        method=None if tunnel else asked.method,
        path=None if tunnel else asked.path,
    )


async def _say_why(guest: GuestHttp, error: Exception, record: EgressRecord) -> None:
    if isinstance(error, Refused):
        why = f": {record.reason}" if record.reason else ""
        await guest.refuse(_FORBIDDEN, f"blocked by {record.rule}{why}; {_ADVICE}")
    elif isinstance(error, OddHost):
        await guest.refuse(_BAD_REQUEST, str(error))
    else:
        await guest.refuse(_BAD_GATEWAY, str(error))
