"""A server that repeats what it was asked, plain or in TLS: what proxies are tried with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from gloveport.egress.authority import Authority


class Echo(BaseHTTPRequestHandler):
    """Repeats what it was asked, as careless servers do; paths ask for other ways to say it."""

    protocol_version: ClassVar[str] = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.heard.append((self.command, self.path, dict(self.headers)))
        if self.path.startswith("/count"):
            self._answer(200, str(sum(map(len, self._pieces()))).encode())
            return
        body = f"reached {self.command} {self.path}\n{self.headers}".encode() + b"".join(self._pieces())
        if self.path.startswith("/websocket"):
            self._switch()
        elif self.path.startswith("/away"):
            self._answer(302, body, Location=f"{self.server.elsewhere}/?{self.path}")
        elif self.path.startswith("/zipped"):
            self._answer(200, body, **{"Content-Encoding": "gzip"})
        elif self.path.startswith("/pieces"):
            self._answer_bytewise(body)
        elif self.path.startswith("/zeros/"):
            self._answer_zeros(int(self.path.removeprefix("/zeros/")))
        else:
            self._answer(200, body, **{"X-Echo": self.headers.get("Authorization") or ""})

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def _pieces(self) -> Iterator[bytes]:
        """The request's body."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left and (piece := self.rfile.read(min(left, 2**20))):
            left -= len(piece)
            yield piece

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _answer_bytewise(self, body: bytes) -> None:
        """One byte a chunk: every secret is cut everywhere."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for place in range(len(body)):
            self.wfile.write(b"1\r\n%c\r\n" % body[place])
        self.wfile.write(b"0\r\n\r\n")

    def _answer_zeros(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        zeros = bytes(2**20)
        for _ in range(size // len(zeros)):
            self.wfile.write(zeros)

    def _switch(self) -> None:
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        said = self.headers["Authorization"].encode()
        self.wfile.write(said + b" frame: " + self.rfile.read(4) + b" " + said.split()[1][:3])
        self.rfile.read(4)
        self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, host: str = "localhost", authority: Authority | None = None) -> None:
        """In TLS where an authority signs for `host`."""
        super().__init__(("127.0.0.1", 0), Echo)
        if authority is not None:
            self.socket = authority.tls(host).context.wrap_socket(self.socket, server_side=True)
        self.url = f"{'http' if authority is None else 'https'}://{host}:{self.port}"
        self.heard: list[tuple[str, str, dict[str, str]]] = []
        """Method, path, headers."""
        self.elsewhere = ""
        """Where `/away` leads."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        return


@contextmanager
def serving(
    host: str = "localhost", authority: Authority | None = None, make: Callable[..., Server] | None = None
) -> Iterator[Server]:
    """A server that runs meanwhile; `make` makes one of another kind."""
    with (make or Server)(host, authority) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a plain one."""
    with serving() as server:
        yield server.port
