"""The guest's way out as the host gets it: a socket that listens in the guest's network, accepted on out here."""

from __future__ import annotations

import os
import socket

from gloveport.errors import BackendUnavailable
from gloveport.model import EGRESS_PORT

__all__ = ["take_listener"]


def take_listener(channel: socket.socket) -> socket.socket:
    """The socket that guestd sent before its hello, when no program of the guest had run yet.

    Raises `BackendUnavailable` unless it is exactly that: a listening TCP socket on the guest's loopback.
    """
    channel.setblocking(False)
    try:
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    except OSError:
        descriptors = []
    for extra in descriptors[1:]:
        os.close(extra)
    if descriptors:
        listener = socket.socket(fileno=descriptors[0])
        if _is_the_one(listener):
            listener.setblocking(False)
            return listener
        listener.close()
    raise BackendUnavailable("guestd gave no way out", hint="see: gloveport doctor")


def _is_the_one(listener: socket.socket) -> bool:
    try:
        return (
            (listener.family, listener.type) == (socket.AF_INET, socket.SOCK_STREAM)
            and bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            and listener.getsockname() == ("127.0.0.1", EGRESS_PORT)
        )
    except OSError:
        return False
