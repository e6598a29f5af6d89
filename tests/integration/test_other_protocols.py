"""What else goes through a tunnel, with real clients in a real sandbox: HTTP/2 and WebSocket."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gloveport.model import ExecResult, Policy, Spec
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Sandbox, shell_request
from gloveport.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

NODE = shutil.which("node")
_WEBSOCKET_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

HTTP2_SERVER = """
const http2 = require('http2'), fs = require('fs');
const answer = (stream, headers) => {
  stream.respond({':status': 200});
  stream.end(`reached ${headers[':path']} by HTTP/${stream.session.alpnProtocol}\\n` + 'x'.repeat(70000) + '\\n');
};
const tls = process.argv[1] ? {key: fs.readFileSync(process.argv[1]), cert: fs.readFileSync(process.argv[2])} : null;
const server = tls ? http2.createSecureServer(tls) : http2.createServer();
server.on('stream', answer);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""

WEBSOCKET_CLIENT = """
// A WebSocket client knows no proxy here: its bytes are led through a tunnel that the proxy opens.
const http = require('http'), net = require('net');
const [place, target] = [new URL(process.env.http_proxy), process.argv[1]];
const lead = net.createServer((mine) => {
  const asked = http.request({host: place.hostname, port: place.port, method: 'CONNECT', path: target});
  asked.on('connect', (answer, tunnel, ahead) => {
    if (answer.statusCode !== 200) { console.log(answer.statusCode, answer.statusMessage); process.exit(1); }
    tunnel.write(ahead); mine.pipe(tunnel).pipe(mine);
  }).end();
}).listen(0, '127.0.0.1', () => {
  const talk = new WebSocket(`ws://127.0.0.1:${lead.address().port}/talk`);
  const said = ['hello', 'ä€𝄞', 'x'.repeat(60000)];
  talk.onopen = () => said.forEach((text) => talk.send(text));
  talk.onmessage = (event) => {
    if (event.data !== said.shift()) process.exit(2);
    if (!said.length) talk.close(1000, 'done');
  };
  talk.onclose = (event) => { console.log('closed', event.code, event.reason, said.length); process.exit(0); };
});
"""


def policy(text: str) -> Policy:
    return merge_layers([compile_layer(parse_document(text.encode(), "p.toml"), "project")])


async def run(settings: Settings, port: int, script: str, *, allow: bool = True) -> tuple[ExecResult, dict[str, Any]]:
    """What a script in a sandbox said, and what the trail says of its one connection."""
    verdict = "allow" if allow else "deny"
    rules = policy(f'[egress]\n{verdict} = [{{ host = "localhost:{port}", private = true, reason = "a test" }}]')
    async with Sandbox.create(Spec(policy=rules), settings=settings) as sandbox:
        done = await sandbox.exec(shell_request(f"unset no_proxy NO_PROXY\n{script}"))
    (trail,) = (settings.data / "audit").glob("*.jsonl")
    events = [json.loads(line) for line in trail.read_text().splitlines()]
    (record,) = [event["data"] for event in events if event["kind"] == "egress"]
    return done, record


def speaks_http2() -> bool:
    curl = shutil.which("curl")
    return curl is not None and "HTTP2" in subprocess.run([curl, "-V"], capture_output=True, text=True).stdout


@contextmanager
def http2_server(*arguments: str) -> Iterator[int]:
    if NODE is None or not speaks_http2():
        pytest.skip("no node to serve HTTP/2, or no curl that speaks it")
    with subprocess.Popen([NODE, "-e", HTTP2_SERVER, *arguments], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


@pytest.fixture
def certificate(place: Path) -> tuple[str, str]:
    """Files of a key and of a certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (place / "key.pem").write_bytes(private)
    (place / "certificate.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return str(place / "key.pem"), str(place / "certificate.pem")


async def test_http2_inside_tls_goes_through_a_tunnel(settings: Settings, certificate: tuple[str, str]) -> None:
    with http2_server(*certificate) as port:
        trusted = Path(certificate[1]).read_text()
        url = f"https://localhost:{port}"
        script = f"""
cat > /tmp/trusted.pem <<'PEM'
{trusted}
PEM
curl -sS --http2 --cacert /tmp/trusted.pem -w 'version %{{http_version}}\\n' {url}/1 {url}/2
"""
        done, record = await run(settings, port, script)
    assert ("reached /1 by HTTP/h2" in done.text, "reached /2 by HTTP/h2" in done.text) == (True, True), done
    assert done.text.count("version 2\n") == 2
    assert (record["protocol"], record["allowed"]) == ("connect", True)
    assert record["received"] > 140_000


async def test_http2_without_tls_goes_through_a_tunnel(settings: Settings) -> None:
    with http2_server() as port:
        script = (
            f"curl -sS --proxytunnel --http2-prior-knowledge -w 'version %{{http_version}}\\n' http://localhost:{port}/"
        )
        done, record = await run(settings, port, script)
    assert done.text.endswith("version 2\n"), done
    assert (record["protocol"], record["received"] > 70_000) == ("connect", True)


class Talk(socketserver.StreamRequestHandler):
    """A server of RFC 6455 that repeats every frame."""

    def handle(self) -> None:
        key = b""
        while (line := self.rfile.readline()).strip():
            if line.lower().startswith(b"sec-websocket-key:"):
                key = line.partition(b":")[2].strip()
        accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET_KEY, usedforsecurity=False).digest())
        switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.wfile.write(switch + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while len(head := self.rfile.read(2)) == 2:
            size = head[1] & 0x7F
            if size >= 126:
                size = int.from_bytes(self.rfile.read(2 if size == 126 else 8), "big")
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[place % 4] for place, byte in enumerate(self.rfile.read(size)))
            length = bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
            self.wfile.write(head[:1] + length + data)
            if head[0] & 0x0F == 8:
                return


class TalkServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def talk() -> Iterator[int]:
    with TalkServer(("127.0.0.1", 0), Talk) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def websocket(port: int) -> str:
    """Node's own client."""
    if NODE is None:
        pytest.skip("no node, whose WebSocket client this is")
    known = subprocess.run([NODE, "--help"], capture_output=True, text=True, check=True).stdout
    if "--experimental-websocket" not in known and "--no-experimental-websocket" not in known:
        pytest.skip("a node without a WebSocket client")
    flag = "--experimental-websocket --no-warnings" if "--experimental-websocket" in known else ""
    return f"node {flag} -e '{WEBSOCKET_CLIENT.replace(chr(39), chr(34))}' localhost:{port}"


async def test_a_websocket_talks_through_a_tunnel(settings: Settings, talk: int) -> None:
    done, record = await run(settings, talk, websocket(talk))
    assert done.text == "closed 1000 done 0\n", done
    assert (record["protocol"], record["allowed"], record["error"]) == ("connect", True, "")
    assert min(record["sent"], record["received"]) > 60_000


async def test_a_websocket_to_a_place_that_is_refused_is_told_why(settings: Settings, talk: int) -> None:
    done, record = await run(settings, talk, websocket(talk), allow=False)
    assert done.text.startswith("403 blocked by egress.deny: localhost"), done
    assert (record["allowed"], record["address"]) == (False, "")
