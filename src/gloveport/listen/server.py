"""Takes connections from this user's own processes, one call each, and keeps what goes wrong in one to that one."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream

from gloveport.errors import GloveportError, Internal
from gloveport.listen.connection import Connection
from gloveport.listen.contain import contain

__all__ = ["Answer", "CallServer"]

Answer = Callable[[Mapping[str, Any], Connection], Awaitable[Mapping[str, Any]]]
"""The result of one call; what it raises of our own errors goes to the caller."""
_ACCEPT_PAUSE_SECONDS = 0.1
_PEER = struct.Struct("3i")
_log = logging.getLogger(__name__)


class CallServer:
    """Answers calls with `answer`. After a defect a caller hears that `name` failed, and `hint`."""

    def __init__(self, answer: Answer, *, name: str, hint: str) -> None:
        self.calls = 0
        """How many are open."""
        self.idle_since = anyio.current_time()
        """When the last one ended, on the event loop's clock."""
        self._answer = answer
        self._name = name
        self._hint = hint

    async def serve(self, listener: SocketListener) -> None:
        """Take connections for ever. Without descriptors for them, they wait until some are free again."""
        short = False
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    stream = await listener.accept()
                except anyio.BrokenResourceError:
                    if not short:
                        _log.exception("cannot take connections for a while")
                    short = True
                    await anyio.sleep(_ACCEPT_PAUSE_SECONDS)
                else:
                    short = False
                    tasks.start_soon(contain, "a connection", partial(self._take, stream))

    async def _take(self, stream: SocketStream) -> None:
        """One connection, to its end."""
        self.calls += 1
        try:
            async with stream:
                if _is_own_user(stream):
                    await self._converse(Connection(stream))
        finally:
            self.calls -= 1
            self.idle_since = anyio.current_time()

    async def _converse(self, connection: Connection) -> None:
        async with anyio.create_task_group() as tasks:

            async def cancel_when_gone() -> None:
                await connection.fill_inbox()
                tasks.cancel_scope.cancel()

            try:
                await connection.greet()
                request = await connection.receive_call()
                if request is not None:
                    tasks.start_soon(cancel_when_gone)
                    await connection.result(await self._answer(request, connection))
            except GloveportError as error:
                await connection.fail(error)
            except Exception:  # noqa: BLE001 - a defect in one call must not end everybody's sandboxes
                _log.exception("a call failed")
                await connection.fail(Internal(f"{self._name} failed", hint=self._hint))
            tasks.cancel_scope.cancel()


def _is_own_user(stream: SocketStream) -> bool:
    peer: socket.socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
    credentials: tuple[int, int, int] = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    uid = credentials[1]
    if uid != os.geteuid():
        _log.warning("refused a connection of uid %d", uid)
        return False
    return True
