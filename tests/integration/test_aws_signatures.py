"""Requests to AWS from a real sandbox: signed outside it, and verified here by AWS's published algorithm."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote_plus, unquote_to_bytes

import pytest

from gloveport.egress.authority import Authority
from gloveport.errors import GloveportError
from gloveport.settings import Settings

from .conftest import Echo, Server, serving
from .test_termination import World

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]
ID = "AKIDGLOVEPORTTEST"
KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYKEY"
TOKEN = "IQoJb3JpZ2luX2VjEHoaCXVzLWVhc3Qt/session+token=="
REGION = "eu-west-1"
Headers = list[tuple[str, str]]


def hmac_of(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def encoded(data: bytes) -> str:
    return quote(data, safe="-._~")


def canonical_path(path: str, service: str) -> str:
    """What a server makes of a path: the key of an object as it is, for others the path encoded once more."""
    if service == "s3":
        return "/".join(encoded(unquote_to_bytes(part)) for part in path.split("/"))
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            kept = kept[:-1]
        elif part not in ("", "."):
            kept.append(encoded(part.encode()))
    end = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + end


def canonical_query(query: str) -> str:
    pairs = [part.partition("=") for part in query.split("&") if part]
    read = [(unquote_plus(name).encode(), unquote_plus(value).encode()) for name, _, value in pairs]
    return "&".join(
        f"{name}={value}" for name, value in sorted((encoded(name), encoded(value)) for name, value in read)
    )


def objection(
    method: str, target: str, headers: Headers, body: bytes, scope: tuple[str, str], key: tuple[str, str]
) -> str | None:
    """Why a server of `scope`, a service and a region, refuses it; `None` when `key`, id and secret, signed it."""
    service, region = scope
    given: dict[str, list[str]] = {}
    for name, value in headers:
        given.setdefault(name.lower(), []).append(" ".join(value.split()))
    said = given.get("authorization", [])
    if len(said) != 1 or not said[0].startswith("AWS4-HMAC-SHA256 "):
        return f"no signature, or several: {said}"
    parts = dict(part.strip().split("=", 1) for part in said[0].removeprefix("AWS4-HMAC-SHA256 ").split(","))
    when = given["x-amz-date"][0]
    day = when[:8]
    if parts["Credential"] != f"{key[0]}/{day}/{region}/{service}/aws4_request":
        return f"another credential: {parts['Credential']}"
    signed = parts["SignedHeaders"].split(";")
    must = {name for name in given if name.startswith("x-amz-") or name in ("host", "content-type")}
    if not must <= set(signed) or signed != sorted(signed):
        return f"not signed: {sorted(must - set(signed))}"
    payload = given.get("x-amz-content-sha256", [hashlib.sha256(body).hexdigest()])[0]
    if payload != hashlib.sha256(body).hexdigest() and payload not in (
        "UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    ):  # fmt: skip
        return "another body"
    path, _, query = target.partition("?")
    canonical = [
        method,
        canonical_path(path, service),
        canonical_query(query),
        *(f"{name}:{','.join(given[name])}" for name in signed),
        "",
        ";".join(signed),
        payload,
    ]
    to_sign = ["AWS4-HMAC-SHA256", when, f"{day}/{region}/{service}/aws4_request"]
    to_sign.append(hashlib.sha256("\n".join(canonical).encode()).hexdigest())
    signing = f"AWS4{key[1]}".encode()
    for part in (day, region, service, "aws4_request"):
        signing = hmac_of(signing, part)
    signature = hmac_of(signing, "\n".join(to_sign)).hex()
    return None if hmac.compare_digest(signature, parts["Signature"]) else f"another signature; signed is {canonical}"


def test_the_verifier_agrees_with_the_example_that_aws_publishes() -> None:
    nothing = hashlib.sha256(b"").hexdigest()
    signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    authorization = (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature={signature}"
    )
    headers = [
        ("Host", "examplebucket.s3.amazonaws.com"),
        ("Authorization", authorization),
        ("Range", "bytes=0-9"),
        ("x-amz-content-sha256", nothing),
        ("x-amz-date", "20130524T000000Z"),
    ]
    key = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    assert objection("GET", "/test.txt", headers, b"", ("s3", "us-east-1"), key) is None
    assert objection("GET", "/text.txt", headers, b"", ("s3", "us-east-1"), key) is not None
    headers[0] = ("Host", "other.s3.amazonaws.com")
    assert objection("GET", "/test.txt", headers, b"", ("s3", "us-east-1"), key) is not None


class Service(Server):
    """An AWS service in TLS that answers only what is signed for it, by `ID` and, where it knows one, its token."""

    scope: tuple[str, str]
    token: str | None = None

    def __init__(self, host: str, authority: Authority, service: str) -> None:
        super().__init__(host, authority)
        self.RequestHandlerClass = Signed
        self.scope = service, REGION
        self.taken: list[tuple[str, str, dict[str, str], bytes]] = []
        """Method, path, headers and body of what was signed well."""
        self.objections: list[str] = []


class Signed(Echo):
    server: Service  # type: ignore[assignment]

    def do_GET(self) -> None:  # noqa: N802 - its name there
        body = b"".join(self._pieces())
        headers = list(self.headers.items())
        why = objection(self.command, self.path, headers, body, self.server.scope, (ID, KEY))
        given = {name.lower(): value for name, value in headers}
        when = datetime.strptime(given.get("x-amz-date", "19700101T000000Z"), "%Y%m%dT%H%M%S%z")
        if why is None and abs((datetime.now(UTC) - when).total_seconds()) > 900:
            why = f"signed at {when}"
        if why is None and given.get("x-amz-security-token") != self.server.token:
            why = "another session token"
        if why is None and given["host"] != f"{self.server.url.removeprefix('https://')}":
            why = "another host"
        if why is not None:
            self.server.objections.append(why)
            self._answer(403, f"refused: {why}".encode())
            return
        self.server.taken.append((self.command, self.path, given, body))
        leak = f"{KEY} {quote(KEY, safe='')} {TOKEN} " + json.dumps(given)
        self._answer(200, f"accepted {len(body)} {leak if 'leak' in self.path else ''}\n".encode())


@contextmanager
def service(host: str, authority: Authority, name: str) -> Iterator[Service]:
    with serving(host, authority, partial(Service, service=name)) as server:
        assert isinstance(server, Service)
        yield server


class Aws(World):
    """A bucket, and a table of another service; both take the same key."""

    bound: Service
    other: Service

    @property
    def text(self) -> str:
        hosts = {"store": ("localhost", self.bound), "table": ("127.0.0.1", self.other)}
        allow = ", ".join(f'{{ host = "{host}:{server.port}", private = true }}' for host, server in hosts.values())
        secrets = "".join(
            f"""
[secrets.{name}]
source = {{ file = "{self.settings.data.parent / "secret"}" }}
hosts = ["{host}"]
inject = {{ sigv4 = "{" ".join(server.scope)}" }}
"""
            for name, (host, server) in hosts.items()
        )
        return f"[egress]\nallow = [{allow}]\n{secrets}"

    def use(self, token: str | None) -> None:
        """A temporary key, or one that lasts."""
        (self.settings.data.parent / "secret").write_text(":".join(filter(None, (ID, KEY, token))) + "\n")
        self.bound.token = self.other.token = token

    def ask(self, server: Service, path: str, arguments: str = "") -> str:
        """A client of AWS in the guest: curl, which signs with what it finds there."""
        name, region = server.scope
        sign = f'--aws-sigv4 "aws:amz:{region}:{name}" -u "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY"'
        return f"curl -sS --path-as-is -g {sign} {arguments} '{server.url}{path}'"


@pytest.fixture
def world(settings: Settings, place: Path) -> Iterator[Aws]:
    authority = Authority.load(place / "servers.pem")
    (place / "trusted.pem").write_text(authority.certificate)
    (place / "data").mkdir()
    with service("localhost", authority, "s3") as bucket, service("127.0.0.1", authority, "dynamodb") as table:
        made = Aws(replace(settings, extra_authorities=place / "trusted.pem"), bucket, table, authority)
        made.use(None)
        yield made


def told(world: Aws) -> list[str]:
    return world.bound.objections + world.other.objections


async def test_without_a_binding_what_a_guest_signs_is_refused_by_the_server(world: Aws) -> None:
    """The control: the server does look."""
    text = f'[egress]\nallow = [{{ host = "localhost:{world.bound.port}", private = true }}]'
    done = await world.run(text, "AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b; " + world.ask(world.bound, "/x", "-k"))
    assert "refused: another credential" in done.text, done
    assert world.bound.taken == []


@pytest.mark.parametrize("token", [None, TOKEN], ids=["a lasting key", "a temporary key"])
async def test_what_a_guest_signs_with_rubbish_arrives_signed_with_the_key(world: Aws, token: str | None) -> None:
    world.use(token)
    script = "\n".join(
        [
            world.ask(world.bound, "/bucket/key"),
            world.ask(world.bound, "/bucket/put", "-X PUT --data-binary 'some bytes' -H 'x-amz-meta-a:  b   c '"),
            world.ask(world.other, "/", """-H 'Content-Type: application/x-amz-json-1.0' -d '{"Key": {"S": "a"}}'"""),
            world.ask(world.other, "/path//to/./here%20x/", "-H 'Transfer-Encoding: chunked' -d 'in chunks'"),
            f"curl -sS {world.bound.url}/unsigned",
        ]
    )
    done = await world.run(world.text, script)
    assert told(world) == [], done
    assert done.text.count("accepted") == 5, done
    taken = {
        (method, path): (headers["x-amz-content-sha256"], body) for method, path, headers, body in world.bound.taken
    }
    assert taken == {
        ("GET", "/bucket/key"): ("UNSIGNED-PAYLOAD", b""),
        ("PUT", "/bucket/put"): ("UNSIGNED-PAYLOAD", b"some bytes"),
        ("GET", "/unsigned"): ("UNSIGNED-PAYLOAD", b""),
    }
    said = [(headers["x-amz-content-sha256"], body) for _, _, headers, body in world.other.taken]
    assert said == [(hashlib.sha256(body).hexdigest(), body) for body in (b'{"Key": {"S": "a"}}', b"in chunks")]


ODD = [
    "/a?list-type=2&prefix=a/b%20c&delimiter=%2F",
    "/a?acl",
    "/a?uploads&x=",
    "/a?q=a+b&r=%2b&s=~-._&t='()*!,;:@$",
    "/a?b=2&b=1&B=3&b-=4&b=",
    "/a?%e2%82%ac=%F0%9F%90%8D&&",
    "/a?x=%zz&y=100%25",
    "/a%2Fb/c'd(e)!/%7Euser/*:@&=$,;x",
    "/a//b/./c",
    "/%e2%82%ac/a%20b%2Bc+d",
    '/?[]={}|^`"<>#%23',
]


@pytest.mark.parametrize("where", ["bound", "other"])
async def test_odd_paths_and_queries_arrive_signed_as_a_server_reads_them(world: Aws, where: str) -> None:
    server: Service = getattr(world, where)
    host, _, port = server.url.removeprefix("https://").partition(":")
    ask = f"""
import json, socket, ssl
sock = socket.create_connection(("127.0.0.1", 3128))
sock.sendall(b"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
sock.recv(1000)
sock = ssl.create_default_context().wrap_socket(sock, server_hostname="{host}")
for path in json.loads({json.dumps(ODD)!r}):
    sock.sendall(b"GET " + path.encode() + b" HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n")
    heard = sock.recv(10000)
    while b"accepted" not in heard and b"refused" not in heard: heard += sock.recv(10000)
    print(heard)
"""
    async with world.sandbox(world.text) as sandbox:
        done = await sandbox.exec(("python3", "-c", ask))
    assert told(world) == [], done
    paths = [path for _, path, _, _ in server.taken]
    assert [unquote_plus(path.partition("?")[2]) for path in paths] == [
        unquote_plus(path.partition("?")[2].replace("&&", "")) for path in ODD
    ], done
    assert [unquote_to_bytes(path.partition("?")[0]) for path in paths] == [
        unquote_to_bytes(path.partition("?")[0]) for path in ODD
    ]


async def test_the_key_is_nowhere_in_the_guest_nor_in_the_trail_and_masked_in_answers(world: Aws) -> None:
    world.use(TOKEN)
    asks = "; ".join(world.ask(server, "/leak") for server in (world.bound, world.other))
    done = await world.run(world.text, f"env; {asks}")
    assert len(world.bound.taken) == len(world.other.taken) == 1, (done, told(world))
    assert done.text.count("accepted") == 2
    for secret in (KEY, quote(KEY, safe=""), TOKEN):
        assert secret not in done.text
        assert secret.encode() not in world.written()
        assert "*" * len(secret) in done.text
    kept = dict(line.partition("=")[::2] for line in done.text.splitlines() if line.startswith("AWS_"))
    assert kept["AWS_ACCESS_KEY_ID"] == kept["AWS_SECRET_ACCESS_KEY"]
    assert kept["AWS_ACCESS_KEY_ID"].startswith("gloveport-secret-store-")


async def test_a_presigned_address_is_signed_anew_and_one_of_the_guests_own_making_is_no_use(world: Aws) -> None:
    signed = "X-Amz-Algorithm=x&X-Amz-Credential=$AWS_ACCESS_KEY_ID%2F2026&X-Amz-Signature=0&x-amz-security-token=t"
    done = await world.run(world.text, f'curl -sS "{world.bound.url}/a?{signed}&versionId=1"')
    assert [path for _, path, _, _ in world.bound.taken] == ["/a?versionId=1"], (done, told(world))


STRAYS = {
    "another header": '-H "X-Key: $AWS_SECRET_ACCESS_KEY" {bound}/',
    "another parameter": '"{bound}/?AWSAccessKeyId=$AWS_ACCESS_KEY_ID"',
    "plain text": '-H "Authorization: $AWS_ACCESS_KEY_ID" http://localhost:{port}/',
}


@pytest.mark.parametrize("how", STRAYS)
async def test_a_placeholder_outside_a_signature_raises_an_alarm(world: Aws, how: str) -> None:
    place = STRAYS[how].format(bound=world.bound.url, port=world.bound.port)
    done = await world.run(world.text, f"curl -sS {place}")
    assert "blocked by built-in: placeholders of secrets" in done.text
    assert [record["alarm"] for record in world.records()] == ["store"]
    assert world.bound.taken == []
    assert told(world) == []


async def test_nothing_is_signed_for_another_host_than_the_one_of_the_connection(world: Aws) -> None:
    there = world.other.url.removeprefix("https://")
    done = await world.run(world.text, world.ask(world.bound, "/x", f"-H 'Host: {there}'"))
    assert "blocked by built-in: one host in one connection" in done.text
    assert (world.bound.taken, world.other.taken, told(world)) == ([], [], [])


UNSIGNABLE = {
    "signed chunks": ("bound", "-H 'x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD'"),
    "signed chunks with a trailer": ("bound", "-H 'x-amz-content-sha256: streaming-aws4-hmac-sha256-payload-trailer'"),
    "signed events": ("other", "-H 'x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-EVENTS'"),
    "chunks of another service": ("other", "-H 'x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER'"),
    "chunks of unknown kind": ("bound", "-H 'Content-Encoding: gzip, aws-chunked'"),
    "what is no text": ("bound", "-H x-amz-meta-a:$'\\xff'"),
}


@pytest.mark.parametrize("how", UNSIGNABLE)
async def test_what_cannot_be_signed_anew_is_refused_and_recorded(world: Aws, how: str) -> None:
    where, arguments = UNSIGNABLE[how]
    server: Service = getattr(world, where)
    done = await world.run(world.text, f"curl -sS -X PUT -d body {arguments} {server.url}/x")
    assert "blocked by built-in: signatures for AWS: " in done.text, done
    (record,) = world.records()
    assert (record["allowed"], record["rule"], record["alarm"]) == (False, "built-in: signatures for AWS", "")
    assert (server.taken, told(world)) == ([], [])


async def test_unsigned_chunks_pass_as_clients_of_today_send_them(world: Aws) -> None:
    body = "a\r\n0123456789\r\n0\r\nx-amz-checksum-crc32:pDr7CQ==\r\n\r\n"
    arguments = (
        "-X PUT --data-binary @body -H 'x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER' "
        "-H 'Content-Encoding: aws-chunked' -H 'x-amz-trailer: x-amz-checksum-crc32' "
        "-H 'x-amz-decoded-content-length: 10'"
    )
    done = await world.run(world.text, f"printf {body!r} > body; curl -sS {arguments} {world.bound.url}/x")
    ((_, _, headers, sent),) = world.bound.taken or pytest.fail(str((done, told(world))))
    assert (headers["x-amz-content-sha256"], sent) == ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", body.encode())


async def test_a_large_body_is_streamed_to_s3_and_refused_where_its_hash_is_needed(world: Aws) -> None:
    script = f"""
head -c 17000000 /dev/zero > large; head -c 16000000 /dev/zero > fits
curl -sS -T large {world.bound.url}/large
curl -sS --data-binary @fits {world.other.url}/fits
curl -sS --data-binary @large {world.other.url}/large
"""
    done = await world.run(world.text, script)
    assert told(world) == []
    assert [len(body) for _, _, _, body in world.bound.taken] == [17_000_000], done
    assert [len(body) for _, _, _, body in world.other.taken] == [16_000_000], done
    last = world.records()[-1]
    assert (last["allowed"], last["rule"]) == (False, "built-in: signatures for AWS")
    assert "larger than 16 MiB" in last["reason"]


@pytest.mark.parametrize("value", ["AKIDEXAMPLE", f"{ID}:{KEY}:{TOKEN}:more", '{"AccessKeyId": "a"}'])
async def test_what_is_no_key_is_refused_by_name_before_anything_is_made(world: Aws, value: str) -> None:
    (world.settings.data.parent / "secret").write_text(value)
    with pytest.raises(GloveportError) as caught:
        await world.run(world.text, "true")
    assert caught.value.message.startswith("the secret store: its value is not ACCESS_KEY_ID:SECRET_ACCESS_KEY")
    assert value not in caught.value.message
