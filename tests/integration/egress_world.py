"""A proxy with real clients and servers on loopback, and what it asked and told."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import anyio.abc

from gloveport.egress import (
    Answer,
    Budget,
    Destination,
    EgressPlayer,
    EgressRecord,
    EgressTape,
    Gate,
    Judge,
    OddHost,
    serve_egress,
)
from gloveport.egress.record import Address
from gloveport.errors import InvalidRequest
from gloveport.policy.egress.hosts import canonical_host

SECONDS = 60


def canonical(text: str) -> str:
    try:
        return canonical_host(text).name
    except InvalidRequest as error:
        raise OddHost(error.message) from error


@dataclass
class World:
    """A proxy that allows good.test, and what it asked and told."""

    port: int = 0
    budget: Budget = field(default_factory=Budget)
    records: list[EgressRecord] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    methods: frozenset[str] = frozenset({"GET", "POST"})
    bad_addresses: bool = False
    tape: EgressTape | None = None
    player: EgressPlayer | None = None
    make_listener: Callable[[], socket.socket] = socket.socket
    told: anyio.Event = field(default_factory=anyio.Event)

    async def before(self, destination: Destination) -> Answer:
        allowed = destination.host == "good.test" and (destination.method or "GET") in self.methods
        return Answer(allowed=allowed, rule="rule 7", reason="" if allowed else "nobody may")

    def after(self, _: Destination, addresses: Sequence[Address]) -> Answer:
        return Answer(allowed=bool(addresses) and not self.bad_addresses, rule="rule 8")

    async def resolve(self, name: str) -> Sequence[Address]:
        self.resolved.append(name)
        return [ipaddress.ip_address("127.0.0.1")]

    def tell(self, record: EgressRecord) -> None:
        self.records.append(record)
        self.told.set()

    async def record(self) -> EgressRecord:
        """The only one, once it is there."""
        with anyio.fail_after(SECONDS):
            await self.told.wait()
        (record,) = self.records
        return record

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[World]:
        with self.make_listener() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(4096)
            self.port = listener.getsockname()[1]
            gate = Gate(
                sandbox="s",
                judge=Judge(before=self.before, after=self.after),
                canonical=canonical,
                resolve=self.resolve,
                tell=self.tell,
                budget=self.budget,
                tape=self.tape,
                player=self.player,
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve_egress, listener, gate)
                yield self
                tasks.cancel_scope.cancel()

    async def curl(self, *arguments: str, socks: bool = False) -> subprocess.CompletedProcess[bytes]:
        way = ["--socks5-hostname", f"127.0.0.1:{self.port}"] if socks else ["--proxy", f"http://127.0.0.1:{self.port}"]
        command = ["curl", "--silent", "--show-error", "--max-time", str(SECONDS), *way, *arguments]
        return await anyio.run_process(command, check=False)

    async def say(self, data: bytes, *, end: bool = True) -> bytes:
        """What the proxy answers to raw bytes, until it ends the connection."""
        with anyio.fail_after(SECONDS):
            async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
                await stream.send(data)
                if end:
                    await stream.send_eof()
                heard = b""
                try:
                    async for part in stream:
                        heard += part
                except anyio.BrokenResourceError:
                    pass
                return heard


async def tunnel(world: World, port: int) -> anyio.abc.SocketStream:
    stream = await anyio.connect_tcp("127.0.0.1", world.port)
    await stream.send(f"CONNECT good.test:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
    return stream


async def wait(stream: anyio.abc.SocketStream) -> None:
    """A server that says nothing."""
    async with stream:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await stream.receive()


async def ended(stream: anyio.abc.SocketStream) -> None:
    """Return once the other end has closed the connection."""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            await stream.receive()


@asynccontextmanager
async def peer(serve: Callable[[anyio.abc.SocketStream], object]) -> AsyncIterator[int]:
    """A server that does with each connection what it is told."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()
