"""The parent proxy: another proxy, the only one that this host reaches the internet through, asked for tunnels."""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import anyio
import h11

from gloveport.egress.client import send_all
from gloveport.egress.connect import Unreachable, connect
from gloveport.egress.ready import readable
from gloveport.egress.record import Address, Resolve
from gloveport.errors import InvalidRequest

__all__ = ["ParentProxy"]

_DEFAULT_PORT = 80
_LONGEST_HEAD = 16 * 1024
_LONGEST_CREDENTIALS = 4096
_CREDENTIALS = re.compile(r"[^:\x00-\x1f\x7f]*:[^\x00-\x1f\x7f]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentProxy:
    """Where it is, and who this host is to it. No guest is told any of it."""

    host: str
    port: int
    credentials: Path | None = None
    """A file that holds `user:password`; read for every connection, so that it may change."""

    @classmethod
    def parse(cls, url: str | None, credentials: Path | None = None) -> Self | None:
        """The one that `http://host:port` names; `None` for none. Raises `InvalidRequest`."""
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        # The text is not repeated: it may hold a password.
        if "@" in url:
            raise InvalidRequest(
                "the parent proxy's URL holds credentials, which processes and logs would show",
                hint="write user:password into a file, and name it with GLOVEPORT_PARENT_PROXY_CREDENTIALS",
            )
        if parts.scheme != "http" or not host or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise InvalidRequest(
                "not a parent proxy that this one can speak to",
                hint="set GLOVEPORT_PARENT_PROXY to http://host:port; TLS to the parent itself is not spoken",
            )
        return cls(host=host, port=port or _DEFAULT_PORT, credentials=credentials)

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"

    async def open(self, host: str, port: int, *, resolve: Resolve, seconds: float) -> socket.socket:
        """A non-blocking socket that is a tunnel to `host`, in canonical form. Raises `Unreachable`.

        There is no other way: a parent that is gone, or that refuses, is an error.
        """
        authority = f"{_bracketed(host)}:{port}"
        headers = [("Host", authority), *self._authorization()]
        try:
            with anyio.fail_after(seconds):
                peer = await self._reach(resolve)
                try:
                    await _ask(peer, authority, headers)
                except BaseException:
                    peer.close()
                    raise
                return peer
        except TimeoutError:
            raise Unreachable(f"the parent proxy opened no way to {authority} within {seconds:g} s") from None

    async def _reach(self, resolve: Resolve) -> socket.socket:
        try:
            peer, _ = await connect(await self._addresses(resolve), self.port)
        except OSError as error:
            raise Unreachable(f"the parent proxy cannot be reached: {error.strerror or error}") from error
        return peer

    async def _addresses(self, resolve: Resolve) -> Sequence[Address]:
        with suppress(ValueError):
            return [ipaddress.ip_address(self.host)]
        return await resolve(self.host)

    def _authorization(self) -> list[tuple[str, str]]:
        if self.credentials is None:
            return []
        try:
            with self.credentials.open("rb") as file:
                text = file.read(_LONGEST_CREDENTIALS).decode().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError):
            text = ""
        if not _CREDENTIALS.fullmatch(text):
            raise Unreachable("the credentials for the parent proxy cannot be read: a file that holds user:password")
        return [("Proxy-Authorization", f"Basic {base64.b64encode(text.encode()).decode()}")]


async def _ask(peer: socket.socket, authority: str, headers: list[tuple[str, str]]) -> None:
    """One `CONNECT`, answered with yes. What the server says after it stays in the socket."""
    http = h11.Connection(h11.CLIENT)
    try:
        asked = http.send(h11.Request(method="CONNECT", target=authority, headers=headers)) or b""
        await send_all(peer, asked + (http.send(h11.EndOfMessage()) or b""))
        while isinstance(answer := await _answer(peer, http), h11.InformationalResponse):
            continue
    except OSError as error:
        raise Unreachable(f"the parent proxy broke off: {error.strerror or error}") from error
    except h11.RemoteProtocolError as error:
        raise Unreachable("the parent proxy answered with something else than HTTP") from error
    if not 200 <= answer.status_code < 300:
        raise Unreachable(f"the parent proxy refused {authority}: {_spell(answer.status_code)}")


async def _answer(peer: socket.socket, http: h11.Connection) -> h11.Response | h11.InformationalResponse:
    """The head of one answer, and not a byte more: what follows is the tunnel's."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if len(head) > _LONGEST_HEAD:
            raise h11.RemoteProtocolError("too long a head")
        await readable(peer)
        seen = peer.recv(_LONGEST_HEAD, socket.MSG_PEEK)
        if not seen:
            raise OSError("it closed the connection")
        end = (head + seen).find(b"\r\n\r\n")
        head += peer.recv(len(seen) if end < 0 else end + 4 - len(head))
    http.receive_data(head)
    event = http.next_event()
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise h11.RemoteProtocolError("no answer")
    return event


def _spell(status: int) -> str:
    """In our own words: what another says has no business in a record or a guest."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
