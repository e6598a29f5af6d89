"""Listens on the runner's socket, hands each connection to the verbs, and stops when nobody needs it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
from collections.abc import Callable
from functools import partial

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup

from gloveport.errors import Conflict, GloveportError, Internal
from gloveport.runner.calls import Calls
from gloveport.runner.connection import Connection
from gloveport.runner.contain import contain
from gloveport.sandbox import Manager
from gloveport.settings import Settings
from gloveport.store import DirectoryLock, make_private, try_claim

__all__ = ["Runner"]

SWEEP_SECONDS = 5.0
"""How soon what a killed process left behind is gone."""
_CLAIM_SECONDS = 30.0
_CLAIM_POLL_SECONDS = 0.05
_ACCEPT_PAUSE_SECONDS = 0.1
_PEER = struct.Struct("3i")
_log = logging.getLogger(__name__)


class Runner:
    """One per state directory. It serves its own user only, and its sandboxes end when it does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calls = 0
        self._idle_since = 0.0

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until idle, SIGTERM or SIGINT; then delete every sandbox. `ready` is called once it listens.

        Raises `Conflict` when another runner keeps the state directory.
        """
        make_private(self._settings.state, mode=0o711)
        lock = await _claim(self._settings)
        try:
            async with Manager(self._settings) as manager:
                await contain("the sweep", manager.sweep)
                await self._serve(manager, ready)
        finally:
            lock.release()

    async def _serve(self, manager: Manager, ready: Callable[[], None] | None) -> None:
        path = self._settings.socket
        before = os.umask(0o177)
        try:
            listener = await anyio.create_unix_listener(path, mode=0o600)
        finally:
            os.umask(before)
        try:
            async with listener, anyio.create_task_group() as tasks:
                calls = Calls(manager, tasks)
                tasks.start_soon(self._stop_on_signal, tasks.cancel_scope)
                tasks.start_soon(self._stop_when_idle, manager, tasks.cancel_scope)
                if ready is not None:
                    ready()
                _log.info("listening on %s", path)
                await self._accept(listener, calls, tasks)
        finally:
            path.unlink(missing_ok=True)
            _log.info("stopped")

    async def _accept(self, listener: SocketListener, calls: Calls, tasks: TaskGroup) -> None:
        """Take connections for ever. Without descriptors for them, they wait until some are free again."""
        short = False
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
                tasks.start_soon(contain, "a connection", partial(self._take, stream, calls))

    async def _take(self, stream: SocketStream, calls: Calls) -> None:
        """One connection, to its end."""
        self._calls += 1
        try:
            async with stream:
                if _is_own_user(stream):
                    await self._answer(Connection(stream), calls)
        finally:
            self._calls -= 1
            self._idle_since = anyio.current_time()

    async def _answer(self, connection: Connection, calls: Calls) -> None:
        async with anyio.create_task_group() as tasks:

            async def cancel_when_gone() -> None:
                await connection.fill_inbox()
                tasks.cancel_scope.cancel()

            try:
                await connection.greet()
                request = await connection.receive_call()
                if request is not None:
                    tasks.start_soon(cancel_when_gone)
                    await connection.result(await calls.answer(request, connection))
            except GloveportError as error:
                await connection.fail(error)
            except Exception:  # noqa: BLE001 - a defect in one call must not end everybody's sandboxes
                _log.exception("a call failed")
                log = self._settings.data / "runner.log"
                await connection.fail(Internal("the runner failed", hint=f"please report it with the end of {log}"))
            tasks.cancel_scope.cancel()

    async def _stop_on_signal(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                _log.info("stopping: %s", number.name)
                scope.cancel()

    async def _stop_when_idle(self, manager: Manager, scope: anyio.CancelScope) -> None:
        """Sweep now and then, and stop after `idle_seconds` without a sandbox and without a call."""
        self._idle_since = anyio.current_time()
        while True:
            await anyio.sleep(min(SWEEP_SECONDS, self._settings.idle_seconds))
            await contain("the sweep", manager.sweep)
            if manager.count or self._calls:
                self._idle_since = anyio.current_time()
            elif anyio.current_time() - self._idle_since >= self._settings.idle_seconds:
                _log.info("stopping: idle")
                scope.cancel()
                return


async def _claim(settings: Settings) -> DirectoryLock:
    """The state directory for this runner alone; waits for one that is just stopping."""
    with anyio.move_on_after(_CLAIM_SECONDS):
        while True:
            lock = try_claim(settings.state)
            if lock is not None:
                return lock
            await anyio.sleep(_CLAIM_POLL_SECONDS)
    raise Conflict(
        f"another runner keeps {settings.state}", hint="stop it with: gloveport runner stop", path=str(settings.state)
    )


def _is_own_user(stream: SocketStream) -> bool:
    peer: socket.socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
    credentials: tuple[int, int, int] = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    uid = credentials[1]
    if uid != os.geteuid():
        _log.warning("refused a connection of uid %d", uid)
        return False
    return True
