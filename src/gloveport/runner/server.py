"""Listens on the runner's socket, hands each connection to the verbs, and stops when nobody needs it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

import anyio

from gloveport.errors import Conflict
from gloveport.listen.contain import contain
from gloveport.listen.server import CallServer
from gloveport.runner.calls import Calls
from gloveport.sandbox import Manager
from gloveport.settings import Settings
from gloveport.store import DirectoryLock, make_private, try_claim

__all__ = ["Runner"]

SWEEP_SECONDS = 5.0
"""How soon what a killed process left behind is gone."""
_CLAIM_SECONDS = 30.0
_CLAIM_POLL_SECONDS = 0.05
_log = logging.getLogger(__name__)


class Runner:
    """One per state directory. It serves its own user only, and its sandboxes end when it does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

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
                log = self._settings.data / "runner.log"
                hint = f"please report it with the end of {log}"
                server = CallServer(Calls(manager, tasks).answer, name="the runner", hint=hint)
                tasks.start_soon(self._stop_on_signal, tasks.cancel_scope)
                tasks.start_soon(self._stop_when_idle, manager, server, tasks.cancel_scope)
                if ready is not None:
                    ready()
                _log.info("listening on %s", path)
                await server.serve(listener)
        finally:
            path.unlink(missing_ok=True)
            _log.info("stopped")

    async def _stop_on_signal(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                _log.info("stopping: %s", number.name)
                scope.cancel()

    async def _stop_when_idle(self, manager: Manager, server: CallServer, scope: anyio.CancelScope) -> None:
        """Sweep now and then, and stop after `idle_seconds` without a sandbox and without a call."""
        while True:
            await anyio.sleep(min(SWEEP_SECONDS, self._settings.idle_seconds))
            await contain("the sweep", manager.sweep)
            if manager.held or server.calls:
                server.idle_since = anyio.current_time()
            elif anyio.current_time() - server.idle_since >= self._settings.idle_seconds:
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
