"""What hostile or broken guests, servers and resolvers send the egress proxy: refused, bounded, and got over."""

from __future__ import annotations

import ipaddress
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from gloveport.egress import Answer, Budget, Destination, Resolver
from gloveport.egress.record import Address
from gloveport.egress.resolve import AT_ONCE
from gloveport.errors import GloveportError
from gloveport.model import Policy, Spec
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.settings import Settings

from .egress_world import SECONDS, World, ended, peer, tunnel, wait

pytestmark = pytest.mark.anyio
MIB = 2**20
LOOPBACK = [ipaddress.ip_address("127.0.0.1")]


async def assert_still_serves(world: World, port: int) -> None:
    request = f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert b"200 OK" in await world.say(request.encode(), end=False)


MALFORMED = [
    b"CONNECT\r\n\r\n",
    b"CONNECT \r\n\r\n",
    b"CONNECT HTTP/1.1\r\n\r\n",
    b"CONNECT  good.test:80 HTTP/1.1\r\n\r\n",
    b"CONNECT good.test:80\r\n\r\n",
    b"CONNECT good.test:80 HTTP/1.1 HTTP/1.1\r\n\r\n",
    b"CONNECT good.test:80\tHTTP/1.1\r\n\r\n",
    b"CONNECT good.test:80 HTTP/9.9\r\n\r\n",
    b"CONNECT good.test:80 HTTP/1.1\r\nHost x\r\n\r\n",
    b"CONNECT good.test:80 HTTP/1.1\r\n Host: x\r\n\r\n",
    b"CONNECT good.test:80 HTTP/1.1\r\nHost : x\r\n\r\n",
    b"CONNECT good.test:80 HTTP/1.1\r\nHost: \x00\r\n\r\n",
    b"connect good.test:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test: HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test:+80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test:-80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test:8_0 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test:80:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test:65536 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test:" + b"9" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT :80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT [good.test]:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT [:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT http://good.test:80/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test:80?x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test:80#x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT evil.test@good.test:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT good.test\\evil.test:80 HTTP/1.1\r\nHost: x\r\n\r\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_connect_is_a_bad_request_and_goes_nowhere(port: int, data: bytes) -> None:
    async with World().serve() as world:
        heard = await world.say(data)
        assert (world.resolved, [record for record in world.records if record.allowed]) == ([], [])
        await assert_still_serves(world, port)
    assert re.match(rb"HTTP/1\.1 (400|403|505) ", heard) or heard == b"", heard


ODD_NAMES = {
    "a Latin letter that looks alike": "\u0261ood.test",
    "full-width letters": "\uff47\uff4f\uff4f\uff44.test",
    "an ideographic full stop": "good\u3002test",
    "a full-width full stop": "good\uff0etest",
    "a soft hyphen": "go\u00adod.test",
    "a joiner of no width": "good\u200d.test",
    "a mark for the other direction": "\u202egood.test",
    "a sharp s": "good\u00df.test",
    "a Kelvin sign": "\u212aelvin.test",
    "a percent for a letter": "g%6fod.test",
    "a percent for the dot": "good%2etest",
    "an encoded label of nothing": "xn--.test",
    "an encoded label that decodes to nothing valid": "xn--\u0080.test",
    "an encoded label of plain letters": "xn--good-.test",
    "an encoded label cut short": "xn--a.test",
    "an empty label": "good..test",
    "a leading dot": ".good.test",
    "a label of 64": "a" * 64 + ".test",
    "a name of 254": ".".join(["a" * 49] * 5) + ".test",
    "a name of 300": ("a" * 49 + ".") * 6,
}


def ways(name: bytes) -> dict[str, bytes]:
    found = {
        "connect": b"CONNECT " + name + b":80 HTTP/1.1\r\nHost: x\r\n\r\n",
        "http": b"GET http://" + name + b"/ HTTP/1.1\r\nHost: x\r\n\r\n",
    }
    if len(name) < 256:
        found["socks5"] = b"\x05\x01\x00\x05\x01\x00\x03" + bytes((len(name),)) + name + b"\x00\x50"
    return found


@pytest.mark.parametrize("how", ODD_NAMES)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_a_name_that_somebody_could_read_as_another_is_refused_unresolved(how: str, encoding: str) -> None:
    try:
        name = ODD_NAMES[how].encode(encoding)
    except UnicodeEncodeError:
        return  # no such bytes
    async with World().serve() as world:
        for way, data in ways(name).items():
            heard = await world.say(data)
            refused = heard[:4] == b"\x05\x00\x05\x02" if way == "socks5" else heard[9:12] in (b"400", b"403")
            assert refused, (way, heard)
        assert (world.resolved, [record for record in world.records if record.allowed]) == ([], [])


async def test_a_guest_that_ends_in_the_middle_leaves_nothing_open(port: int) -> None:
    head = f"POST http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\n".encode()
    halves = [
        b"CONN",
        b"CONNECT good.test:80 HTTP/1.1\r\nHost:",
        head + b"Content-Length: 100\r\n\r\n0123456789",
        head + b"Transfer-Encoding: chunked\r\n\r\nff\r\n0123",
        head + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n",
    ]
    async with World(budget=Budget(connections=1)).serve() as world:
        for half in halves:
            assert b"200 OK" not in await world.say(half)
        await assert_still_serves(world, port)


@asynccontextmanager
async def answering(answer: bytes, *, reset: bool = False) -> AsyncIterator[int]:
    """A server that hears a request, says `answer` and ends."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if answer:
                await stream.send(answer)
            if reset:
                raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with peer(serve) as port:
        yield port


BAD_ANSWERS = {
    "nothing": (b"", False),
    "a reset": (b"", True),
    "half a head": (b"HTTP/1.1 200 O", False),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", False),
    "a head of 1 MiB": (b"HTTP/1.1 200 OK\r\nA: " + b"x" * MIB + b"\r\n\r\n", False),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", False),
}


@pytest.mark.parametrize("how", BAD_ANSWERS)
async def test_a_server_that_answers_nothing_whole_is_a_bad_gateway(how: str) -> None:
    answer, reset = BAD_ANSWERS[how]
    async with answering(answer, reset=reset) as port, World().serve() as world:
        heard = await world.say(f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode(), end=False)
        record = await world.record()
    assert heard.startswith(b"HTTP/1.1 502 the server"), heard
    assert record.error.startswith("the server")


async def test_an_answer_that_is_cut_off_is_never_passed_on_as_whole() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello") as port, World().serve() as world:
        done = await world.curl(f"http://good.test:{port}/")
        record = await world.record()
    assert (done.stdout, done.returncode) == (b"hello", 18)  # curl's: a partial file
    assert record.error.startswith("the server's answer makes no sense: peer closed connection")


async def test_a_kept_connection_that_its_server_has_ended_is_made_anew() -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    async with answering(said) as port, World().serve() as world:
        request = f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with anyio.fail_after(SECONDS):
            async with await anyio.connect_tcp("127.0.0.1", world.port) as stream:
                for _ in range(3):
                    await stream.send(request)
                    heard = b""
                    while not heard.endswith(b"hello"):
                        heard += await stream.receive()
                    await anyio.wait_all_tasks_blocked()  # the server has ended its connection
    assert world.resolved == ["good.test"] * 3


async def test_a_head_that_drips_is_ended_by_the_clock_and_holds_up_nobody_else(port: int) -> None:
    """However fast it drips: no byte sets the clock back."""
    budget = Budget(header_seconds=0.5, header_bytes=2**30, connections=3)
    async with World(budget=budget).serve() as world, anyio.create_task_group() as tasks:
        beginnings = [b"GET http://good.test/ HTTP/1.1\r\nA: ", b"CONNECT good.test:80 HTTP/1.1\r\nA: "]
        with anyio.fail_after(SECONDS):
            for beginning in beginnings:
                tasks.start_soon(drip, world.port, beginning)
            await assert_still_serves(world, port)
            for _ in range(4):  # more than there is room for, and in the middle of SOCKS5
                assert await world.say(b"\x05\x01\x00\x05\x01\x00\x03\xff", end=False) in (b"", b"\x05\x00")
    assert [record for record in world.records if record.allowed and record.path != "/"] == []


async def drip(port: int, beginning: bytes) -> None:
    """Return once the proxy has closed the connection."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(beginning)
        try:
            while True:
                await stream.send(b"a")
        except anyio.BrokenResourceError:
            return


async def test_a_guest_that_takes_no_answer_is_let_go() -> None:
    async def flood(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            try:
                while True:
                    await stream.send(bytes(MIB))
            except anyio.BrokenResourceError:
                return

    async with peer(flood) as port, World(budget=Budget(idle_seconds=0.3)).serve() as world:
        with anyio.fail_after(SECONDS):
            async with await anyio.connect_tcp("127.0.0.1", world.port) as stream:
                await stream.send(f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                record = await world.record()
    assert record.error == "nothing was taken for 0.3 s"


@pytest.mark.parametrize("name", [b"A", b"A" * MIB], ids=["value", "name"])
async def test_a_head_of_a_mebibyte_is_refused_as_too_large(port: int, name: bytes) -> None:
    head = f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\n".encode()
    many = b"".join(b"A%d: b\r\n" % number for number in range(MIB // 10))
    async with World().serve() as world:
        for rest in (name + b": " + b"x" * MIB, many):
            assert (await world.say(head + rest + b"\r\n\r\n")).startswith(b"HTTP/1.1 431 ")
        assert world.resolved == []
        await assert_still_serves(world, port)


@contextmanager
def memory_grows_by_less_than(size: int) -> Iterator[None]:
    """Of this process, at its highest: the kernel is told to begin its count anew."""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmHWM")
    yield
    assert memory("VmHWM") - before < size


def memory(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "size"), [((), 256 * MIB), (("--proxytunnel",), 1024 * MIB)], ids=["http", "tunnel"]
)
async def test_a_huge_body_streams_both_ways_in_a_bounded_memory(
    port: int, place: Path, options: Sequence[str], size: int
) -> None:
    sparse = place / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
    async with World(methods=frozenset({"GET", "PUT"})).serve() as world:
        with memory_grows_by_less_than(64 * MIB):
            counted = "%{size_download}"
            one = await world.curl(*options, "-o", "/dev/null", "-w", counted, f"http://good.test:{port}/zeros/{size}")
            other = await world.curl(*options, "-H", "Expect:", "-T", str(sparse), f"http://good.test:{port}/count")
    assert (one.stdout, other.stdout) == (str(size).encode(), str(size).encode()), (one, other)


async def test_a_body_of_a_gibibyte_is_stopped_at_the_bytes_of_its_sandbox(port: int) -> None:
    async with World(budget=Budget(total_bytes=8 * MIB)).serve() as world:
        done = await world.curl("-o", "/dev/null", f"http://good.test:{port}/zeros/{1024 * MIB}")
        record = await world.record()
    assert done.returncode == 18, done  # curl's: a partial file
    assert record.error == f"more than {8 * MIB} bytes in all"
    assert record.received < 9 * MIB


CROWD = """
import resource, selectors, socket, sys

port, count = int(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
crowd = selectors.DefaultSelector()

def join():
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    crowd.register(one, selectors.EVENT_WRITE, b"")

for _ in range(count):
    join()
answered = 0
while crowd.get_map():
    for key, event in crowd.select():
        heard = more = b""
        try:
            if event & selectors.EVENT_WRITE:
                key.fileobj.sendall(b"GET http://evil.test/ HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
                crowd.modify(key.fileobj, selectors.EVENT_READ, b"")
                continue
            more = key.fileobj.recv(4096)
            heard = key.data + more
        except OSError:
            pass
        if more:
            crowd.modify(key.fileobj, selectors.EVENT_READ, heard)
            continue
        crowd.unregister(key.fileobj)
        key.fileobj.close()
        if heard.startswith(b"HTTP/1.1 403 "):
            answered += 1
        else:
            join()  # the kernel's queue was full for longer than it retries: once more
print(answered)
"""


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 10_100, reason="no user of this host may open so many connections"
)
async def test_ten_thousand_connections_at_once_all_have_their_turn_and_few_are_held(port: int) -> None:
    room, peak = 64, 0

    @dataclass
    class Counting(World):
        async def before(self, destination: Destination) -> Answer:
            nonlocal peak
            peak = max(peak, len(os.listdir("/proc/self/fd")))
            await anyio.lowlevel.checkpoint()
            return await super().before(destination)

    descriptors = len(os.listdir("/proc/self/fd"))
    async with Counting(budget=Budget(connections=room)).serve() as world:
        with memory_grows_by_less_than(64 * MIB):
            done = await anyio.run_process([sys.executable, "-c", CROWD, str(world.port), "10000"], check=False)
        await assert_still_serves(world, port)
    assert done.stdout == b"10000\n", done
    assert peak <= descriptors + room + 16


class CountedListener(socket.socket):
    """Counts how often it was asked for a connection, and tells when that was for the third time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.thrice = anyio.Event()

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        if self.asked >= 3:
            self.thrice.set()
        return super().accept()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process can open nothing more."""
    spare = os.open("/", os.O_RDONLY)
    os.close(spare)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_process_without_descriptors_lets_guests_wait_and_neither_spins_nor_dies(port: int) -> None:
    listener = CountedListener()
    async with World(make_listener=lambda: listener).serve() as world:
        await anyio.wait_all_tasks_blocked()
        listener.asked, began = 0, time.monotonic()
        with socket.create_connection(("127.0.0.1", world.port)) as guest:
            guest.setblocking(False)
            request = f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            with anyio.fail_after(SECONDS):
                with no_descriptor_left():
                    await listener.thrice.wait()
                    # Each time it has waited a tenth of a second, however long the machine took besides.
                    assert listener.asked <= 1 + (time.monotonic() - began) / 0.1
                guest.send(request.encode())
                await anyio.wait_readable(guest)
                assert b"200 OK" in guest.recv(1000)


async def test_a_connection_for_which_no_descriptor_is_left_is_a_bad_gateway(port: int) -> None:
    async with World().serve() as world, await anyio.connect_tcp("127.0.0.1", world.port) as stream:
        with anyio.fail_after(SECONDS):
            request = f"GET http://good.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            await stream.send(b"GET http://evil.test/ HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n")
            await anyio.wait_all_tasks_blocked()  # it is accepted
            with no_descriptor_left():
                await stream.send(b"\r\n")
                assert b"403" in await stream.receive()
        with anyio.fail_after(SECONDS):
            async with await anyio.connect_tcp("127.0.0.1", world.port) as other:
                await other.send(request[:-2])
                await anyio.wait_all_tasks_blocked()
                with no_descriptor_left():
                    await other.send(request[-2:])
                    assert b"502" in await other.receive()
        await assert_still_serves(world, port)


@dataclass
class Hanging:
    """A resolver of a host whose name server never answers, until the test is over; it knows `good.test`."""

    over: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list)

    def look_up(self, name: str) -> Sequence[Address]:
        self.begun.append(name)
        if name != "good.test":
            self.over.wait()
        return LOOPBACK


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    found = Hanging()
    yield found
    found.over.set()


@dataclass
class Resolving(World):
    """Allows every name, and looks it up in threads as a sandbox's proxy does."""

    resolver: Resolver = field(default_factory=Resolver)

    async def before(self, destination: Destination) -> Answer:
        return Answer(allowed=True, rule="rule 7")

    async def resolve(self, name: str) -> Sequence[Address]:
        return await self.resolver(name)


async def test_names_that_are_never_answered_hold_up_neither_other_sandboxes_nor_the_host(
    port: int, hanging: Hanging
) -> None:
    budget = Budget(dial_seconds=0.3)
    bad, good = (Resolving(budget=each, resolver=Resolver(look_up=hanging.look_up)) for each in (budget, Budget()))
    async with bad.serve(), good.serve():
        heard: list[bytes] = []

        async def ask(number: int) -> None:
            heard.append(await bad.say(f"CONNECT n{number}.test:80 HTTP/1.1\r\nHost: x\r\n\r\n".encode(), end=False))

        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(ask, number)
                await assert_still_serves(good, port)
        assert all(b"502 the name n" in said for said in heard)
        assert len(heard) == 100
        # Whoever asked has gone; what hangs still holds its places, so that no more threads come of it.
        await bad.say(b"CONNECT again.test:80 HTTP/1.1\r\nHost: x\r\n\r\n", end=False)
        assert len([name for name in hanging.begun if name != "good.test"]) == AT_ONCE
        await assert_still_serves(good, port)
        hanging.over.set()
        await assert_still_serves(bad, port)


async def test_one_resolver_for_all_would_be_held_up() -> None:
    """The counter-arm of the test above."""
    hanging = Hanging()
    shared = Resolver(look_up=hanging.look_up)
    async with anyio.create_task_group() as tasks:
        for number in range(AT_ONCE):
            tasks.start_soon(shared, f"n{number}.test")
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.3) as waited:
            await shared("good.test")
        hanging.over.set()
    assert waited.cancelled_caught


async def test_a_loop_that_ends_does_not_wait_for_a_name_that_is_never_answered() -> None:
    script = """
        import threading, anyio
        from gloveport.egress import Resolver

        async def main():
            resolve = Resolver(look_up=lambda name: threading.Event().wait())
            with anyio.move_on_after(0.1):
                await resolve("good.test")
            print("given up")

        anyio.run(main)
    """
    with anyio.fail_after(SECONDS):
        done = await anyio.run_process([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"given up\n", b"")


PROXY = """
import anyio
import sys
sys.path.insert(0, sys.argv[1])
from egress_world import World

async def main():
    async with World().serve() as world:
        print(world.port, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_proxy_that_is_killed_ends_every_connection_and_takes_no_more() -> None:
    async with peer(wait) as port:
        command = [sys.executable, "-c", PROXY, str(Path(__file__).parent)]
        async with await anyio.open_process(command, stderr=subprocess.PIPE) as proxy:
            assert proxy.stdout is not None
            with anyio.fail_after(SECONDS):
                world = World(port=int(await proxy.stdout.receive()))
                open_ones = [await tunnel(world, port) for _ in range(10)]
                proxy.send_signal(signal.SIGKILL)
                for stream in open_ones:
                    await ended(stream)
                    await stream.aclose()
                await proxy.wait()
                with pytest.raises(OSError):  # noqa: PT011 - refused, whatever the kernel calls it
                    await anyio.connect_tcp("127.0.0.1", world.port)


def policy(text: str) -> Policy:
    return merge_layers([compile_layer(parse_document(text.encode(), "p.toml"), "project")])


@pytest.mark.needs("bubblewrap")
async def test_a_second_policy_for_the_same_sandbox_is_refused_and_the_first_one_holds(
    settings: Settings, port: int
) -> None:
    narrow = policy(f'[egress]\nallow = [{{ host = "localhost:{port}", private = true }}]')
    wide = policy(f'[egress]\nallow = [{{ host = "127.0.0.1:{port}", private = true }}, "other.test"]')
    ask = shell_request(
        f"unset no_proxy NO_PROXY; curl -sS http://localhost:{port}/; curl -sS http://127.0.0.1:{port}/"
    )
    async with Manager(settings) as manager:
        held = await manager.create(Spec(policy=narrow))
        with pytest.raises(GloveportError) as refused:
            await manager.apply(await manager.plan(Spec(policy=wide), sandbox=held.ref.id))
        done = await Sandbox(held).exec(ask)
    assert refused.value.code == "conflict"
    assert done.text.count("reached") == 1
    assert "blocked by egress.default: no rule names 127.0.0.1" in done.text
