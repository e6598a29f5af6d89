"""TLS looked into from a real sandbox: requests judged by method and path, secrets put in outside, nothing leaked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gloveport.egress.authority import Authority
from gloveport.errors import GloveportError
from gloveport.model import ExecResult, Policy, Spec
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.settings import Settings

from .conftest import Server, serving

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]
SECRET = "s3cr3t/value+of 24 chars"


@dataclass
class World:
    """Two servers, `bound` and `other`, whose authority only the proxy is told of; and one sandbox at a time."""

    settings: Settings
    bound: Server
    other: Server
    authority: Authority
    trail: list[dict[str, Any]] = field(default_factory=list)

    @asynccontextmanager
    async def sandbox(self, text: str) -> AsyncIterator[Sandbox]:
        async with Sandbox.create(Spec(policy=policy(text)), settings=self.settings) as sandbox:
            yield sandbox

    async def run(self, text: str, script: str) -> ExecResult:
        async with self.sandbox(text) as sandbox:
            return await sandbox.exec(shell_request(f"unset no_proxy NO_PROXY\n{script}"))

    def records(self) -> list[dict[str, Any]]:
        (trail,) = (self.settings.data / "audit").glob("*.jsonl")
        events = [json.loads(line) for line in trail.read_text().splitlines()]
        return [event["data"] for event in events if event["kind"] == "egress"]

    def written(self) -> bytes:
        """All that the installation has written down."""
        return b"".join(path.read_bytes() for path in self.settings.data.rglob("*") if path.is_file())

    @property
    def rule(self) -> str:
        return f'{{ host = "localhost:{self.bound.port}", private = true }}'

    def secret(self, inject: str, allow: str = "") -> str:
        return f"""
[egress]
allow = [{self.rule}, {allow}]
[secrets.forge]
source = {{ file = "{self.settings.data.parent / "secret"}" }}
hosts = ["localhost"]
variable = "FORGE_TOKEN"
inject = {inject}
"""

    @property
    def seen_other(self) -> str:
        """Lets the proxy look into the server that no secret is bound to."""
        return f'{{ host = "127.0.0.1:{self.other.port}", methods = ["GET"], private = true }}'


def policy(text: str) -> Policy:
    return merge_layers([compile_layer(parse_document(text.encode(), "p.toml"), "project")])


@pytest.fixture
def world(settings: Settings, place: Path) -> Iterator[World]:
    authority = Authority.load(place / "servers.pem")
    (place / "trusted.pem").write_text(authority.certificate)
    (place / "data").mkdir()
    (place / "secret").write_text(SECRET + "\n")
    (place / "secret").chmod(0o600)
    with serving("localhost", authority) as bound, serving("127.0.0.1", authority) as other:
        bound.elsewhere = other.url
        yield World(replace(settings, extra_authorities=place / "trusted.pem"), bound, other, authority)


HEADER = '{ header = "Authorization", value = "Bearer {secret}" }'


async def test_each_request_inside_tls_is_judged_by_method_and_path_and_recorded(world: World) -> None:
    narrow = f'{{ host = "localhost:{world.bound.port}", methods = ["GET"], paths = ["/open/*"], private = true }}'
    url = world.bound.url
    script = f"""
curl -sS {url}/open/1 {url}/open/2
curl -sS -i -d body {url}/open/3
curl -sS -i {url}/open/../shut
curl -sS --path-as-is {url}/open/%2e%2e/shut
curl -sS --socks5-hostname 127.0.0.1:3128 {url}/shut; curl -sS --socks5-hostname 127.0.0.1:3128 {url}/open/4
python3 -c 'import urllib.request as u; print(u.urlopen("{url}/open/5").read().decode())'
"""
    done = await world.run(f"[egress]\nallow = [{narrow}]", script)
    assert [(method, path) for method, path, _ in world.bound.heard] == [
        ("GET", "/open/1"),
        ("GET", "/open/2"),
        ("GET", "/open/4"),
        ("GET", "/open/5"),
    ], done
    assert done.text.count("403 blocked by egress.default: no rule names localhost") == 2
    assert done.text.count("gloveport: blocked by egress.default") == 4
    asked = [(record["method"], record["path"], record["allowed"]) for record in world.records()]
    assert asked == [
        ("GET", "/open/1", True),
        ("GET", "/open/2", True),
        ("POST", "/open/3", False),
        ("GET", "/shut", False),
        ("GET", "/open/%2e%2e/shut", False),
        ("GET", "/shut", False),
        ("GET", "/open/4", True),
        ("GET", "/open/5", True),
    ]
    assert {record["protocol"] for record in world.records()} == {"https"}


async def test_a_tunnel_that_no_rule_looks_into_stays_closed_to_the_proxy(world: World) -> None:
    """The guest sees the server's own certificate there, which it does not trust; and is shown no other to trust."""
    script = f"curl -sS {world.bound.url}/; curl -sSk {world.bound.url}/closed; env | grep -E 'SSL_CERT|CA_BUNDLE'"
    done = await world.run(f"[egress]\nallow = [{world.rule}]", f"{script}; ls /run/gloveport")
    assert b"certificate" in done.stderr
    assert b"reached GET /closed" in done.stdout
    assert not [word for word in (b"SSL_CERT", b"CA_BUNDLE", b"trust.pem") if word in done.stdout]
    assert {record["protocol"] for record in world.records()} == {"connect"}


SCAN = r"""
import os, re, sys
wanted = bytes.fromhex(sys.argv[1])
seen = 0
def look(where, data):
    global seen
    seen += 1
    if wanted in data:
        print("FOUND", where)
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try: look(f"{pid}/{name}", open(f"/proc/{pid}/{name}", "rb").read())
        except OSError: pass
    if int(pid) == os.getpid():
        continue
    try:
        with open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in open(f"/proc/{pid}/maps"):
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                if line.split()[1].startswith("r"):
                    try:
                        memory.seek(start)
                        look(f"{pid}/mem", memory.read(end - start))
                    except (OSError, ValueError, OverflowError): pass
    except OSError: pass
for root in ("/workspace", "/tmp", "/home", "/dev/shm", "/run", "/etc"):
    for top, _, names in os.walk(root):
        for name in names:
            try:
                with open(os.path.join(top, name), "rb") as file: look(os.path.join(top, name), file.read())
            except OSError: pass
print("looked at", seen)
"""


async def test_a_secret_reaches_its_server_and_is_nowhere_in_the_guest_nor_in_any_record(world: World) -> None:
    url = world.bound.url
    ask = f"""
unset no_proxy NO_PROXY; cd /workspace
curl -sS -D headers -o first -H "Authorization: token $FORGE_TOKEN" {url}/one
curl -sS -o second {url}/pieces; curl -sS -o third -H "X-Copy: a" {url}/%73/
python3 -c 'import urllib.request as u; open("fourth", "wb").write(u.urlopen("{url}/four").read())'
git clone -q {url}/five.git 2>&1 | tee fifth; env > environment
(read -r _ < <(sleep 600); :) & sleep 600 &
"""
    async with world.sandbox(world.secret(HEADER)) as sandbox:
        done = await sandbox.exec(shell_request(ask + "exit 0"))
        await sandbox.files.write("scan.py", SCAN.encode())
        await sandbox.start(shell_request(f"unset no_proxy NO_PROXY; curl -sSN {url}/one | (cat; sleep 600)"))
        hidden = await sandbox.exec(("python3", "scan.py", SECRET.encode().hex()))
        marker = await sandbox.exec(("python3", "scan.py", b"FORGE_TOKEN=gloveport-secret-forge-".hex()))
        first = (await sandbox.files.read("first")).decode()
        headers = (await sandbox.files.read("headers")).decode()
    tokens = [headers.get("Authorization") for _, _, headers in world.bound.heard]
    assert {path.partition(".")[0] for _, path, _ in world.bound.heard} >= {"/one", "/pieces", "/four", "/five"}, done
    assert set(tokens) == {f"Bearer {SECRET}"}
    assert "FOUND" not in hidden.text
    assert "looked at" in hidden.text
    assert "FOUND" in marker.text  # the search does find what is there
    assert f"Bearer {'*' * len(SECRET)}" in first
    assert f"X-Echo: Bearer {'*' * len(SECRET)}" in headers
    assert SECRET not in done.text + headers + first
    assert SECRET.encode() not in world.written()


@pytest.mark.parametrize(
    ("inject", "header"),
    [
        ('{ basic = "bot" }', ("Authorization", "Basic Ym90OnMzY3IzdC92YWx1ZStvZiAyNCBjaGFycw==")),
        ('{ header = "X-Key", value = "{secret}" }', ("X-Key", SECRET)),
    ],
)
async def test_a_secret_goes_where_its_binding_says(world: World, inject: str, header: tuple[str, str]) -> None:
    ask = f'curl -sS -u "me:$FORGE_TOKEN" {world.bound.url}/' if "basic" in inject else f"curl -sS {world.bound.url}/"
    done = await world.run(world.secret(inject), ask)
    ((_, _, headers),) = world.bound.heard
    assert headers[header[0]] == header[1]
    assert header[1] not in done.text
    assert "reached" in done.text


async def test_a_secret_in_a_query_is_masked_in_a_redirect_and_does_not_follow_it(world: World) -> None:
    ask = f'curl -sS -i -L "{world.bound.url}/away?key=$FORGE_TOKEN&a=b"'
    done = await world.run(world.secret('{ query = "key" }', world.seen_other), ask)
    assert [path for _, path, _ in world.bound.heard] == ["/away?a=b&key=s3cr3t%2Fvalue%2Bof%2024%20chars"]
    ((_, followed, _),) = world.other.heard
    assert "*" * len("s3cr3t%2Fvalue%2Bof%2024%20chars") in followed
    assert not [text for text in (SECRET, "s3cr3t%2F") if text in done.text]
    assert b"s3cr3t" not in world.written()


STRAYS = {
    "a header": '-H "X-Key: $FORGE_TOKEN" {other}/',
    "a query": '"{other}/?key=$FORGE_TOKEN"',
    "an encoded path": '"{other}/$(printf %s "$FORGE_TOKEN" | sed s/-/%2d/g)"',
    "basic credentials": '-u "$FORGE_TOKEN:x" {other}/',
    "plain text": '-H "Authorization: Bearer $FORGE_TOKEN" http://localhost:{port}/',
    "another header of its own host": '-H "X-Other: $FORGE_TOKEN" {bound}/',
}


@pytest.mark.parametrize("how", STRAYS)
async def test_a_placeholder_anywhere_else_is_refused_and_raises_an_alarm(world: World, how: str) -> None:
    place = STRAYS[how].format(other=world.other.url, bound=world.bound.url, port=world.bound.port)
    done = await world.run(world.secret(HEADER, world.seen_other), f"curl -sS {place}")
    assert (world.bound.heard, world.other.heard) == ([], [])
    assert "blocked by built-in: placeholders of secrets: the" in done.text
    (record,) = world.records()
    assert (record["allowed"], record["alarm"], record["address"]) == (False, "forge", "")


async def test_another_host_in_the_same_connection_is_refused_and_recorded(world: World) -> None:
    """Fronting: the name in TLS, or in the request, is not the one that was allowed."""
    port = world.bound.port
    script = f"""
curl -sS -H 'Host: evil.test' {world.bound.url}/
curl -sS -H 'Host: localhost:1' {world.bound.url}/
cat > front.py <<'.'
import socket, ssl
sock = socket.create_connection(("127.0.0.1", 3128))
sock.sendall(b"CONNECT localhost:{port} HTTP/1.1\\r\\nHost: localhost:{port}\\r\\n\\r\\n")
print(sock.recv(1000))
context = ssl.create_default_context()
try:
    print(context.wrap_socket(sock, server_hostname="evil.test"))
except (ssl.SSLError, OSError) as error:
    print("no TLS:", error)
.
python3 front.py
curl -sS --proxytunnel -H 'Host: evil.test' http://localhost:{port}/
curl -sS --request-target https://evil.test/ {world.bound.url}/
"""
    done = await world.run(world.secret(HEADER), script)
    assert world.bound.heard == []
    assert done.text.count("blocked by built-in: one host in one connection: the request is for evil.test") == 2
    assert "no TLS:" in done.text
    reasons = [record["reason"] for record in world.records() if "one host" in record["rule"]]
    assert len(reasons) == 4, world.records()
    assert "TLS names evil.test in a connection to localhost" in reasons
    assert not any(record["allowed"] for record in world.records())


async def test_what_is_neither_tls_nor_http_does_not_pass_where_the_proxy_looks_in(world: World) -> None:
    speak = f"""
import socket
sock = socket.create_connection(("127.0.0.1", 3128))
sock.sendall(b"CONNECT localhost:{world.bound.port} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\nSSH-2.0-x\\r\\n\\r\\n")
while data := sock.recv(1000): print(data)
"""
    async with world.sandbox(world.secret(HEADER)) as sandbox:
        done = await sandbox.exec(("python3", "-c", speak))
    assert "400" in done.text
    assert not any(record["allowed"] for record in world.records())


async def test_a_server_that_is_not_trusted_gets_nothing(world: World) -> None:
    world.settings = replace(world.settings, extra_authorities=None)
    done = await world.run(world.secret(HEADER), f"curl -sS -k {world.bound.url}/")
    assert "the certificate of localhost is not trusted" in done.text
    assert world.bound.heard == []


async def test_an_answer_that_could_hide_the_secret_is_not_passed(world: World) -> None:
    done = await world.run(world.secret(HEADER), f"curl -sS --compressed {world.bound.url}/zipped")
    assert "the server encoded its answer" in done.text
    ((_, _, headers),) = world.bound.heard
    assert headers["Accept-Encoding"] == "identity"


async def test_a_websocket_passes_and_nothing_waits_for_the_rest_of_what_is_no_secret(world: World) -> None:
    speak = f"""
import socket, ssl
sock = socket.create_connection(("127.0.0.1", 3128))
sock.sendall(b"CONNECT localhost:{world.bound.port} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
sock.recv(1000)
inside = ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
inside.sendall(b"GET /websocket HTTP/1.1\\r\\nHost: localhost\\r\\n")
inside.sendall(b"Upgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n")
heard = inside.recv(1000)
inside.sendall(b"ping")
while not heard.endswith(b"ping {SECRET[:3]}"): heard += inside.recv(1000)
inside.sendall(b"done")
while data := inside.recv(1000): heard += data
print(heard.decode())
"""
    async with world.sandbox(world.secret(HEADER)) as sandbox:
        done = await sandbox.exec(("python3", "-c", speak))
    assert "101 " in done.text
    assert f"Bearer {'*' * len(SECRET)} frame: ping" in done.text, done
    ((_, _, headers),) = world.bound.heard
    assert (headers["Upgrade"], headers["Authorization"]) == ("websocket", f"Bearer {SECRET}")


async def test_a_large_body_streams_and_a_connection_serves_many_requests(world: World) -> None:
    script = f"""
head -c 20000000 /dev/zero > large
curl -sS -o back -T large {world.bound.url}/large -w '%{{size_download}} '
curl -sS -o back -o back -o back {world.bound.url}/1 {world.bound.url}/2 {world.bound.url}/3 -w '%{{num_connects}} '
"""
    done = await world.run(world.secret(HEADER), script)
    size, *connects = done.text.split()
    assert int(size) > 20_000_000, done
    assert connects == ["1", "0", "0"]


async def test_the_authoritys_key_is_the_hosts_alone_and_is_kept(world: World) -> None:
    async with world.sandbox(world.secret(HEADER)) as sandbox:
        first = await sandbox.exec(shell_request("cat /run/gloveport/trust.pem; ! : 2>/dev/null > $SSL_CERT_FILE"))
        again = await sandbox.exec(shell_request("ls -ln /run/gloveport/trust.pem; touch /run/gloveport/trust.pem"))
    key = world.settings.data / "authority.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE KEY" not in first.stdout
    assert first.stdout.count(b"BEGIN CERTIFICATE") >= 1
    assert (first.exit.status, again.exit.status) == (0, 1)
    assert Authority.load(key).certificate.encode() in first.stdout


async def test_a_plan_with_secrets_can_be_applied_as_it_was_printed_and_shows_nothing_else(world: World) -> None:
    async with Manager(world.settings) as manager:
        plan = await manager.plan(Spec(policy=policy(world.secret(HEADER))))
        assert SECRET not in json.dumps(plan.to_json())
        sandbox = Sandbox(await manager.apply(plan))
        done = await sandbox.exec(shell_request(f"unset no_proxy NO_PROXY; curl -sS {world.bound.url}/"))
        assert "reached" in done.text
        moved = tuple(
            replace(mount, target="/tmp/x") if getattr(mount, "target", "").endswith("trust.pem") else mount
            for mount in plan.mounts
        )
        with pytest.raises(GloveportError):
            await manager.apply(replace(plan, mounts=moved, sandbox="brave-otter-000000"))


BAD = {
    "7 bytes": "shorter than 8 bytes",
    "x": "shorter than 8 bytes",
    "": "its source is empty",
    "two\nlines of it": "a line end",
    "with a \0 in it": "a line end",
    "spaced out ": "blanks around it",
}


@pytest.mark.parametrize("value", BAD)
async def test_a_value_that_cannot_be_kept_is_refused_by_name_before_anything_is_made(world: World, value: str) -> None:
    (world.settings.data.parent / "secret").write_text(value)
    with pytest.raises(GloveportError) as caught:
        await world.run(world.secret(HEADER), "true")
    assert caught.value.message.startswith("the secret forge: ")
    assert BAD[value] in caught.value.message
    assert len(value) < 2 or value not in caught.value.message
    assert not list((world.settings.data / "audit").glob("*"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("env = 'GLOVEPORT_TEST_SECRET'", "from the environment"),
        (f"command = ['{sys.executable}', '-c', 'print(\"from a command\")']", "from a command"),
        ("keyring = 'forge/me'", "from lookup service forge username me"),
    ],
)
async def test_each_source_is_asked(
    world: World, place: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    tool = place / "secret-tool"
    tool.write_text('#!/bin/sh\necho "from $*"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    monkeypatch.setenv("GLOVEPORT_TEST_SECRET", "from the environment")
    text = world.secret(HEADER).replace(f'file = "{place / "secret"}"', source)
    done = await world.run(text, f"curl -sS {world.bound.url}/")
    ((_, _, headers),) = world.bound.heard
    assert headers["Authorization"] == f"Bearer {expected}"
    assert expected not in done.text


def test_openssl_finds_nothing_wrong_with_the_certificates(place: Path) -> None:
    authority = Authority.load(place / "authority.pem")
    (place / "ca.pem").write_text(authority.certificate)
    with serving("localhost", authority) as server:
        target = f"localhost:{server.port}"
        command = ["openssl", "s_client", "-connect", target, "-servername", "localhost", "-verify_return_error"]
        done = subprocess.run(
            [*command, "-x509_strict", "-verify_hostname", "localhost", "-CAfile", str(place / "ca.pem")],
            input=b"",
            capture_output=True,
            check=False,
            timeout=60,
        )
    assert b"Verify return code: 0 (ok)" in done.stdout, done
