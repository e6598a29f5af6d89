"""What the model proxy has to understand of the Messages API: paths, requests, errors, token counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx2
from starlette.responses import JSONResponse

__all__ = [
    "COUNT_TOKENS_PATH",
    "MESSAGES_PATH",
    "ApiError",
    "ModelRequest",
    "TokenUsage",
    "UsageReader",
    "read_model_request",
]

MESSAGES_PATH = "/v1/messages"
COUNT_TOKENS_PATH = "/v1/messages/count_tokens"

_MAX_MODEL_NAME = 128
_MAX_ANSWER_BYTES = 8 * 2**20
"""Longest unstreamed answer whose token counts are read."""
_USAGE_FIELDS: Mapping[str, str] = {
    "input_tokens": "input",
    "cache_creation_input_tokens": "cache_write",
    "cache_read_input_tokens": "cache_read",
    "output_tokens": "output",
}
_LONG_WRITE = "ephemeral_1h_input_tokens"


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error as the Messages API words it."""

    status: int
    type: str
    message: str

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        body = {"type": "error", "error": {"type": self.type, "message": self.message}}
        return JSONResponse(body, status_code=self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens of one model call, in the classes that are priced apart."""

    input: int = 0
    cache_write: int = 0
    cache_write_long: int = 0
    """Those among `cache_write` that the cache keeps for an hour; they cost more."""
    cache_read: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """All tokens, read and written."""
        return self.input + self.cache_write + self.cache_read + self.output

    def updated(self, usage: object) -> TokenUsage:
        """These counts overlaid with those of a `usage` object of the API, whose counts are cumulative."""
        if not isinstance(usage, Mapping):
            return self
        counts = {field: usage.get(name) for name, field in _USAGE_FIELDS.items()}
        by_time = usage.get("cache_creation")
        counts["cache_write_long"] = by_time.get(_LONG_WRITE) if isinstance(by_time, Mapping) else None
        seen = replace(self, **{field: n for field, n in counts.items() if isinstance(n, int) and n >= 0})
        return replace(seen, cache_write_long=min(seen.cache_write_long, seen.cache_write))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """A request for the model that has been read and can be judged."""

    model: str
    document: Mapping[str, Any]


def read_model_request(body: bytes) -> ModelRequest | ApiError:
    """The request in `body`, or the error to answer with.

    A repeated key is refused: two parsers could read two different requests out of it.
    """
    try:
        document = json.loads(body.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        return ApiError(400, "invalid_request_error", f"the body is not a JSON document: {error}")
    if not isinstance(document, dict):
        return ApiError(400, "invalid_request_error", "the body is not a JSON object")
    model = document.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= _MAX_MODEL_NAME or not _is_plain(model):
        message = f"model: a name of 1 to {_MAX_MODEL_NAME} printable ASCII characters is required"
        return ApiError(400, "invalid_request_error", message)
    return ModelRequest(model=model, document=document)


class UsageReader:
    """Reads the token counts of one answer, streamed or whole; `usage` is what it has seen so far."""

    def __init__(self) -> None:
        self.usage: TokenUsage | None = None
        self.final = False
        """Whether the answer is over, so that `usage` is all of it."""

    async def read(self, response: httpx2.Response) -> None:
        """Read `response` as it arrives. An answer that is not understood leaves `usage` as it is."""
        try:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                await self._read_events(response)
            else:
                await self._read_document(response)
        except (httpx2.SSEError, httpx2.DecodingError):
            return

    async def _read_events(self, response: httpx2.Response) -> None:
        async for event in httpx2.EventSource(response):
            if event.event in {"message_start", "message_delta"}:
                document = _object(event.data)
                message = document.get("message", document)
                self._see(message.get("usage") if isinstance(message, Mapping) else None)
            self.final |= event.event == "message_stop"

    async def _read_document(self, response: httpx2.Response) -> None:
        content = bytearray()
        async for chunk in response.aiter_bytes():
            if len(content) + len(chunk) > _MAX_ANSWER_BYTES:
                return
            content += chunk
        self._see(_object(content).get("usage"))
        self.final = True

    def _see(self, usage: object) -> None:
        if isinstance(usage, Mapping):
            self.usage = (self.usage or TokenUsage()).updated(usage)


def _object(text: str | bytes | bytearray) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is repeated in an object")
    return document


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()
