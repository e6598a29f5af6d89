"""Serves a guest that speaks SOCKS5."""

from __future__ import annotations

from gloveport.egress.client import Client
from gloveport.egress.connect import Unreachable
from gloveport.egress.dial import Refused
from gloveport.egress.gate import Gate, OddHost
from gloveport.egress.record import Destination
from gloveport.egress.socks import Malformed, SocksStatus, reply, take_greeting, take_request
from gloveport.egress.terminate import serve_inside

__all__ = ["serve_socks"]


async def serve_socks(client: Client, gate: Gate) -> None:
    """One connection. What is odd, refused or unreachable is answered in SOCKS5's own words."""
    try:
        with gate.patience(client):
            await client.read(1)
            await client.send(await take_greeting(client.read))
            host, port = await take_request(client.read)
    except Malformed as error:
        await client.send(error.args[0])
        return
    if await _looked_into(client, host, port, gate):
        return
    with gate.recorded(client) as record:
        record.protocol, record.host, record.port = "socks5", host, port
        try:
            destination = Destination(host=gate.canonical(host), port=port, protocol="socks5")
            peer = await gate.connect(destination, record)
        except (OddHost, Refused):
            await client.send(reply(SocksStatus.NOT_ALLOWED))
            raise
        except Unreachable:
            await client.send(reply(SocksStatus.UNREACHABLE))
            raise
        with peer:
            await client.send(reply(SocksStatus.SUCCEEDED))
            await gate.join(client, peer, record)


async def _looked_into(client: Client, host: str, port: int, gate: Gate) -> bool:
    """Serve a tunnel that the policy looks into; whether it was one."""
    try:
        name = gate.canonical(host)
    except OddHost:
        return False
    termination = gate.inspection.of(name, port)
    if termination is None:
        return False
    await client.send(reply(SocksStatus.SUCCEEDED))
    await serve_inside(client, name, port, termination, gate)
    return True
