"""The desk's verbs, and the socket at which the process of one run answers them."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import SocketListener

from gloveport.client.codec import decode, encode
from gloveport.client.desks import directory_of, live_desks
from gloveport.errors import BackendUnavailable
from gloveport.listen.connection import Connection
from gloveport.listen.server import CallServer
from gloveport.listen.verbs import Verb, answer, field
from gloveport.model import AnswerKind
from gloveport.sandbox.approvals import Desk
from gloveport.settings import Settings
from gloveport.store import make_private

__all__ = ["DeskCalls", "open_desk"]


class DeskCalls:
    """Questions and grants of one desk, for callers of this user."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.verbs: Mapping[str, Verb] = {
            "approvals": self._approvals,
            "approve": self._approve,
            "grants": self._grants,
            "revoke": self._revoke,
        }

    async def _approvals(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        return {"approvals": encode(self._desk.pending())}

    async def _approve(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        kind = decode(AnswerKind, field(request, "answer", str))
        return {"grant": encode(self._desk.answer(field(request, "id", str), kind, _own_user()))}

    async def _grants(self, _request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        return {"grants": encode(self._desk.grants())}

    async def _revoke(self, request: Mapping[str, Any], _connection: Connection) -> Mapping[str, Any]:
        grant, closed = self._desk.revoke(field(request, "id", str), _own_user())
        return {"grant": encode(grant), "closed": closed}


@asynccontextmanager
async def open_desk(desk: Desk, run: str, settings: Settings) -> AsyncIterator[None]:
    """Let `gloveport approvals` answer at this process's desk, under the run's id, while the scope lasts.

    What dead runs left is removed. Raises `BackendUnavailable` where nothing can listen; errors of the body pass as
    they are.
    """
    make_private(settings.state, mode=0o711)
    make_private(settings.desks)
    live_desks(settings.desks)
    calls = partial(answer, DeskCalls(desk).verbs)
    server = CallServer(calls, name=f"the desk of run {run}", hint="please report it with what the run printed")
    with directory_of(settings.desks) as directory:
        path = directory / f"{run}.sock"
        async with AsyncExitStack() as stack:
            stack.callback(path.unlink, missing_ok=True)
            listener = await stack.enter_async_context(await _listen(path, settings))
            tasks = await anyio.create_task_group().__aenter__()
            # Told of no error, the group wraps none: what the body raised passes as it is.
            stack.push_async_callback(tasks.__aexit__, None, None, None)
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(server.serve, listener)
            yield


async def _listen(path: Path, settings: Settings) -> SocketListener:
    """Nobody sees the socket before it listens: who found it then would take it for a dead run's."""
    hidden = path.with_name(f".{path.name}")
    try:
        listener = await anyio.create_unix_listener(hidden, mode=0o600)
        hidden.rename(path)
    except OSError as error:
        raise BackendUnavailable(
            f"cannot listen in {settings.desks}: {error.strerror}", hint="check who owns it, or run with --no-ask"
        ) from error
    return listener


def _own_user() -> str:
    """Who calls: the kernel said of every connection that it is this user's own, or nobody answered it."""
    uid = os.geteuid()
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
