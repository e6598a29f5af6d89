"""Bodies that are held until they are signed: whole, hashed, and bounded for a sandbox."""

from __future__ import annotations

import hashlib
import socket
from contextlib import ExitStack

import anyio
import pytest

from gloveport.egress.client import Client
from gloveport.egress.dial import Refused
from gloveport.egress.http_parts import GuestHttp, split_origin
from gloveport.egress.record import EgressRecord
from gloveport.egress.relay import Idle
from gloveport.egress.sigv4 import Held, Room

pytestmark = pytest.mark.anyio
MIB = 2**20


async def fill(room: Room, held: Held, record: EgressRecord, *, sent: int, said: int, idle: float = 60) -> None:
    """One request with a body of `said` bytes, of which `sent` come."""
    ours, theirs = socket.socketpair()
    with anyio.CancelScope() as scope, ours, theirs:
        guest = GuestHttp(Client(ours, scope), 65536, split_origin)
        theirs.sendall(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % said)
        theirs.setblocking(False)
        assert await guest.request() is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, theirs, bytes(sent))
            try:
                with anyio.fail_after(60):
                    await room.fill(held, guest, record, idle)
            finally:
                tasks.cancel_scope.cancel()


async def send(sock: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        await anyio.wait_writable(sock)
        rest = rest[sock.send(rest) :]


async def refused(room: Room, *, said: int) -> str:
    record = EgressRecord(sandbox="x", started_at=0.0, allowed=True)
    with room.part() as held, pytest.raises(BaseExceptionGroup) as caught:
        await fill(room, held, record, sent=said, said=said)
    assert caught.group_contains(Refused)
    assert (record.allowed, record.rule) == (False, "built-in: signatures for AWS")
    return record.reason


async def test_a_body_is_held_whole_and_given_once_with_its_hash() -> None:
    room = Room()
    with room.part() as held:
        await fill(room, held, EgressRecord(sandbox="x", started_at=0.0), sent=3 * MIB, said=3 * MIB)
        assert held.digest == hashlib.sha256(bytes(3 * MIB)).hexdigest()
        given = b""
        while (piece := await held.body()) is not None:
            given += piece
        assert (given, held.ends()) == (bytes(3 * MIB), True)


async def test_bodies_of_one_sandbox_are_bounded_one_by_one_and_together_and_their_room_is_given_back() -> None:
    room = Room()
    assert "larger than 16 MiB" in await refused(room, said=16 * MIB + 1)
    for _ in range(2):
        with ExitStack() as stack:
            for _ in range(4):
                record = EgressRecord(sandbox="x", started_at=0.0)
                await fill(room, stack.enter_context(room.part()), record, sent=16 * MIB, said=16 * MIB)
            assert "larger than 64 MiB together" in await refused(room, said=1)


async def test_a_guest_that_stops_in_the_middle_of_a_body_is_not_waited_for() -> None:
    room = Room()
    with room.part() as held, pytest.raises(BaseExceptionGroup) as caught:
        await fill(room, held, EgressRecord(sandbox="x", started_at=0.0), sent=10, said=20, idle=0.05)
    assert caught.group_contains(Idle)
