"""One HTTP request and its answer between guest and server: decided, injected, passed on piece by piece, recorded."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import TypeVar

import h11

from gloveport.egress.client import Client
from gloveport.egress.connect import Unreachable
from gloveport.egress.dial import Refused
from gloveport.egress.gate import Gate, OddHost
from gloveport.egress.http_parts import Asked, GuestHttp, PeerHttp
from gloveport.egress.inject import Mask
from gloveport.egress.ready import Late
from gloveport.egress.record import Destination, EgressRecord
from gloveport.egress.relay import Idle
from gloveport.egress.sigv4 import Body
from gloveport.egress.tape import EgressPlayer, PassingAnswer, TapedRequest
from gloveport.egress.tasks import plain_group
from gloveport.egress.tls import open_tls

__all__ = ["Server", "exchange", "next_request", "say_why"]

_BAD_REQUEST, _FORBIDDEN, _BAD_GATEWAY = 400, 403, 502
_SWITCHING = 101
_LINGER = 0.2
"""Seconds that what may be the beginning of a secret waits for the rest of it."""
_Taken = TypeVar("_Taken")
_END = h11.EndOfMessage()
_ADVICE = "ask your operator to allow it; another way out does not exist"
_ENCODINGS = (b"accept-encoding", b"sec-websocket-extensions")
"""Headers by which a client allows answers that cannot be searched for a secret."""


async def next_request(guest: GuestHttp, gate: Gate, protocol: str) -> Asked | None:
    """What the guest asks next; `None` when it is done, or was told that it makes no sense."""
    try:
        with gate.patience(guest.client):
            return await guest.request()
    except h11.RemoteProtocolError as error:
        with gate.recorded(guest.client) as record:
            record.protocol = protocol
            await guest.refuse(error.error_status_hint or _BAD_REQUEST, str(error))
            raise
    return None


async def exchange(client: Client, guest: GuestHttp, server: Server, asked: Asked, gate: Gate) -> bool:
    """Carry out one request; whether another may follow."""
    with gate.recorded(client) as record:
        record.protocol, record.host, record.port = server.protocol, asked.host, asked.port
        try:
            destination = Destination(
                host=gate.canonical(asked.host),
                port=asked.port,
                protocol=server.protocol,
                method=asked.method,
                path=asked.path,
            )
            gate.screen(asked, destination, record)
            if gate.player is not None:
                return await _play(guest, destination, gate, gate.player, record)
            peer = await server.reach(destination, record)
        except (OddHost, Refused, Unreachable) as error:
            await say_why(guest, error, record)
            raise
        with nullcontext() if gate.tape is None else gate.tape.answer() as kept:
            answer = _Answer(guest, peer, gate, record, kept)
            try:
                async with gate.inspection.injector.body(guest, destination, record, gate.budget.idle_seconds) as body:
                    gate.count(record, sent=await peer.ask(answer.prepare(asked, destination, body), destination.host))
                    is_switched = await _pass_both(body, peer, answer, gate, record)
            except (Refused, Unreachable) as error:
                await say_why(guest, error, record)
                raise
            if kept is not None and not is_switched:
                kept.end(destination)
        if is_switched:
            await _carry_on(client, guest, peer, answer)
            return False
        return peer.is_done
    return False


async def _play(
    guest: GuestHttp, destination: Destination, gate: Gate, player: EgressPlayer, record: EgressRecord
) -> bool:
    """Answer from the tape; whether another request may follow. Raises `Refused` or `Unreachable`."""
    await gate.allow(destination, record)
    asked = hashlib.sha256()
    if not guest.ends():
        while (piece := await guest.body()) is not None:
            gate.count(record, sent=len(piece))
            asked.update(piece)
    answer = player.take(TapedRequest.of(destination, asked.hexdigest()))
    if answer is None:
        raise Unreachable("the recording has no answer to this request")
    for event in answer.events():
        guest.pass_on(event)
    gate.count(record, received=len(answer.body))
    await guest.flush()
    return True


async def say_why(guest: GuestHttp, error: Exception, record: EgressRecord) -> None:
    """Tell the guest, in HTTP, why nothing comes of its request."""
    if isinstance(error, Refused):
        why = f": {record.reason}" if record.reason else ""
        await guest.refuse(_FORBIDDEN, f"blocked by {record.rule}{why}; {_ADVICE}")
    elif isinstance(error, OddHost):
        await guest.refuse(_BAD_REQUEST, str(error))
    else:
        await guest.refuse(_BAD_GATEWAY, str(error))


class Server:
    """The server of the last request, kept for the next one to the same place. `protocol` is `http` or `https`."""

    def __init__(self, gate: Gate, protocol: str = "http") -> None:
        self.protocol = protocol
        self._gate = gate
        self._peer: PeerHttp | None = None
        self._place = ("", 0)
        self._way = ("", "")

    async def reach(self, destination: Destination, record: EgressRecord) -> PeerHttp:
        """A connection that this very request was decided for. Raises `Refused` or `Unreachable`."""
        place = (destination.host, destination.port)
        if self._peer is not None and self._place == place and self._peer.reusable:
            await self._gate.confirm(destination, record, self._way)
            return self._peer
        self.close()
        peer = await self._gate.connect(destination, record)
        try:
            self._peer, self._place = await self._speak(peer, destination), place
            self._way = record.address, record.parent
        except BaseException:
            peer.close()
            raise
        return self._peer

    async def _speak(self, peer: socket.socket, destination: Destination) -> PeerHttp:
        if self.protocol == "http":
            return PeerHttp(peer)
        termination = self._gate.inspection.of(destination.host, destination.port)
        if termination is None:
            raise Unreachable(f"TLS to {destination.host} is not terminated")
        seconds = self._gate.budget.dial_seconds
        return PeerHttp(peer, await open_tls(peer, destination.host, termination.upstream, seconds))

    def close(self) -> None:
        """Let go of it."""
        if self._peer is not None:
            self._peer.socket.close()
            self._peer = None


class _Answer:
    """A server's answer on its way to the guest, without the secrets that went the other way."""

    def __init__(
        self, guest: GuestHttp, peer: PeerHttp, gate: Gate, record: EgressRecord, kept: PassingAnswer | None
    ) -> None:
        self._guest = guest
        self._peer = peer
        self._gate = gate
        self._record = record
        self._is_searched = False
        self._mask = Mask(())
        self.kept = kept
        """Where it is taped; `None` where it is not."""

    def prepare(self, asked: Asked, destination: Destination, body: Body) -> Asked:
        """The request as the server gets it, with the secrets of this host; never where others could read it."""
        injector = self._gate.inspection.injector
        if destination.protocol != "https" or not injector.binds(destination.host):
            return asked
        self._is_searched, self._mask = True, injector.mask(destination.host)
        path, headers = injector.inject(destination.host, asked, body)
        kept = [(name, value) for name, value in headers if name.lower() not in _ENCODINGS]
        return replace(asked, path=path, headers=[*kept, (b"Accept-Encoding", b"identity")])

    async def pass_on(self) -> bool:
        """All of it; whether the connection has switched to another protocol."""
        while True:
            event = self._peer.event()
            if event is None:
                await self._guest.flush()
                self._gate.count(self._record, received=await self._patient(self._peer.hear, self._give))
            elif isinstance(event, h11.Response | h11.InformationalResponse):
                self._check(event)
                self._pass(self._masked(event))
                if event.status_code == _SWITCHING:
                    break
            elif isinstance(event, h11.Data):
                await self._give(self._mask.feed(bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                self._write(self._mask.end())
                self._pass(_END)
                break
        await self._guest.flush()
        return not isinstance(event, h11.EndOfMessage)

    async def _patient(
        self, take: Callable[[float], Awaitable[_Taken]], give: Callable[[bytes], Awaitable[None]]
    ) -> _Taken:
        """What the server says next. While it is silent nothing is held back for long. Raises `Idle`."""
        while True:
            sent = self._record.sent
            try:
                return await take(time.monotonic() + (_LINGER if self._mask.holds else self._gate.budget.idle_seconds))
            except Late:
                if self._mask.holds:
                    await give(self._mask.end())
                elif self._record.sent == sent:
                    raise Idle from None

    async def _give(self, data: bytes) -> None:
        self._write(data)
        await self._guest.flush()

    def _write(self, data: bytes) -> None:
        if data:
            self._pass(h11.Data(data=data))

    def _pass(self, event: h11.Event) -> None:
        self._guest.pass_on(event)
        if self.kept is not None:
            self.kept.take(event)

    def _check(self, head: h11.Response | h11.InformationalResponse) -> None:
        """Raise `Unreachable` for an answer that hides what it says from the mask."""
        encodings = {value.strip().lower() for name, value in head.headers if name == b"content-encoding"}
        if self._is_searched and encodings - {b"identity", b""}:
            raise Unreachable("the server encoded its answer, in which its secret could not be found")

    def _masked(self, head: h11.Response | h11.InformationalResponse) -> h11.Response | h11.InformationalResponse:
        if not self._is_searched:
            return head
        headers = [(name, self._mask.whole(value)) for name, value in head.headers.raw_items()]
        return type(head)(status_code=head.status_code, headers=headers, reason=self._mask.whole(bytes(head.reason)))

    async def relay(self, client: Client, ahead: bytes) -> None:
        """Bytes both ways until either side ends, or nothing moves for too long. Raises `Idle`."""
        wire = self._peer.wire

        async def to_server() -> None:
            while data := await client.some():
                self._gate.count(self._record, sent=len(data))
                await wire.send(data)
            tasks.cancel_scope.cancel()

        async with plain_group() as tasks:
            tasks.start_soon(to_server)
            data = ahead or await self._patient(wire.receive, client.send)
            while data:
                self._gate.count(self._record, received=len(data))
                await client.send(self._mask.feed(data))
                data = await self._patient(wire.receive, client.send)
            await client.send(self._mask.end())
            tasks.cancel_scope.cancel()


async def _pass_both(guest: Body, peer: PeerHttp, answer: _Answer, gate: Gate, record: EgressRecord) -> bool:
    """A request's body, and the answer that may come before its end; whether the protocol was switched."""
    if guest.ends():
        await peer.send(_END)
        return await answer.pass_on()
    async with plain_group() as tasks:
        tasks.start_soon(_send_body, guest, peer, answer, gate, record)
        is_switched = await answer.pass_on()
        tasks.cancel_scope.cancel()
    return is_switched


async def _send_body(guest: Body, peer: PeerHttp, answer: _Answer, gate: Gate, record: EgressRecord) -> None:
    while (piece := await guest.body()) is not None:
        if answer.kept is not None:
            answer.kept.ask(piece)
        gate.count(record, sent=await peer.send(h11.Data(data=piece)))
    await peer.send(_END)


async def _carry_on(client: Client, guest: GuestHttp, peer: PeerHttp, answer: _Answer) -> None:
    """What comes after a switch of protocols: a WebSocket's frames."""
    guest.release()
    await answer.relay(client, peer.release())
