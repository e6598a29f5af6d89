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
from starlette.types import Message, Receive, Scope, Send

from gloveport.agents.forwarding import Exchange, forward, select_headers, upstream_client
from gloveport.agents.model_api import (
    COUNT_TOKENS_PATH,
    MESSAGES_PATH,
    ApiError,
    TokenUsage,
    UsageReader,
    read_model_request,
)
from gloveport.agents.model_budget import BudgetMeter, Exhaustion, ModelBudget, Spend
from gloveport.agents.model_rules import ModelRules
from gloveport.agents.model_tape import TapedAnswer, TapeWriter
from gloveport.agents.serving import serve_app, unix_listener

__all__ = ["Credential", "ModelCall", "ModelProxy", "ModelProxySpec", "serve_model_proxy"]

_PATHS = frozenset({MESSAGES_PATH, COUNT_TOKENS_PATH})
_QUERY = re.compile(rb"[\w=&%.+-]*")
_BYTES_PER_TOKEN = 4
_BEARER = "Bearer "
_SHUT = ApiError(403, "permission_error", "too many requests were refused: nothing more is forwarded")


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
        return cls(header="authorization", value=f"{_BEARER}{token}")

    @property
    def secret(self) -> str:
        """The secret itself, which nobody in a sandbox may see."""
        return self.value.removeprefix(_BEARER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProxySpec:
    """Where a sandbox's model requests go, and within which bounds."""

    upstream: str
    """Base URL of a Messages API; `/v1/messages` is appended."""
    credential: Credential
    rules: ModelRules = field(default_factory=ModelRules)
    budget: ModelBudget = field(default_factory=ModelBudget)
    max_body_bytes: int = 32 * 2**20
    max_concurrent_calls: int = 2
    """Calls in flight; more wait. It bounds by how much a budget can be overshot and, together with `max_body_bytes`,
    the proxy's memory. Claude Code asks one thing at a time; the second is for one that it has just given up."""
    max_refusals: int = 50
    """Refused requests, the budget's included, after which the proxy forwards and reports nothing more."""


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
    cost: float | None = None
    """US dollars; None when there is nothing to pay or the model's price is not known."""
    complete: bool = False
    """Whether the client got the whole answer."""
    duration: float = 0.0
    """Seconds, from the request's first byte."""
    request_bytes: int = 0
    response_bytes: int = 0


class ModelProxy:
    """The proxy of one sandbox, as an ASGI app.

    `on_call` is told of every request when it is over, refused and cancelled ones too; it must not block. What was
    forwarded is written to `tape`.
    """

    def __init__(
        self,
        spec: ModelProxySpec,
        client: httpx2.AsyncClient,
        on_call: Callable[[ModelCall], None],
        tape: TapeWriter | None = None,
    ) -> None:
        self._spec = spec
        self._client = client
        self._on_call = on_call
        self._tape = tape
        self._meter = BudgetMeter(spec.budget)
        self._slots = anyio.CapacityLimiter(spec.max_concurrent_calls)
        self._open: set[_OpenCall] = set()
        self._refusals = 0
        self.on_shut: Callable[[str], None] | None = None
        """Told, with the reason, that there were too many refusals and the proxy is of no use any more."""

    @property
    def spend(self) -> Spend:
        """What the session has used of its budget, with what the open calls have used so far."""
        return self._meter.spend(
            (call.model, usage) for call in self._open if call.model and (usage := call.charged_usage())
        )

    @property
    def exhaustion(self) -> Exhaustion | None:
        """The bound of the budget that a call of the current prompt ran into."""
        return self._meter.exhaustion

    def open_prompt(self, calls: int | None = None) -> Spend:
        """Another prompt begins, for which at most `calls` requests are forwarded; what was spent before it."""
        spend = self.spend
        self._meter.open_prompt(calls, spend)
        return spend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one request, then forward it or answer with an error."""
        if self._is_shut:
            await _SHUT.response()(scope, receive, send)
            return
        request = Request(scope, receive)
        async with self._slots:
            # Not `request.url`: that is put together with the Host header, which the guest chooses.
            call = _OpenCall(path=scope["path"])
            self._open.add(call)
            try:
                call.error = await self._handle(request, send, call)
                if call.error is not None:
                    await call.error.response()(scope, receive, send)
            except ClientDisconnect:
                return
            finally:
                self._open.discard(call)
                self._end(call)

    @property
    def _is_shut(self) -> bool:
        return self._refusals >= self._spec.max_refusals

    def _end(self, call: _OpenCall) -> None:
        """Charge and report a call that is over. Those that were let in before the proxy was shut are not reported."""
        report = self._close(call)
        if self._is_shut:
            return
        self._on_call(report)
        if call.error is not None and call.error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self._refusals += 1
            if self._is_shut and self.on_shut is not None:
                self.on_shut(f"{self._refusals} requests to the model were refused, lastly because {report.refusal}")

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
        error = self._spec.rules.refusal(asked) or self._meter.start_call(self.spend)
        if error is not None:
            return error
        call.forwarded = True
        answer = TapedAnswer()
        await forward(
            self._client,
            self._upstream_request(request, call.path, body),
            receive=request.receive,
            send=send if self._tape is None else _kept(send, answer),
            read=call.tokens.read,
            exchange=call.exchange,
            secret=self._spec.credential.secret,
        )
        if self._tape is not None and answer.status:
            self._tape.add(call.path, request.scope["query_string"].decode("ascii"), asked.document, answer)
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
        price = self._meter.charge(call.model, usage) if call.model and usage else None
        error, exchange = call.error, call.exchange
        return ModelCall(
            path=call.path,
            model=call.model,
            status=error.status if error else exchange.status,
            refusal=error.message if error else None,
            usage=usage,
            cost=price.cost if price and not price.unpriced_tokens else None,
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
    tape: TapeWriter | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AsyncIterator[ModelProxy]:
    """A model proxy that listens on a unix socket at `path` (mode 0600) for the duration of the block.

    With `transport` that is asked in the network's place. Calls still open at the end are cancelled, and told to
    `on_call`. Raises `InvalidRequest` when `path` cannot be bound.
    """
    with unix_listener(path) as listener:
        async with upstream_client(transport) as client:
            proxy = ModelProxy(spec, client, on_call, tape)
            async with serve_app(proxy, listener):
                yield proxy


@dataclass(slots=True, kw_only=True, eq=False)
class _OpenCall:
    """What is known of a call while it lasts."""

    path: str
    started: float = field(default_factory=time.monotonic)
    model: str | None = None
    error: ApiError | None = None
    forwarded: bool = False
    request_bytes: int = 0
    tokens: UsageReader = field(default_factory=UsageReader)
    exchange: Exchange = field(default_factory=Exchange)

    def charged_usage(self) -> TokenUsage | None:
        """Tokens to charge: the upstream's count, or a generous estimate where the answer is cut short or not over.

        Without the estimate, a guest that hangs up before the last event would have its tokens for nothing.
        """
        exchange, seen = self.exchange, self.tokens.usage
        answers = self.forwarded and self.error is None and self.path == MESSAGES_PATH
        if not answers or exchange.status not in {None, HTTPStatus.OK}:
            return None
        if seen is not None and (exchange.complete or self.tokens.final):
            return seen
        usage = seen or TokenUsage(input=self.request_bytes // _BYTES_PER_TOKEN)
        return replace(usage, output=max(usage.output, exchange.sent_bytes // _BYTES_PER_TOKEN))


def _kept(send: Send, answer: TapedAnswer) -> Send:
    async def sending(message: Message) -> None:
        await send(message)
        answer.take(message)

    return sending


async def _read_body(request: Request, max_bytes: int) -> bytes | ApiError:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            return ApiError(413, "request_too_large", f"the request exceeds {max_bytes} bytes")
        body += chunk
    return bytes(body)
