"""A host that reaches the internet through a parent proxy only: what goes through it, what never does, what it refuses.

The parent is a small proxy of the test; it alone knows where names under `.test` are.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gloveport.egress.authority import Authority
from gloveport.errors import InvalidRequest
from gloveport.model import ExecResult, Policy, Spec
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.settings import Settings

from .conftest import Server, serving

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

CREDENTIALS = "me:pass:word of 20"
BANNER = b"220 a server that speaks first\r\n"


class Parent(socketserver.ThreadingTCPServer):
    """A proxy that opens tunnels to this host, whatever name it is asked for."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.asked: list[tuple[str, str]] = []
        """Request lines, and who asked."""
        self.answer: bytes | None = None
        """What it says instead of yes."""
        self.wants = ""
        """The only `Proxy-Authorization` that it takes, when there is one."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        return


class Tunnel(socketserver.StreamRequestHandler):
    rbufsize = 0
    server: Parent

    def handle(self) -> None:
        line, *headers = self._head().decode().split("\r\n")
        said = {name.lower(): value for name, _, value in (header.partition(": ") for header in headers)}
        who = said.get("proxy-authorization", "")
        self.server.asked.append((line, who))
        if self.server.answer is not None:
            self.request.sendall(self.server.answer)
        elif who != self.server.wants:
            self.request.sendall(b"HTTP/1.1 407 Say\x1b[2Jplease\r\nProxy-Authenticate: Basic\r\n\r\n")
        else:
            self._join(int(line.split()[1].rpartition(":")[2]))

    def _head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n") and (byte := self.rfile.read(1)):
            head += byte
        return head

    def _join(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as there:
            # Whoever speaks first is heard: the yes and the server's first words are one piece.
            early = there.recv(100) if select.select([there], [], [], 0.05)[0] else b""
            self.request.sendall(b"HTTP/1.1 200 Yes\r\nVia: parent\r\n\r\n" + early)
            other = {self.request: there, there: self.request}
            while True:
                for ready in select.select(list(other), [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    other[ready].sendall(data)


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield
    server.shutdown()
    thread.join()


@pytest.fixture
def parent() -> Iterator[Parent]:
    with Parent() as server, running(server):
        yield server


@pytest.fixture
def behind(settings: Settings, parent: Parent) -> Settings:
    """An installation that was told of the parent."""
    return replace(settings, parent_proxy=parent.url)


@pytest.fixture
def origin() -> Iterator[Server]:
    with serving("origin.test") as server:
        yield server


def policy(*allowed: str) -> Policy:
    text = f"[egress]\nallow = [{', '.join(allowed)}]"
    return merge_layers([compile_layer(parse_document(text.encode(), "p.toml"), "project")])


async def run(settings: Settings, rules: Policy, script: str) -> tuple[ExecResult, list[dict[str, Any]]]:
    """What a script in a sandbox of its own said, and what the trail says of its connections."""
    async with Manager(settings) as manager:
        held = await manager.create(Spec(policy=rules))
        done = await Sandbox(held).exec(shell_request(f"unset no_proxy NO_PROXY\n{script}"))
    events = [json.loads(line) for line in (settings.data / "audit" / f"{held.ref.id}.jsonl").read_text().splitlines()]
    return done, [event["data"] for event in events if event["kind"] == "egress"]


async def test_an_allowed_name_goes_to_the_parent_as_a_name_by_every_protocol(
    behind: Settings, parent: Parent, origin: Server
) -> None:
    script = f"""
curl -sS {origin.url}/plain {origin.url}/kept
curl -sS --proxytunnel {origin.url}/tunnel
curl -sS --socks5-hostname 127.0.0.1:3128 {origin.url}/socks
"""
    done, records = await run(behind, policy('"origin.test"'), script)
    assert [line.split()[2] for line in done.text.splitlines() if line.startswith("reached")] == [
        "/plain",
        "/kept",
        "/tunnel",
        "/socks",
    ]
    assert {line for line, _ in parent.asked} == {f"CONNECT origin.test:{origin.port} HTTP/1.1"}
    assert len(parent.asked) == 3, "kept alive, the second request has no tunnel of its own"
    assert len(records) == 4
    for record in records:
        assert (record["allowed"], record["error"], record["address"]) == (True, "", "")
        assert record["parent"] == parent.url.removeprefix("http://")
        assert record["rule"].startswith("egress.allow: origin.test")


async def test_without_the_setting_the_same_name_leads_nowhere_and_nobody_heeds_http_proxy(
    settings: Settings, parent: Parent, origin: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, parent.url)
        monkeypatch.setenv(name.upper(), parent.url)
    environment = {"HOME": "/nonexistent", **{key: os.environ[key] for key in os.environ if "PROXY" in key.upper()}}
    assert Settings.load(environment).parent_proxy is None
    done, (record,) = await run(settings, policy('"origin.test"'), f"curl -sSi {origin.url}/")
    assert "502 the name origin.test cannot be resolved" in done.text
    assert record["parent"] == ""
    assert parent.asked == []


async def test_what_the_policy_refuses_never_reaches_the_parent(
    behind: Settings, parent: Parent, origin: Server
) -> None:
    script = f"""
curl -sS http://other.test:{origin.port}/
curl -sS http://127.0.0.1:{origin.port}/
curl -sS http://169.254.169.254/
curl -sS http://10.0.0.1/
"""
    done, records = await run(behind, policy('"origin.test"'), script)
    assert done.text.count("blocked by") == 4
    assert not [record for record in records if record["allowed"] or record["parent"]]
    assert parent.asked == []


async def test_a_private_place_that_the_policy_names_is_dialled_directly(
    behind: Settings, parent: Parent, origin: Server
) -> None:
    rules = policy(
        f'{{ host = "localhost:{origin.port}", private = true }}', f'"127.0.0.1:{origin.port}"', '"origin.test"'
    )
    script = f"curl -sS http://localhost:{origin.port}/name http://127.0.0.1:{origin.port}/address"
    done, records = await run(behind, rules, script)
    assert done.text.count("reached") == 2
    assert {(record["parent"], record["address"]) for record in records} == {("", "127.0.0.1")}
    assert parent.asked == []


async def test_a_name_that_is_not_named_as_private_does_not_become_so_here(
    behind: Settings, parent: Parent, origin: Server
) -> None:
    """The parent resolves it: what this host would make of it plays no part, and nothing private of it is dialled."""
    _, (record,) = await run(behind, policy('"localhost"'), f"curl -sS http://localhost:{origin.port}/")
    assert record["parent"] == parent.url.removeprefix("http://")
    assert [line for line, _ in parent.asked] == [f"CONNECT localhost:{origin.port} HTTP/1.1"]


async def test_a_public_address_is_judged_before_it_goes_to_the_parent(
    behind: Settings, parent: Parent, origin: Server
) -> None:
    script = f"curl -sS http://192.88.99.1:{origin.port}/ http://203.0.113.9:{origin.port}/"
    rules = policy(f'"192.88.99.1:{origin.port}"')
    done, records = await run(behind, rules, script)
    assert [line for line, _ in parent.asked] == [f"CONNECT 192.88.99.1:{origin.port} HTTP/1.1"]
    assert [(record["address"], bool(record["parent"])) for record in records] == [("192.88.99.1", True), ("", False)]
    assert "blocked by egress.default" in done.text


async def test_credentials_come_from_a_file_and_are_in_no_guest_and_no_record(
    behind: Settings, parent: Parent, origin: Server, place: Path
) -> None:
    encoded = base64.b64encode(CREDENTIALS.encode()).decode()
    parent.wants = f"Basic {encoded}"
    (place / "credentials").write_text(f"{CREDENTIALS}\n")
    told = replace(behind, parent_credentials=place / "credentials")
    script = f"curl -sSv {origin.url}/plain 2>&1; curl -sSv --proxytunnel {origin.url}/t 2>&1; env"
    done, records = await run(told, policy('"origin.test"'), script)
    assert done.text.count("reached") == 2
    assert [who for _, who in parent.asked] == [parent.wants] * 2
    everything = done.text + json.dumps(records) + json.dumps(origin.heard)
    assert not [text for text in (encoded, "pass:word") if text in everything]
    assert parent.url.removeprefix("http://") not in done.text, "no guest learns which proxies there are"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "the parent proxy refused origin.test:{port}: 407 Proxy Authentication Required"),
        (b"HTTP/1.1 403 \x1b[31mno\r\nX: y\r\n\r\n", "the parent proxy refused origin.test:{port}: 403 Forbidden"),
        (b"HTTP/1.1 403 no\r\nX: y\r\n\r\nGo away", "the parent proxy refused origin.test:{port}: 403 Forbidden"),
        (b"HTTP/1.1 299 yes\r\n", "the parent proxy broke off: it closed the connection"),
        (b"", "the parent proxy broke off: it closed the connection"),
        (b"SSH-2.0-other\r\n\r\n", "the parent proxy answered with something else than HTTP"),
        (b"HTTP/1.1 200 yes\r\nX: " + b"y" * 40_000, "the parent proxy answered with something else than HTTP"),
    ],
)
async def test_a_parent_that_refuses_is_a_clean_error_and_nothing_goes_directly(
    behind: Settings, parent: Parent, origin: Server, answer: bytes | None, said: str
) -> None:
    parent.answer, parent.wants = answer, "somebody else"
    said = said.format(port=origin.port)
    # `localhost` leads to the server from here too: what fell back to that would arrive.
    rules = policy('"origin.test"', '"localhost"')
    script = f"curl -sSi {origin.url}/; curl -sSi -p {origin.url}/; curl -sSi http://localhost:{origin.port}/; true"
    done, records = await run(behind, rules, script)
    assert f"502 {said}" in done.text
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"CONNECT tunnel failed, response 502" in done.stderr
    assert [record["error"] for record in records[:2]] == [said, said]
    assert len(records) == 3
    for record in records:
        assert (record["allowed"], record["address"], record["received"]) == (True, "", 0)
        assert record["parent"] == parent.url.removeprefix("http://")
    assert origin.heard == []


async def test_a_dead_parent_is_a_clean_error_and_nothing_goes_directly(settings: Settings, origin: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = replace(settings, parent_proxy=f"http://127.0.0.1:{unused.getsockname()[1]}")
        done, records = await run(dead, policy('"localhost"'), f"curl -sSi http://localhost:{origin.port}/")
    assert "502 the parent proxy cannot be reached: Connection refused" in done.text
    assert [record["error"] for record in records] == ["the parent proxy cannot be reached: Connection refused"]
    assert origin.heard == []


@pytest.mark.parametrize("content", [None, "", "no colon", "a:b\nc:d", "a:b\r\nX-Injected: 1"])
async def test_credentials_that_are_none_are_told_and_nothing_is_asked_without_them(
    behind: Settings, parent: Parent, origin: Server, place: Path, content: str | None
) -> None:
    if content is not None:
        (place / "credentials").write_text(content, newline="")
    told = replace(behind, parent_credentials=place / "credentials")
    done, _ = await run(told, policy('"origin.test"'), f"curl -sSi {origin.url}/")
    assert "502 the credentials for the parent proxy cannot be read" in done.text
    assert parent.asked == []


async def test_a_server_that_speaks_first_is_heard_whole(behind: Settings) -> None:
    """What arrives in one piece with the parent's yes belongs to the tunnel."""
    script = "curl -sS -m 20 telnet://greeter.test:{port} -p -x $http_proxy < /dev/null"

    class Greeter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(BANNER)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeter) as server, running(server):
        port = server.server_address[1]
        done, (record,) = await run(behind, policy('"greeter.test"'), script.format(port=port))
    assert done.stdout == BANNER, done
    assert record["received"] == len(BANNER)


async def test_tls_that_the_proxy_looks_into_goes_through_the_parent_too(
    behind: Settings, parent: Parent, place: Path
) -> None:
    authority = Authority.load(place / "servers.pem")
    (place / "trusted.pem").write_text(authority.certificate)
    rules = policy('{ host = "secure.test", paths = ["/open/*"] }')
    with serving("secure.test", authority) as server:
        script = f"curl -sS {server.url}/open/x; curl -sS {server.url}/shut"
        done, records = await run(replace(behind, extra_authorities=place / "trusted.pem"), rules, script)
    assert "reached GET /open/x" in done.text
    assert "blocked by" in done.text
    assert [(record["path"], record["allowed"], bool(record["parent"])) for record in records] == [
        ("/open/x", True, True),
        ("/shut", False, False),
    ]
    assert [line for line, _ in parent.asked] == [f"CONNECT secure.test:{server.port} HTTP/1.1"]


@pytest.mark.parametrize(
    "url",
    ["https://proxy.example:3128", "proxy.example:3128", "socks5://proxy.example", "http://", "http://p.example/path"],
)
def test_a_parent_that_cannot_be_spoken_to_refuses_to_start(settings: Settings, url: str) -> None:
    with pytest.raises(InvalidRequest, match="not a parent proxy"):
        Manager(replace(settings, parent_proxy=url))


def test_credentials_in_the_url_are_refused_without_being_shown(settings: Settings) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Manager(replace(settings, parent_proxy="http://me:hunter2-hunter2@proxy.example:3128"))
    assert "hunter2" not in f"{refused.value.message} {refused.value.hint}"
