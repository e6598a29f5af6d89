"""Serves a guest that speaks SOCKS5."""

from __future__ import annotations

from gloveport.egress.client import Client
from gloveport.egress.dial import Refused, Unreachable
from gloveport.egress.gate import Gate, OddHost
from gloveport.egress.record import Destination
from gloveport.egress.socks import Malformed, SocksStatus, reply, take_greeting, take_request

__all__ = ["serve_socks"]


async def serve_socks(client: Client, gate: Gate) -> None:
    """One connection. What is odd, refused or unreachable is answered in SOCKS5's own words."""
    try:
        async with gate.patience():
            await client.read(1)
            await client.send(await take_greeting(client.read))
            host, port = await take_request(client.read)
    except Malformed as error:
        await client.send(error.args[0])
        return
    with gate.recorded() as record:
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
