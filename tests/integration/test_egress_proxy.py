"""The egress proxy with real clients and servers on loopback: what passes, what is refused, and what is recorded."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress

import anyio
import anyio.abc
import pytest

from gloveport.egress import Budget
from gloveport.egress.record import Address

from .egress_world import SECONDS, World, ended, peer, tunnel, wait

pytestmark = pytest.mark.anyio


WAYS = [("http", False, ()), ("connect", False, ("--proxytunnel",)), ("socks5", True, ())]


@pytest.mark.parametrize(("protocol", "socks", "options"), WAYS)
async def test_an_allowed_host_is_reached_and_recorded(
    port: int, protocol: str, socks: bool, options: tuple[str, ...]
) -> None:
    async with World().serve() as world:
        done = await world.curl(*options, f"http://GOOD.test.:{port}/a?b=c", socks=socks)
        record = await world.record()
    assert done.stdout.startswith(b"reached GET /a?b=c\n"), done
    assert (record.protocol, record.host, record.port, record.address) == (protocol, "good.test", port, "127.0.0.1")
    assert (record.allowed, record.rule, record.error) == (True, "rule 8", "")
    assert record.sent > 50
    assert record.received > len(done.stdout)
    assert world.resolved == ["good.test"]


@pytest.mark.parametrize(("protocol", "socks", "options"), WAYS)
async def test_a_refused_host_is_never_resolved_and_the_rule_is_told(
    port: int, protocol: str, socks: bool, options: tuple[str, ...]
) -> None:
    async with World().serve() as world:
        done = await world.curl(*options, "--include", f"http://evil.test:{port}/", socks=socks)
        record = await world.record()
    assert world.resolved == []
    assert (record.protocol, record.host, record.allowed, record.rule) == (protocol, "evil.test", False, "rule 7")
    assert (record.reason, record.address, record.received) == ("nobody may", "", 0)
    if protocol != "socks5":
        assert b"403 blocked by rule 7: nobody may; ask your operator" in done.stdout


@pytest.mark.parametrize(("protocol", "socks", "options"), WAYS)
async def test_an_address_that_is_refused_is_not_dialled(
    port: int, protocol: str, socks: bool, options: tuple[str, ...]
) -> None:
    async with World(bad_addresses=True).serve() as world:
        await world.curl(*options, f"http://good.test:{port}/", socks=socks)
        record = await world.record()
    assert (record.protocol, record.allowed, record.rule, record.address) == (protocol, False, "rule 8", "")


async def test_each_request_on_one_connection_is_decided_by_itself(port: int) -> None:
    async with World(methods=frozenset({"GET"})).serve() as world:
        one = f"http://good.test:{port}"
        asked = [f"GET {one}/1", f"GET {one}/2", f"POST {one}/3"]
        heard = await world.say("".join(f"{line} HTTP/1.1\r\nHost: x\r\n\r\n" for line in asked).encode())
    assert [part.split(b"\r\n")[0] for part in heard.split(b"HTTP/1.1 ")[1:]] == [
        b"200 OK",
        b"200 OK",
        b"403 blocked by rule 7: nobody may; ask your operator to allow it; another way out does not exist",
    ]
    assert [(record.method, record.path, record.allowed) for record in world.records] == [
        ("GET", "/1", True),
        ("GET", "/2", True),
        ("POST", "/3", False),
    ]


async def test_what_a_server_says_unasked_is_no_answer_to_the_next_request() -> None:
    async def answer_twice(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
                answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body for body in (b"asked", b"extra")]
                await stream.send(b"".join(answers))
                await stream.receive()

    async with World().serve() as world, peer(answer_twice) as port:
        asked = f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        heard = await world.say(asked * 2)
    assert (heard.count(b"asked"), heard.count(b"extra")) == (2, 0)


async def test_the_host_that_was_decided_is_the_one_that_the_server_hears(port: int) -> None:
    request = f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: evil.test\r\nProxy-Authorization: secret\r\n"
    async with World().serve() as world:
        heard = await world.say(f"{request}Connection: close, X-Gone\r\nX-Gone: 1\r\nX-Kept: 2\r\n\r\n".encode())
    assert f"Host: good.test:{port}\n".encode() in heard
    assert b"X-Kept: 2" in heard
    assert not [word for word in (b"evil", b"secret", b"X-Gone") if word in heard]


async def test_a_body_of_two_lengths_reaches_the_server_as_one(port: int) -> None:
    head = f"POST http://good.test:{port}/ HTTP/1.1\r\nHost: good.test\r\n"
    both = (
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
    )
    async with World().serve() as world:
        heard = await world.say((head + both).encode())
    assert b"smuggled" not in heard
    first, _, second = heard.partition(b"HTTP/1.1 400")  # what followed was a request of its own, and no good one
    assert second
    body = first.partition(b"\r\n\r\n")[2].lower()
    assert (b"transfer-encoding: chunked" in body, b"content-length" in body) == (True, False)
    assert heard.count(b"200 OK") == 1


ODD = [
    b"CONNECT good.test HTTP/1.1\r\n\r\n",
    b"CONNECT good.test:0 HTTP/1.1\r\n\r\n",
    b"CONNECT good.test:99999 HTTP/1.1\r\n\r\n",
    b"CONNECT user@good.test:80 HTTP/1.1\r\n\r\n",
    b"CONNECT good.test:80/path HTTP/1.1\r\n\r\n",
    b"CONNECT good.test:80 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"CONNECT 127.1:80 HTTP/1.1\r\n\r\n",
    b"CONNECT [::ffff:127.0.0.1%25lo]:80 HTTP/1.1\r\n\r\n",
    b"CONNECT good.test\x00.evil.test:80 HTTP/1.1\r\n\r\n",
    b"CONNECT \xff\xfe:80 HTTP/1.1\r\n\r\n",
    b"CONNECT " + b"a" * 300 + b".test:80 HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n",
    b"GET https://good.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n",
    b"GET http://u:p@good.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n",
    b"GET http:///x HTTP/1.1\r\nHost: good.test\r\n\r\n",
    b"\x00\x01\x02\r\n\r\n",
    b"GET http://good.test/ HTTP/1.1\r\nA: " + b"x" * 2**20 + b"\r\n\r\n",
    b"SSH-2.0-x\r\n",
]


@pytest.mark.parametrize("data", ODD, ids=range(len(ODD)))
async def test_what_is_no_plain_request_is_refused_and_nothing_is_resolved(data: bytes) -> None:
    async with World().serve() as world:
        heard = await world.say(data)
    assert heard == b"" or heard.split(b" ")[1] in (b"400", b"403", b"431")
    assert world.resolved == []
    assert not any(record.allowed for record in world.records)


def socks(host: bytes, kind: int = 3, command: int = 1) -> bytes:
    named = bytes((len(host),)) + host if kind == 3 else host
    return b"\x05\x01\x00\x05" + bytes((command, 0, kind)) + named + b"\x00\x50"


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (socks(b"good.test\x00.evil.test"), b"\x05\x02"),
        (socks(b"127.1"), b"\x05\x02"),
        (socks(b"2130706433"), b"\x05\x02"),
        (socks("g\u00f6od.test".encode()), b"\x05\x02"),
        (socks(b""), b"\x05\x02"),
        (socks(b"evil.test"), b"\x05\x02"),
        (socks(b"\x7f\x00\x00\x01", kind=1), b"\x05\x02"),
        (socks(bytes(15) + b"\x01", kind=4), b"\x05\x02"),
        (socks(b"good.test", command=2), b"\x05\x07"),
        (socks(b"good.test", command=3), b"\x05\x07"),
        (b"\x05\x01\x00\x05\x01\x00\x09", b"\x05\x08"),
        (b"\x05\x01\x02", b""),
        (b"\x05\x00", b""),
        (b"\x05\x01\x00\x04\x01\x00\x03", b""),
        (b"\x05", b""),
        (b"\x05\x01\x00\x05\x01", b""),
    ],
)
async def test_socks_is_judged_by_the_same_rule_and_refuses_in_its_own_words(data: bytes, answer: bytes) -> None:
    async with World().serve() as world:
        heard = await world.say(data)
    greeted = heard.removeprefix(b"\x05\x00")
    assert greeted[:2] == answer or heard in (b"\x05\xff", b"")
    assert world.resolved == []
    assert not any(record.allowed for record in world.records)


async def test_a_client_that_says_nothing_whole_is_let_go() -> None:
    async with World(budget=Budget(header_seconds=0.2)).serve() as world:
        assert await world.say(b"GET http://good.te", end=False) == b""
        assert await world.say(b"\x05\x01", end=False) == b""
        assert await world.say(b"", end=False) == b""


async def test_a_name_that_is_never_answered_is_a_bad_gateway(port: int) -> None:
    class Silent(World):
        async def resolve(self, name: str) -> Sequence[Address]:
            await anyio.sleep_forever()
            return []

    async with Silent(budget=Budget(dial_seconds=0.2)).serve() as world:
        done = await world.curl("--include", f"http://good.test:{port}/")
        record = await world.record()
    assert b"502 the name good.test was not resolved within 0.2 s" in done.stdout
    assert record.error == "the name good.test was not resolved within 0.2 s"


async def test_a_port_where_nobody_listens_is_a_bad_gateway() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with World().serve() as world:
            done = await world.curl("--include", f"http://good.test:{unused.getsockname()[1]}/")
            record = await world.record()
    assert b"502 " in done.stdout
    assert "Connection refused" in record.error
    assert (record.allowed, record.address) == (True, "")


async def test_each_direction_of_a_tunnel_ends_by_itself() -> None:
    async def count(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            size = 0
            async for part in stream:
                size += len(part)
            await stream.send(str(size).encode())

    async with peer(count) as port, World().serve() as world:
        with anyio.fail_after(SECONDS):
            async with await tunnel(world, port) as stream:
                await stream.send(bytes(3_000_000))
                await stream.send_eof()
                assert b"".join([part async for part in stream]) == b"3000000"
            record = await world.record()
    assert (record.sent, record.received, record.error) == (3_000_000, 7, "")


async def test_a_tunnel_over_its_bytes_or_its_patience_is_ended_and_told() -> None:
    async def flood(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(bytes(65_536))

    async with peer(flood) as port, World(budget=Budget(total_bytes=1_000_000)).serve() as world:
        with anyio.fail_after(SECONDS):
            async with await tunnel(world, port) as stream:
                await ended(stream)
            assert (await world.record()).error == "more than 1000000 bytes in all"
    async with peer(wait) as port, World(budget=Budget(idle_seconds=0.2)).serve() as world:
        with anyio.fail_after(SECONDS):
            async with await tunnel(world, port) as stream:
                await ended(stream)
            assert (await world.record()).error == "idle for 0.2 s"


async def test_more_connections_than_there_is_room_for_wait_for_their_turn_and_all_get_it(port: int) -> None:
    async with World(budget=Budget(connections=50)).serve() as world:
        heard: list[bytes] = []

        async def ask() -> None:
            request = f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            heard.append(await world.say(request.encode(), end=False))

        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for _ in range(400):
                    tasks.start_soon(ask)
    assert sum(b"200 OK" in said for said in heard) == 400


async def test_the_end_of_the_proxy_is_the_end_of_every_connection(port: int) -> None:
    async with peer(wait) as port:
        async with World().serve() as world:
            stream = await tunnel(world, port)
        with anyio.fail_after(SECONDS), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        await stream.aclose()
