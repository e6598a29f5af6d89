"""A Messages API endpoint without a model behind it: routing, streaming and a record of every request."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gloveport.agents.model_api import COUNT_TOKENS_PATH, MESSAGES_PATH, ApiError
from gloveport.agents.serving import serve_app, tcp_listener, unix_listener
from gloveport.testing.messages import Json, MessagesRequest, stream

__all__ = [
    "Answer",
    "Endpoint",
    "Gate",
    "MessagesApp",
    "RecordingApp",
    "estimate_tokens",
    "read_request",
    "serve",
]


class Gate:
    """A point in an answer where the endpoint waits until the test opens it."""

    def __init__(self) -> None:
        self._opened = anyio.Event()
        self._reached = anyio.Event()
        self._abandoned = anyio.Event()

    def open(self) -> None:
        """Let the answer go on, at this gate, from now on."""
        self._opened.set()

    async def reached(self) -> None:
        """Wait until an answer stands at the gate; all before it has been sent."""
        await self._reached.wait()

    async def abandoned(self) -> None:
        """Wait until a client has left while its answer stood at the gate."""
        await self._abandoned.wait()

    async def passed(self) -> None:
        """Wait at the gate (the endpoint's side)."""
        self._reached.set()
        try:
            await self._opened.wait()
        except anyio.get_cancelled_exc_class():
            self._abandoned.set()
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A message to send."""

    message: Json
    gates: Mapping[int, tuple[Gate, ...]] = field(default_factory=dict)
    """Gates to wait at before the block of that index; the number of blocks stands for the message's end."""


class RecordingApp(Protocol):
    """An ASGI app that keeps the requests it got."""

    @property
    def requests(self) -> list[MessagesRequest]:
        """Every request so far, oldest first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""


class MessagesApp(ABC):
    """An ASGI app that answers like the Messages API; what the model says is up to `answer`."""

    def __init__(self) -> None:
        self._requests: list[MessagesRequest] = []

    @property
    def requests(self) -> list[MessagesRequest]:
        """Every request so far, oldest first, whatever its path."""
        return self._requests

    @abstractmethod
    def answer(self, request: MessagesRequest) -> Answer | ApiError:
        """The next turn of the conversation in `request`; depends on nothing else, so retries are safe."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        try:
            response = await self._respond(Request(scope, receive))
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _respond(self, http: Request) -> Response:
        request = read_request(http, await http.body())
        if isinstance(request, ApiError):
            return request.response()
        self._requests.append(request)
        match (request.method, request.path):
            case ("POST", path) if path == MESSAGES_PATH:
                return await _message_response(request, self.answer(request))
            case ("POST", path) if path == COUNT_TOKENS_PATH:
                return JSONResponse({"input_tokens": estimate_tokens(request.body)})
            case ("GET" | "HEAD", _):
                return JSONResponse({})
            case _:
                message = f"{request.method} {request.path}: no such endpoint"
                return ApiError(404, "not_found_error", message).response()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A served app."""

    url: str
    """Base URL, for `ANTHROPIC_BASE_URL`."""
    uds: Path | None
    """The unix socket it listens on, for `ANTHROPIC_UNIX_SOCKET`; None for TCP."""
    app: RecordingApp

    @property
    def requests(self) -> list[MessagesRequest]:
        """Every request so far, oldest first."""
        return self.app.requests

    @property
    def turns(self) -> list[MessagesRequest]:
        """The requests that asked for a turn."""
        return [request for request in self.requests if request.path == MESSAGES_PATH]


@asynccontextmanager
async def serve(
    app: RecordingApp, *, uds: Path | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Endpoint]:
    """Serve `app` for the duration of the block, on the unix socket `uds`, or else on `host` and `port`.

    Port 0 takes any free one. Raises `InvalidRequest` when it cannot listen there.
    """
    with ExitStack() as stack:
        if uds is not None:
            listener = stack.enter_context(unix_listener(uds))
            url = "http://localhost"
        else:
            listener = stack.enter_context(tcp_listener(host, port))
            url = f"http://{host}:{listener.getsockname()[1]}"
        async with serve_app(app, listener):
            yield Endpoint(url=url, uds=uds, app=app)


def read_request(http: Request, body: bytes) -> MessagesRequest | ApiError:
    """The request in an HTTP request whose body has been read."""
    try:
        document = json.loads(body) if body else {}
    except ValueError as error:
        return ApiError(400, "invalid_request_error", f"the body is not JSON: {error}")
    if not isinstance(document, dict):
        return ApiError(400, "invalid_request_error", "the body is not a JSON object")
    return MessagesRequest(
        method=http.method, path=http.scope["path"], headers=dict(http.headers.items()), body=document
    )


def estimate_tokens(value: object) -> int:
    """Tokens that `value` takes as JSON: four characters each, at least one."""
    return max(1, len(json.dumps(value)) // 4)


async def _message_response(request: MessagesRequest, answer: Answer | ApiError) -> Response:
    if isinstance(answer, ApiError):
        return answer.response()
    if request.body.get("stream"):
        return StreamingResponse(_stream(answer), media_type="text/event-stream")
    for index in sorted(answer.gates):
        await _pass(answer, index)
    return JSONResponse(answer.message)


async def _stream(answer: Answer) -> AsyncIterator[bytes]:
    for event in stream(answer.message):
        if event.name == "content_block_start":
            await _pass(answer, event.data["index"])
        elif event.name == "message_delta":
            await _pass(answer, len(answer.message["content"]))
        yield event.encode()


async def _pass(answer: Answer, index: int) -> None:
    for gate in answer.gates.get(index, ()):
        await gate.passed()
