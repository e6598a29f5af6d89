"""Forward one HTTP response from an upstream as it arrives, while a reader looks at the same bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import anyio
import httpx2
from starlette.types import Receive, Send

from gloveport.store import MASK

__all__ = ["Exchange", "Reader", "forward", "select_headers", "upstream_client"]

Reader = Callable[[httpx2.Response], Awaitable[None]]
"""Reads a mirror of the upstream's response. What it leaves unread is forwarded all the same."""

_CONNECT_TIMEOUT_S = 15.0
_READ_TIMEOUT_S = 600.0
"""The longest silence of an upstream; a streaming one sends pings."""
_REQUEST_HEADERS = (
    "accept",
    "content-type",
    "user-agent",
    "x-app",
    "anthropic-*",
    "x-stainless-*",
    "x-claude-code-*",
)
_RESPONSE_HEADERS = (
    "content-type",
    "content-encoding",
    "retry-after",
    "request-id",
    "x-should-retry",
    "anthropic-*",
)


@dataclass(slots=True, kw_only=True)
class Exchange:
    """How far one forwarded response got. Filled in as it happens, so it is true under cancellation too."""

    status: int | None = None
    """HTTP status sent to the client, or None when it was gone before."""
    sent_bytes: int = 0
    complete: bool = False
    """Whether the client was sent the whole response."""
    failure: str | None = None
    """Why the upstream gave nothing to forward, without addresses. The client has been sent nothing then."""


def upstream_client(transport: httpx2.AsyncBaseTransport | None = None) -> httpx2.AsyncClient:
    """The HTTP client for an upstream: patient with silence, and it never follows a redirect.

    With `transport` it asks that in the network's place.
    """
    timeout = httpx2.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S, pool=None)
    limits = httpx2.Limits(max_connections=None)
    return httpx2.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False, transport=transport)


def select_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers of a client that an upstream needs: by allow-list, so no credential of the client passes.

    Asks for an unencoded response, because it is read on the way.
    """
    return _pick(headers, _REQUEST_HEADERS) | {"accept-encoding": "identity"}


async def forward(
    client: httpx2.AsyncClient,
    request: httpx2.Request,
    *,
    receive: Receive,
    send: Send,
    read: Reader,
    exchange: Exchange,
    secret: str = "",
) -> None:
    """Send `request` and stream the response to the client, one chunk in memory at a time.

    Preconditions: the client's request body has been read to its end from `receive`.
    When the client leaves, the upstream's connection is closed and this returns. When the upstream breaks
    off, the response stays incomplete, so the client sees it too. When there is nothing to forward,
    `exchange.failure` says why and the answer is left to the caller. Where the upstream repeats `secret`, as some do
    when they refuse a key, the client gets a mask.
    """
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
        try:
            response = await client.send(request, stream=True)
        except httpx2.TransportError as error:
            exchange.failure = f"the upstream did not answer ({type(error).__name__})"
        else:
            await _relay(response, send, read, exchange, secret)
        tasks.cancel_scope.cancel()


async def _cancel_when_gone(receive: Receive, cancel_scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cancel_scope.cancel()


async def _relay(response: httpx2.Response, send: Send, read: Reader, exchange: Exchange, secret: str) -> None:
    try:
        if response.is_redirect:
            exchange.failure = f"the upstream answered with a redirect ({response.status_code})"
            return
        picked = _pick(response.headers.multi_items(), _RESPONSE_HEADERS)
        headers = {name: value.replace(secret, MASK) if secret else value for name, value in picked.items()}
        await send(_start(response.status_code, headers))
        exchange.status = response.status_code
        async with aclosing(response.aiter_raw()) as raw, aclosing(_masked(raw, secret.encode())) as chunks:
            tee = _Tee(chunks, send, exchange)
            await read(httpx2.Response(response.status_code, headers=headers, stream=tee, request=response.request))
            async for _ in tee:
                pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        exchange.complete = True
    except httpx2.TransportError:
        return  # what was sent stays unfinished: the client sees the break where it happened
    finally:
        with anyio.CancelScope(shield=True):
            await response.aclose()


async def _masked(chunks: AsyncIterator[bytes], secret: bytes) -> AsyncGenerator[bytes]:
    """`chunks` with a mask for `secret`; of what could be its beginning, the end of a chunk waits for the next."""
    held = b""
    async for chunk in chunks:
        data = (held + chunk).replace(secret, MASK.encode()) if secret else chunk
        longest = min(len(secret) - 1, len(data))
        kept = next((size for size in range(longest, 0, -1) if data.endswith(secret[:size])), 0)
        held = data[len(data) - kept :]
        if len(data) > kept:
            yield data[: len(data) - kept]
    if held:
        yield held


class _Tee(httpx2.AsyncByteStream):
    """Yields each chunk to the reader once the client has it; the reader's pace never delays a chunk."""

    def __init__(self, chunks: AsyncIterator[bytes], send: Send, exchange: Exchange) -> None:
        self._chunks = chunks
        self._send = send
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._exchange.sent_bytes += len(chunk)
        return chunk


def _start(status: int, headers: Mapping[str, str]) -> dict[str, object]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


def _pick(headers: Iterable[tuple[str, str]], patterns: tuple[str, ...]) -> dict[str, str]:
    """The headers with an ASCII value that match a pattern: a whole name, or a prefix before `*`."""
    exact = {pattern for pattern in patterns if not pattern.endswith("*")}
    prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    named = ((name.lower(), value) for name, value in headers if value.isascii())
    return {name: value for name, value in named if name in exact or name.startswith(prefixes)}
