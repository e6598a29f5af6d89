"""The server's side of SOCKS5 (RFC 1928): CONNECT alone, without authentication, byte for byte."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

__all__ = ["SOCKS_VERSION", "Malformed", "SocksStatus", "reply", "take_greeting", "take_request"]

SOCKS_VERSION = 5
_CONNECT = 1
_NO_AUTHENTICATION, _NOTHING_ACCEPTABLE = 0, 0xFF
_IPV4, _NAME, _IPV6 = 1, 3, 4

Read = Callable[[int], Awaitable[bytes]]
"""Exactly so many bytes."""


class Malformed(Exception):
    """The client does not speak SOCKS5, or asks for something else than CONNECT; the argument is the reply."""


class SocksStatus:
    """Replies of RFC 1928, section 6."""

    SUCCEEDED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    UNREACHABLE = 4
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


async def take_greeting(read: Read) -> bytes:
    """Read the methods after the version byte; the answer to send. Raises `Malformed` with one that refuses."""
    (count,) = await read(1)
    if _NO_AUTHENTICATION not in await read(count):
        raise Malformed(bytes((SOCKS_VERSION, _NOTHING_ACCEPTABLE)))
    return bytes((SOCKS_VERSION, _NO_AUTHENTICATION))


async def take_request(read: Read) -> tuple[str, int]:
    """Read a request; the host as the client wrote it, and the port. Raises `Malformed`.

    Names may hold any byte: they are given as Latin-1, and judged like those of every other protocol.
    """
    version, command, _, kind = await read(4)
    if version != SOCKS_VERSION:
        raise Malformed(b"")
    if command != _CONNECT:
        raise Malformed(reply(SocksStatus.COMMAND_NOT_SUPPORTED))
    if kind == _IPV4:
        host = str(ipaddress.IPv4Address(await read(4)))
    elif kind == _IPV6:
        host = str(ipaddress.IPv6Address(await read(16)))
    elif kind == _NAME:
        (size,) = await read(1)
        host = (await read(size)).decode("latin-1")
    else:
        raise Malformed(reply(SocksStatus.ADDRESS_NOT_SUPPORTED))
    return host, int.from_bytes(await read(2), "big")


def reply(status: int) -> bytes:
    """The answer to a request. The bound address is of no use to anybody, and is nought."""
    return bytes((SOCKS_VERSION, status, 0, _IPV4, 0, 0, 0, 0, 0, 0))
