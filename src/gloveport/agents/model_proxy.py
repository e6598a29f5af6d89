"""The model proxy: a jailed agent's only way to the model; it holds the real key and meters every call."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path

import anyio
import httpx2
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from gloveport.agents.forwarding import Exchange, forward, select_headers, upstream_client
from gloveport.agents.model_api import (
    COUNT_TOKENS_PATH,
    MESSAGES_PATH,
    ApiError,
    TokenUsage,
    UsageReader,
    read_model_request,
)
from gloveport.agents.model_budget import BudgetMeter, ModelBudget, Spend
from gloveport.agents.model_rules import ModelRules
from gloveport.agents.serving import serve_app, unix_listener

__all__ = ["Credential", "ModelCall", "ModelProxy", "ModelProxySpec", "serve_model_proxy"]

_PATHS = frozenset({MESSAGES_PATH, COUNT_TOKENS_PATH})
_QUERY = re.compile(rb"[\w=&%.+-]*")
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The secret the upstream wants, as the header that carries it. It never shows in a representation."""

    header: str
    value: str = field(repr=False)

    @classmethod
    def api_key(cls, key: str) -> Credential:
        """An API key, sent as `x-api-key`."""
        return cls(header="x-api-key", value=key)

    @classmethod
    def auth_token(cls, token: str) -> Credential:
        """A bearer token, as gateways want it."""
        return cls(header="authorization", value=f"Bearer {token}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProxySpec:
    """Where a sandbox's model requests go, and within which bounds."""

    upstream: str
    """Base URL of a Messages API; `/v1/messages` is appended."""
    credential: Credential
    rules: ModelRules = field(default_factory=ModelRules)
    budget: ModelBudget = field(default_factory=ModelBudget)
    max_body_bytes: int = 32 * 2**20
    max_concurrent_calls: int = 8
    """Calls in flight; more wait. Together with `max_body_bytes` it bounds the proxy's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One request that reached the proxy, forwarded or refused. Holds no part of a body."""

    path: str
    model: str | None
    """None when the request was refused before its model was known."""
    status: int | None
    """HTTP status sent to the client; None when it was gone before."""
    refusal: str | None = None
    """Why the proxy answered in the upstream's place; None for what was forwarded."""
    usage: TokenUsage | None = None
    """Tokens by the upstream's count, as far as it was seen; None when there was none."""
    cost: float = 0.0
    """US dollars charged to the budget."""
    complete: bool = False
    """Whether the client got the whole answer."""
    duration: float = 0.0
    """Seconds, from the request's first byte."""
    request_bytes: int = 0
    response_bytes: int = 0


class ModelProxy:
    """The proxy of one sandbox, as an ASGI app.

    `on_call` is told of every request when it is over, refused and cancelled ones too; it must not block.
    """

    def __init__(self, spec: ModelProxySpec, client: httpx2.AsyncClient, on_call: Callable[[ModelCall], None]) -> None:
        self._spec = spec
        self._client = client
        self._on_call = on_call
        self._meter = BudgetMeter(spec.budget)
        self._slots = anyio.CapacityLimiter(spec.max_concurrent_calls)

    @property
    def spend(self) -> Spend:
        """What the sandbox has used of its budget."""
        return self._meter.spend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one request, then forward it or answer with an error."""
        request = Request(scope, receive)
        async with self._slots:
            # Not `request.url`: that is put together with the Host header, which the guest chooses.
            call = _OpenCall(path=scope["path"])
            try:
                call.error = await self._handle(request, send, call)
                if call.error is not None:
                    await call.error.response()(scope, receive, send)
            except ClientDisconnect:
                return
            finally:
                self._on_call(self._close(call))

    async def _handle(self, request: Request, send: Send, call: _OpenCall) -> ApiError | None:
        """Forward `request`; the error that answers it instead is returned."""
        if request.method != "POST" or call.path not in _PATHS:
            return ApiError(403, "permission_error", "only POST of messages and of their token counts passes")
        if not _QUERY.fullmatch(request.scope["query_string"]):
            return ApiError(400, "invalid_request_error", "the query holds odd characters")
        body = await _read_body(request, self._spec.max_body_bytes)
        if isinstance(body, ApiError):
            return body
        call.request_bytes = len(body)
        asked = read_model_request(body)
        if isinstance(asked, ApiError):
            return asked
        call.model = asked.model
        error = self._spec.rules.refusal(asked)
        if error is None and call.path == MESSAGES_PATH:
            error = self._meter.start_call(asked.model)
        if error is not None:
            return error
        await forward(
            self._client,
            self._upstream_request(request, call.path, body),
            receive=request.receive,
            send=send,
            read=call.tokens.read,
            exchange=call.exchange,
        )
        return ApiError(502, "api_error", failure) if (failure := call.exchange.failure) else None

    def _upstream_request(self, request: Request, path: str, body: bytes) -> httpx2.Request:
        """The request as the upstream gets it."""
        credential = self._spec.credential
        query = request.scope["query_string"] or None
        url = httpx2.URL(self._spec.upstream.rstrip("/") + path).copy_with(query=query)
        headers = select_headers(request.headers.items()) | {credential.header: credential.value}
        return self._client.build_request("POST", url, headers=headers, content=body)

    def _close(self, call: _OpenCall) -> ModelCall:
        """Charge a call that is over, and describe it."""
        usage = call.charged_usage()
        cost = self._meter.charge(call.model, usage) if call.model and usage else 0.0
        error, exchange = call.error, call.exchange
        return ModelCall(
            path=call.path,
            model=call.model,
            status=error.status if error else exchange.status,
            refusal=error.message if error else None,
            usage=usage,
            cost=cost,
            complete=exchange.complete,
            duration=time.monotonic() - call.started,
            request_bytes=call.request_bytes,
            response_bytes=exchange.sent_bytes,
        )


@asynccontextmanager
async def serve_model_proxy(
    path: Path,
    spec: ModelProxySpec,
    *,
    on_call: Callable[[ModelCall], None],
    owner_uid: int | None = None,
) -> AsyncIterator[ModelProxy]:
    """A model proxy that listens on a unix socket at `path` (mode 0600) for the duration of the block.

    `owner_uid` is the host uid that the guest's user maps to, when it is not the caller's. Calls still open
    at the end are cancelled, and told to `on_call`. Raises `InvalidRequest` when `path` cannot be bound.
    """
    with unix_listener(path, owner_uid=owner_uid) as listener:
        async with upstream_client() as client:
            proxy = ModelProxy(spec, client, on_call)
            async with serve_app(proxy, listener):
                yield proxy


@dataclass(slots=True, kw_only=True)
class _OpenCall:
    """What is known of a call while it lasts."""

    path: str
    started: float = field(default_factory=time.monotonic)
    model: str | None = None
    error: ApiError | None = None
    request_bytes: int = 0
    tokens: UsageReader = field(default_factory=UsageReader)
    exchange: Exchange = field(default_factory=Exchange)

    def charged_usage(self) -> TokenUsage | None:
        """Tokens to charge: the upstream's count, or a generous estimate where the answer was cut short.

        Without the estimate, a guest that hangs up before the last event would have its tokens for nothing.
        """
        exchange, seen = self.exchange, self.tokens.usage
        if self.error is not None or self.path != MESSAGES_PATH or exchange.status not in {None, HTTPStatus.OK}:
            return None
        if exchange.complete and seen is not None:
            return seen
        usage = seen or TokenUsage(input=self.request_bytes // _BYTES_PER_TOKEN)
        return replace(usage, output=max(usage.output, exchange.sent_bytes // _BYTES_PER_TOKEN))


async def _read_body(request: Request, max_bytes: int) -> bytes | ApiError:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            return ApiError(413, "request_too_large", f"the request exceeds {max_bytes} bytes")
        body += chunk
    return bytes(body)
