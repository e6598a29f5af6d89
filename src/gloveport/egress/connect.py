"""Connected sockets: the one place where this process opens a connection for a guest."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Sequence

from gloveport.egress.ready import writable
from gloveport.egress.record import Address

__all__ = ["Unreachable", "connect"]


class Unreachable(Exception):
    """Allowed, but nobody answers there."""


async def connect(addresses: Sequence[Address], port: int, until: float = math.inf) -> tuple[socket.socket, Address]:
    """A non-blocking socket to the first address that answers.

    Raises `OSError`, the last one's, when none does, and `Late` when none did before `until`, by `time.monotonic`.
    """
    trouble = OSError("no address")
    for address in addresses:
        try:
            return await _try(address, port, until), address
        except OSError as error:
            trouble = error
    raise trouble


async def _try(address: Address, port: int, until: float) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connecting.connect((str(address), port))
        except BlockingIOError:
            if not _is_connected(connecting):
                await writable(connecting, until)
                number = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if number:
                    raise OSError(number, os.strerror(number)) from None
    except BaseException:
        connecting.close()
        raise
    return connecting


def _is_connected(connecting: socket.socket) -> bool:
    """Whether there is nothing to wait for: on this host itself there seldom is."""
    try:
        connecting.getpeername()
    except OSError:
        return False
    return True
