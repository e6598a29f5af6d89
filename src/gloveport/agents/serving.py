"""Serve one ASGI app inside the running event loop, on a unix socket or a TCP port; stop it promptly."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gloveport.errors import InvalidRequest

__all__ = ["serve_app", "tcp_listener", "unix_listener"]

_KEEP_ALIVE_S = 60
_STOP_S = 2
_MOST_CONNECTIONS = 64
_BACKLOG = 16
"""Connections that wait to be accepted; the event loop takes as many at a time, each with a descriptor."""


@contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """A unix socket listening at `path` with mode 0600, unlinked at the end.

    Raises `InvalidRequest` when the path cannot be bound: taken, longer than 107 bytes, or not writable.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        try:
            listener.bind(os.fspath(path))
            bound = True
            # A bound socket refuses connections until it listens, so nobody gets in before the mode is right.
            path.chmod(0o600)
            listener.listen()
        except OSError as error:
            raise InvalidRequest(
                f"cannot listen on {path}: {error}",
                hint="give an unused path of at most 107 bytes in a directory you may write",
            ) from error
        yield listener
    finally:
        listener.close()
        if bound:
            path.unlink(missing_ok=True)


@contextmanager
def tcp_listener(host: str, port: int) -> Iterator[socket.socket]:
    """A TCP socket listening on `host` (an IPv4 address) and `port`; 0 takes any free port.

    Raises `InvalidRequest` when the address cannot be bound.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise InvalidRequest(
                f"cannot listen on {host}:{port}: {error}", hint="give a free port, or 0 for any"
            ) from error
        yield listener


@asynccontextmanager
async def serve_app(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve `app` on `listener` for the duration of the block; requests open at the end are cancelled.

    A connection beyond the 64th is closed at once: clients may be hostile, and descriptors are few.
    """
    requests = _Cancellable(app)
    server = _EmbeddedServer(
        uvicorn.Config(
            requests,
            http=_FewConnections,
            backlog=_BACKLOG,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_STOP_S,
        )
    )
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_serve, server, listener)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - passed on below: a task group would wrap it in a group
            failure = error
        finally:
            requests.cancel()
            server.stop()
    if failure is not None:
        raise failure


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    # Shielded because a cancelled uvicorn leaves its connections open; `stop` ends it within _STOP_S.
    with anyio.CancelScope(shield=True):
        await server.serve(sockets=[listener])


class _EmbeddedServer(uvicorn.Server):
    """A server that leaves signals to the program it is embedded in, and costs nothing while it is idle."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = anyio.Event()

    def stop(self) -> None:
        """Stop serving, from inside the event loop."""
        self.should_exit = True
        self._stopping.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._stopping.wait()


class _FewConnections(H11Protocol):
    """HTTP/1.1 on a bounded number of connections."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()


class _Cancellable:
    """Wraps an app so that all its open requests can be cancelled at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._scopes: set[anyio.CancelScope] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope() as cancel_scope:
            self._scopes.add(cancel_scope)
            try:
                await self._app(scope, receive, send)
            finally:
                self._scopes.discard(cancel_scope)

    def cancel(self) -> None:
        for cancel_scope in list(self._scopes):
            cancel_scope.cancel()
