"""What guests fetched over HTTP, kept and served again: the recorded answer to the recorded request, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import h11
import pytest

from gloveport.egress import Destination, EgressTape, TapeOfEgress
from gloveport.egress.authority import Authority
from gloveport.errors import InvalidRequest, NotFound
from gloveport.model import ExecResult, Spec
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.sandbox.egress import MakeGate, playing, taping
from gloveport.settings import Settings

from .conftest import serving
from .egress_world import World, peer
from .test_termination import HEADER, SECRET, policy

pytestmark = pytest.mark.anyio

CHUNKED = (
    b"HTTP/1.1 203 Somewhat\r\nTransfer-Encoding: chunked\r\nX-Odd: caf\xe9\r\n"
    b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"
    b"3\r\none\r\n4\r\n two\r\n0\r\n\r\n"
)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[int]:
    """A server that gives each connection the next answer."""
    left = list(answers)

    async def serve(stream) -> None:
        async with stream:
            while b"\r\n\r\n" not in await stream.receive():
                pass
            await stream.send(left.pop(0))

    async with peer(serve) as port:
        yield port


def url(port: int, path: str = "/") -> str:
    return f"http://good.test:{port}{path}"


async def test_an_answer_is_played_to_the_byte_and_nothing_is_resolved_or_dialled(place: Path) -> None:
    async with answering(CHUNKED) as port, World(tape=EgressTape(place / "t")).serve() as world:
        first = await world.curl("-i", url(port))
    assert b"one two" in first.stdout
    async with World(player=TapeOfEgress.read(place / "t").player()).serve() as again:
        second = await again.curl("-i", url(port))
        assert second.stdout == first.stdout
        assert again.resolved == []
        (record,) = again.records
        assert (record.allowed, record.rule, record.address, record.received) == (True, "rule 7", "", 7)


async def test_the_request_is_the_address_the_method_and_the_body(place: Path) -> None:
    with serving() as server:
        async with World(tape=EgressTape(place / "t")).serve() as world:
            for words in (("/a",), ("-d", "one", "/a"), ("-d", "two", "/a"), ("/a?b",)):
                *options, path = words
                await world.curl(*options, url(server.port, path))
        heard = len(server.heard)
        async with World(player=TapeOfEgress.read(place / "t").player()).serve() as again:
            for words, status in (
                (("-d", "two", "/a"), b"200"),
                (("-d", "three", "/a"), b"502"),
                (("-X", "DELETE", "/a"), b"403"),
                (("/b",), b"502"),
                (("/a?b",), b"200"),
                (("/a",), b"200"),
                (("/a",), b"502"),
            ):
                *options, path = words
                done = await again.curl("-o", "/dev/null", "-w", "%{http_code}", *options, url(server.port, path))
                assert done.stdout == status, words
            missed = await again.curl(url(server.port, "/b"))
            assert b"the recording has no answer to this request" in missed.stdout
        assert len(server.heard) == heard


async def test_equal_requests_are_answered_in_the_recorded_order(place: Path) -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    async with answering(plain + b"1", plain + b"2") as port, World(tape=EgressTape(place / "t")).serve() as world:
        await world.curl(url(port))
        await world.curl(url(port))
    tape = TapeOfEgress.read(place / "t")
    for _ in range(2):
        async with World(player=tape.player()).serve() as again:
            said = await again.curl(url(port), url(port))
            assert said.stdout == b"12", "on one connection, and from the beginning each time"


async def test_what_broke_off_is_not_kept_and_a_tunnel_is_on_no_tape(place: Path) -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    async with answering(half, CHUNKED) as port, World(tape=EgressTape(place / "t")).serve() as world:
        await world.curl(url(port))
        await world.curl(url(port, "/whole"))
    tape = TapeOfEgress.read(place / "t")
    assert [request.path for request, _ in tape.answers] == ["/whole"]
    async with World(player=tape.player()).serve() as again:
        assert b"502" in (await again.curl("-p", url(port, "/whole"))).stderr
        assert (await again.curl(url(port, "/whole"), socks=True)).returncode != 0
        assert (await again.curl("http://bad.test/")).stdout.startswith(b"gloveport: blocked by rule 7")
        assert again.resolved == []


def test_a_guest_with_many_connections_fills_no_memory(place: Path) -> None:
    """Each would be let through whole: it is what is kept of them that is bounded, and given back."""
    tape = EgressTape(place / "t")
    there = Destination(host="good.test", port=80, protocol="http", method="GET", path="/")
    piece = h11.Data(data=bytes(2**20))
    for _ in range(2):
        with ExitStack() as stack:
            passing = [stack.enter_context(tape.answer()) for _ in range(256)]
            for answer in passing:
                answer.take(h11.Response(status_code=200, headers=[]))
            for _ in range(16):
                for answer in passing:
                    answer.take(piece)
            assert tape._held <= 64 * 2**20
            for answer in passing:
                answer.end(there)
        assert tape._held == 0
    with tape.answer() as small:
        small.take(h11.Response(status_code=200, headers=[]))
        small.take(piece)
        small.end(there)
    assert [len(answer.body) for _, answer in TapeOfEgress.read(place / "t").answers][-1] == 2**20


async def test_a_tape_that_cannot_be_written_ends_no_connection(place: Path) -> None:
    async with answering(CHUNKED) as port, World(tape=EgressTape(place / "none" / "t")).serve() as world:
        assert b"one two" in (await world.curl(url(port))).stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 2}\n', "has format 2"),
        ("[]\n", "line 1 "),
        ('{"format": 1}\n{"request": ["http"]}\n', "line 2 "),
        ('{"format": 1}\nnonsense\n', "line 2 "),
    ],
)
def test_a_tape_that_makes_no_sense_is_refused_at_its_line(place: Path, text: str, said: str) -> None:
    (place / "t").write_text(text)
    with pytest.raises(InvalidRequest, match=said):
        TapeOfEgress.read(place / "t")
    with pytest.raises(NotFound):
        TapeOfEgress.read(place / "none")


@pytest.mark.needs("bubblewrap")
async def test_what_passed_in_tls_is_played_without_the_secret_that_went_out(settings: Settings, place: Path) -> None:
    (place / "secret").write_text(SECRET)
    (place / "secret").chmod(0o600)
    (place / "data").mkdir()
    authority = Authority.load(place / "servers.pem")
    (place / "trusted.pem").write_text(authority.certificate)
    settings = replace(settings, extra_authorities=place / "trusted.pem")
    with serving("localhost", authority) as bound:
        rules = policy(f"""
[egress]
allow = [{{ host = "localhost:{bound.port}", private = true }}]
[secrets.forge]
source = {{ file = "{place / "secret"}" }}
hosts = ["localhost"]
variable = "FORGE_TOKEN"
inject = {HEADER}
""")

        async def fetch(make_gate: MakeGate) -> ExecResult:
            async with Manager(settings, make_gate=make_gate) as manager:
                sandbox = Sandbox(await manager.create(Spec(policy=rules)))
                return await sandbox.exec(shell_request(f"unset no_proxy NO_PROXY; curl -sS {bound.url}/echo"))

        first = await fetch(taping(EgressTape(place / "t")))
        heard = len(bound.heard)
        second = await fetch(playing(TapeOfEgress.read(place / "t")))
    assert first.stdout == second.stdout != b""
    assert len(bound.heard) == heard > 0
    assert SECRET.encode() not in (place / "t").read_bytes()
    assert (place / "t").stat().st_mode & 0o777 == 0o600
