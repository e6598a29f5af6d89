"""One sandbox's egress proxy: takes its connections and tells HTTP from SOCKS5 by the first byte."""

from __future__ import annotations

import errno
import socket

import anyio

from gloveport.egress.by_http import serve_http
from gloveport.egress.by_socks import serve_socks
from gloveport.egress.client import Client, ClientGone
from gloveport.egress.gate import Gate
from gloveport.egress.ready import readable
from gloveport.egress.socks import SOCKS_VERSION

__all__ = ["serve_egress"]

_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What this process or host has none left of, until something else ends."""
_OVER = frozenset({errno.EBADF, errno.EINVAL})
"""A listener that its owner has shut down, or closed."""
_PAUSE = 0.1
"""Seconds until it is worth asking again."""


async def serve_egress(listener: socket.socket, gate: Gate) -> None:
    """Serve until cancelled; then every connection ends at once.

    `listener` may belong to another network namespace, the guest's: nothing of the proxy is in there.
    """
    listener.setblocking(False)
    room = anyio.Semaphore(gate.budget.connections, fast_acquire=True)
    async with anyio.create_task_group() as tasks:
        while True:
            await room.acquire()
            tasks.start_soon(_serve, await _accept(listener), gate, room)


async def _serve(guest: socket.socket, gate: Gate, room: anyio.Semaphore) -> None:
    try:
        with guest, anyio.CancelScope() as scope:
            client = Client(guest, scope, seconds=gate.budget.idle_seconds)
            with gate.patience(client):
                first = await client.peek()
            if first == bytes((SOCKS_VERSION,)):
                await serve_socks(client, gate)
            elif first:
                await serve_http(client, gate)
    except (ClientGone, OSError):
        return  # what was decided is recorded; there is nobody to tell more
    finally:
        room.release()


async def _accept(listener: socket.socket) -> socket.socket:
    while True:
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            await readable(listener)
        except ConnectionAbortedError:
            continue
        except OSError as error:
            if error.errno in _OVER:
                raise anyio.ClosedResourceError from error
            if error.errno not in _SHORT:
                raise
            # The guest stays in the queue, so that the listener is readable all the time: waiting for it would spin.
            await anyio.sleep(_PAUSE)
        else:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return accepted
