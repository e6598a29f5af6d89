"""The host's end of the guestd protocol, with a test at the guest's end of a real socket."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gloveport.errors import BackendUnavailable, InvalidRequest
from gloveport.guest.channel import Channel, GuestProcess
from gloveport.guest.wire import MAX_STRINGS, Start, encode_input, encode_signal
from gloveport.model import Exit

pytestmark = pytest.mark.anyio

PATIENCE = 20
HELLO, STARTED, STDOUT, ENDED, PONG = 64, 65, 66, 69, 70
TIMED_OUT, OUT_OF_MEMORY = 2, 1


@dataclass
class Guest:
    """What guestd would say, and what it is told."""

    control: socket.socket
    host: socket.socket
    """The channel's end."""

    def say(self, kind: int, stream: int, payload: bytes) -> None:
        self.control.sendall(struct.pack("<IBI", len(payload), kind, stream) + payload)

    def started(self, stream: int) -> None:
        self.say(STARTED, stream, struct.pack("<I", 40 + stream))

    def ended(self, stream: int, code: int = 0, *, signalled: bool = False, flags: int = 0) -> None:
        self.say(ENDED, stream, struct.pack("<BBHiQQ", signalled, flags, 0, code, 0, 0))

    async def frames(self, size: int) -> bytes:
        """The next bytes from the host."""
        data = b""
        self.control.setblocking(False)
        while len(data) < size:
            await anyio.wait_readable(self.control)
            data += self.control.recv(size - len(data))
        self.control.setblocking(True)
        return data

    async def frame(self) -> tuple[int, int, bytes]:
        """Kind, stream and payload of the host's next frame."""
        length, kind, stream = struct.unpack("<IBI", await self.frames(9))
        return kind, stream, await self.frames(length)


class Kills:
    """A control group's counter."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        return self.count


@pytest.fixture
def kills() -> Kills:
    return Kills()


@pytest.fixture
def guest() -> Iterator[Guest]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    yield Guest(ours, theirs)
    ours.close()
    theirs.close()


@pytest.fixture
async def channel(guest: Guest, kills: Kills) -> AsyncIterator[Channel]:
    channel = Channel(guest.host, kills)
    guest.say(HELLO, 0, struct.pack("<HH", 1, 0))
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run)
            await channel.ready()
            yield channel
            tasks.cancel_scope.cancel()


def start_of(*argv: bytes, env: tuple[bytes, ...] = ()) -> Start:
    return Start(argv=argv or (b"true",), cwd=b"/", env=env, credit=1000, keep=1000)


async def begin(channel: Channel, guest: Guest, stream: int) -> GuestProcess:
    process: list[GuestProcess] = []

    async def start() -> None:
        process.append(await channel.start(start_of()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        assert (await guest.frame())[:2] == (1, stream)
        guest.started(stream)
    return process[0]


async def test_who_asks_is_answered_in_turn_also_when_one_before_went_away(channel: Channel, guest: Guest) -> None:
    answered: list[str] = []

    async def ask(name: str) -> None:
        await channel.heard()
        answered.append(name)

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as first:
                first.start_soon(ask, "went away")
                assert await guest.frame() == (8, 0, b"")
                scope.cancel()
        for name in ("one", "other"):
            tasks.start_soon(ask, name)
            assert await guest.frame() == (8, 0, b"")
        guest.say(PONG, 0, b"")
        guest.say(PONG, 0, b"")
        while not answered:
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert answered == ["one"]
        guest.say(PONG, 0, b"")
    assert answered == ["one", "other"]


async def test_an_answer_that_nobody_asked_for_ends_the_channel(channel: Channel, guest: Guest) -> None:
    guest.say(PONG, 0, b"")
    await channel.ended()
    assert "nobody asked" in str(channel.lost)


async def test_who_waits_for_an_answer_hears_of_the_end(channel: Channel, guest: Guest) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_refused, channel)
        assert (await guest.frame())[0] == 8
        guest.control.shutdown(socket.SHUT_RDWR)


async def _refused(channel: Channel) -> None:
    with pytest.raises(BackendUnavailable, match="gone"):
        await channel.heard()


LARGE = encode_input(1, b"x" * 1_000_000)


@pytest.mark.parametrize("others", [0, 3])
async def test_a_frame_of_a_cancelled_sender_is_finished(channel: Channel, guest: Guest, others: int) -> None:
    last = encode_signal(9, 9, tree=True)
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as senders:
                for _ in range(1 + others):
                    senders.start_soon(channel.send, LARGE)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                tasks.start_soon(channel.send, last)
                senders.start_soon(_take, guest, LARGE * (1 + others) + last)


async def _take(guest: Guest, expected: bytes) -> None:
    with anyio.CancelScope(shield=True):
        assert await guest.frames(len(expected)) == expected


async def send_large(channel: Channel, refused: list[BackendUnavailable]) -> None:
    try:
        await channel.send(LARGE)
    except BackendUnavailable as error:
        refused.append(error)


async def test_a_violation_wakes_a_blocked_sender(channel: Channel, guest: Guest) -> None:
    refused: list[BackendUnavailable] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(send_large, channel, refused)
        await anyio.wait_all_tasks_blocked()
        guest.say(99, 7, b"")
    assert len(refused) == 3
    assert channel.lost is not None


@pytest.mark.parametrize(
    "start",
    [start_of(*[b"x"] * (MAX_STRINGS + 1)), start_of(env=(b"A=\0",)), start_of(b"\0"), start_of(b"x" * 3_000_000)],
    ids=["too many arguments", "NUL in a variable", "NUL in an argument", "too long"],
)
async def test_what_cannot_be_encoded_is_refused_at_once_and_leaves_nothing(
    channel: Channel, guest: Guest, start: Start
) -> None:
    with pytest.raises(InvalidRequest):
        await channel.start(start)
    assert channel.processes == ()
    process = await begin(channel, guest, 1)
    guest.ended(1)
    assert (await process.wait()).ok


async def test_a_cancellation_stays_one_when_the_channel_goes_during_the_kill(channel: Channel, guest: Guest) -> None:
    process = await begin(channel, guest, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_large, channel, [])
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            tasks.start_soon(hang_up_later, guest)
            scope.cancel()
            await process.wait()
    assert scope.cancelled_caught


async def hang_up_later(guest: Guest) -> None:
    await anyio.wait_all_tasks_blocked()
    guest.control.close()


async def ended(
    channel: Channel, guest: Guest, kills: Kills, code: int, *, signalled: bool = False, flags: int = 0
) -> Exit:
    """How the first process ends, during which the kernel killed once."""
    process = await begin(channel, guest, 1)
    kills.count += 1
    guest.ended(1, code, signalled=signalled, flags=flags)
    return await process.wait()


@pytest.mark.parametrize(
    ("code", "facts", "oom"),
    [
        (9, {"signalled": True}, True),
        (137, {}, True),
        (0, {}, False),
        (1, {}, False),
        (2, {}, False),
        (9, {}, False),
        (15, {"signalled": True}, False),
        (9, {"signalled": True, "flags": TIMED_OUT}, False),
        (0, {"flags": OUT_OF_MEMORY}, True),
    ],
)
async def test_out_of_memory_is_what_died_of_a_kill_while_the_kernel_killed(
    channel: Channel, guest: Guest, kills: Kills, code: int, facts: dict[str, Any], oom: bool
) -> None:
    assert (await ended(channel, guest, kills, code, **facts)).oom is oom


async def test_a_kill_during_one_command_is_no_other_commands(channel: Channel, guest: Guest, kills: Kills) -> None:
    assert not (await ended(channel, guest, kills, 0)).oom
    process = await begin(channel, guest, 2)
    guest.ended(2, 137)
    assert not (await process.wait()).oom


async def test_a_kill_by_the_host_is_not_the_kernels(channel: Channel, guest: Guest, kills: Kills) -> None:
    process = await begin(channel, guest, 1)
    kills.count += 1
    await process.signal(signal.SIGKILL)
    guest.ended(1, 9, signalled=True)
    assert not (await process.wait()).oom


async def test_a_failed_command_takes_no_kill_from_another(channel: Channel, guest: Guest, kills: Kills) -> None:
    process = await begin(channel, guest, 1)
    kills.count += 1
    other = await begin(channel, guest, 2)
    guest.ended(2, 1)
    assert not (await other.wait()).oom
    guest.ended(1, 9, signalled=True)
    assert (await process.wait()).oom
