"""Serves a guest that speaks HTTP: tunnels, and plain requests one after another."""

from __future__ import annotations

import socket

from gloveport.egress.client import Client
from gloveport.egress.connect import Unreachable
from gloveport.egress.dial import Refused
from gloveport.egress.exchange import Server, exchange, next_request, say_why
from gloveport.egress.gate import Gate, OddHost
from gloveport.egress.http_parts import Asked, GuestHttp
from gloveport.egress.record import Destination, EgressRecord
from gloveport.egress.terminate import serve_inside

__all__ = ["serve_http"]


async def serve_http(client: Client, gate: Gate) -> None:
    """One connection of the guest, to its end. Each request is decided by itself."""
    guest = GuestHttp(client, gate.budget.header_bytes)
    server = Server(gate)
    try:
        while True:
            asked = await next_request(guest, gate, "http")
            if asked is None:
                return
            if asked.method == "CONNECT":
                await _connect(client, guest, asked, gate)
                return
            if not await exchange(client, guest, server, asked, gate):
                return
    finally:
        server.close()


async def _connect(client: Client, guest: GuestHttp, asked: Asked, gate: Gate) -> None:
    """A tunnel, unless the policy looks into it: then its requests are decided, and not the tunnel."""
    try:
        host = gate.canonical(asked.host)
    except OddHost:
        host = asked.host  # the tunnel refuses it, and says so in the record
    termination = gate.inspection.of(host, asked.port)
    if termination is None:
        await _tunnel(client, guest, asked, gate)
        return
    await guest.tunnel()
    await serve_inside(client, host, asked.port, termination, gate)


async def _tunnel(client: Client, guest: GuestHttp, asked: Asked, gate: Gate) -> None:
    with gate.recorded(client) as record, await _connected(guest, asked, gate, record) as peer:
        await guest.tunnel()
        await gate.join(client, peer, record)


async def _connected(guest: GuestHttp, asked: Asked, gate: Gate, record: EgressRecord) -> socket.socket:
    """A socket to where the request goes, or an answer that says why not."""
    record.protocol, record.host, record.port = "connect", asked.host, asked.port
    try:
        destination = Destination(host=gate.canonical(asked.host), port=asked.port, protocol="connect")
        return await gate.connect(destination, record)
    except (OddHost, Refused, Unreachable) as error:
        await say_why(guest, error, record)
        raise
