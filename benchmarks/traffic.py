"""Both ends of the traffic that is measured: run by its text, in the guest and on the host, by the same interpreter.

`serve` prints the port that it serves on. Any other word is followed by host, port and a number, and prints the seconds
that each of so many took, as JSON. Where `HTTP_PROXY` is set everything goes through that proxy.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from urllib.parse import SplitResult, unquote, urlsplit

PIECE = 2**20
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def serve() -> None:
    """Answer requests, give as many bytes as are asked for, and say everything else again."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            accepted, _ = listener.accept()
            threading.Thread(target=talk, args=(accepted,), daemon=True).start()


def talk(client: socket.socket) -> None:
    nothing = memoryview(bytes(PIECE))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client:
        while asked := client.recv(65_536):
            if asked.startswith(b"GIVE "):
                left = int(asked[5:])
                while left:
                    left -= client.send(nothing[:left])
            else:
                client.sendall(ANSWER if asked.startswith(b"GET ") else asked)


class Way:
    """To one place, through the proxy where there is one."""

    def __init__(self, host: str, port: int) -> None:
        self.place = f"{host}:{port}"
        self._proxy: SplitResult | None = urlsplit(os.environ["HTTP_PROXY"]) if "HTTP_PROXY" in os.environ else None
        proxy = self._proxy
        self._first = (proxy.hostname or "", proxy.port or 80) if proxy else (host, port)

    def first(self) -> socket.socket:
        """A connection to whoever comes first."""
        connected = socket.create_connection(self._first)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def through(self) -> socket.socket:
        """A connection to the place itself."""
        connected = self.first()
        if self._proxy is not None:
            connected.sendall(f"CONNECT {self.place} HTTP/1.1\r\nHost: {self.place}\r\n{self._name()}\r\n".encode())
            answer = until(connected, b"\r\n\r\n")
            if b" 200 " not in answer[:16]:
                raise SystemExit(answer.decode("latin-1"))
        return connected

    def request(self) -> bytes:
        """A small one, as it is said to whoever comes first."""
        target = f"http://{self.place}/" if self._proxy else "/"
        return f"GET {target} HTTP/1.1\r\nHost: {self.place}\r\nAccept: */*\r\n\r\n".encode()

    def _name(self) -> str:
        if self._proxy is None or self._proxy.username is None:
            return ""
        name = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}".encode()
        return f"Proxy-Authorization: Basic {b64encode(name).decode()}\r\n"


def until(connected: socket.socket, end: bytes) -> bytes:
    heard = b""
    while not heard.endswith(end):
        more = connected.recv(65_536)
        if not more:
            raise SystemExit(f"it ended after {heard!r}")
        heard += more
    return heard


def connect(way: Way, count: int) -> Iterator[float]:
    """New connections, one after the other. That each leads somewhere is seen after its time was taken."""
    for _ in range(count):
        began = time.perf_counter()
        connected = way.through()
        took = time.perf_counter() - began
        with connected:
            connected.sendall(b"x")
            until(connected, b"x")
        yield took


def tunnel(way: Way, count: int) -> Iterator[float]:
    """Requests on one connection to the server."""
    asked = f"GET / HTTP/1.1\r\nHost: {way.place}\r\nAccept: */*\r\n\r\n".encode()
    with way.through() as connected:
        yield from repeat(connected, asked, count)


def request(way: Way, count: int) -> Iterator[float]:
    """Requests on one connection to the proxy, which reads each of them."""
    with way.first() as connected:
        yield from repeat(connected, way.request(), count)


def repeat(connected: socket.socket, asked: bytes, count: int) -> Iterator[float]:
    for _ in range(count):
        began = time.perf_counter()
        connected.sendall(asked)
        until(connected, b"\r\n\r\nok")
        yield time.perf_counter() - began


def take(way: Way, size: int) -> Iterator[float]:
    """So many bytes at once."""
    room = bytearray(PIECE)
    with way.through() as connected:
        began = time.perf_counter()
        connected.sendall(b"GIVE %d" % size)
        while size > 0:
            more = connected.recv_into(room)
            if not more:
                raise SystemExit(f"it ended {size} bytes early")
            size -= more
        yield time.perf_counter() - began


TRAFFIC: dict[str, Callable[[Way, int], Iterator[float]]] = {
    "connect": connect,
    "tunnel": tunnel,
    "request": request,
    "take": take,
}

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        word, host, port, number = sys.argv[1:]
        print(json.dumps(list(TRAFFIC[word](Way(host, int(port)), int(number)))))
