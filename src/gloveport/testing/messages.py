"""The Messages API as data: blocks, messages, their streamed form, and requests read for assertions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

__all__ = [
    "Event",
    "Json",
    "MessagesRequest",
    "Text",
    "ToolResult",
    "ToolUse",
    "assemble",
    "content_text",
    "stream",
]

Json = dict[str, Any]
"""A JSON object."""

_CHUNK = 48
"""Characters per streamed delta: small, so that clients are shown partial text and partial tool arguments."""
_REMINDER = "<system-reminder>"


@dataclass(frozen=True, slots=True)
class Text:
    """Words of the assistant."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call of the assistant."""

    name: str
    input: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a client sent back for one tool call."""

    tool_use_id: str
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesRequest:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Json
    """The parsed body; empty for a request without one."""

    @property
    def model(self) -> str:
        """The model asked for."""
        return str(self.body.get("model", ""))

    @property
    def messages(self) -> list[Json]:
        """The conversation so far. Entries may have the role `system` too."""
        return [message for message in self.body.get("messages", []) if isinstance(message, dict)]

    @property
    def turn(self) -> int:
        """Which turn is asked for, counted from 0: the number of assistant messages so far."""
        return sum(message.get("role") == "assistant" for message in self.messages)

    @property
    def system_text(self) -> str:
        """The system prompt."""
        return content_text(self.body.get("system", ""))

    @property
    def first_user_text(self) -> str:
        """The words that opened the conversation, without the reminders a client adds to them."""
        return next(self._user_texts(), "")

    @property
    def last_user_text(self) -> str:
        """The latest words of the user, without reminders; tool results are not words."""
        return next((text for text in reversed(list(self._user_texts())) if text), "")

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of the tools offered to the model."""
        return tuple(str(tool.get("name")) for tool in self.body.get("tools", []))

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """Every tool result in the conversation, oldest first."""
        blocks = (block for message in self.messages for block in _blocks(message.get("content")))
        return tuple(
            ToolResult(
                tool_use_id=str(block.get("tool_use_id")),
                text=content_text(block.get("content", "")),
                is_error=bool(block.get("is_error")),
            )
            for block in blocks
            if block.get("type") == "tool_result"
        )

    def _user_texts(self) -> Iterator[str]:
        for message in self.messages:
            if message.get("role") == "user":
                yield content_text(message.get("content", ""), without=_REMINDER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a streamed message."""

    name: str
    data: Json

    def encode(self) -> bytes:
        """The event on the wire."""
        return f"event: {self.name}\ndata: {json.dumps(self.data)}\n\n".encode()


def content_text(content: object, *, without: str | None = None) -> str:
    """The text of a message's content, one block a line; blocks that begin with `without` are left out."""
    texts = (str(block.get("text", "")) for block in _blocks(content) if block.get("type") == "text")
    return "\n".join(text for text in texts if without is None or not text.startswith(without))


def stream(message: Json) -> Iterator[Event]:
    """The events that a server sends for `message`; `assemble` is the inverse."""
    blocks: list[Json] = message["content"]
    usage: Json = message.get("usage", {})
    # Like the API, count the output in the last event only: a client that hangs up early has no count.
    opening = message | {
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage | {"output_tokens": 0},
    }
    yield Event(name="message_start", data={"type": "message_start", "message": opening})
    for index, block in enumerate(blocks):
        empty, deltas = _split(block)
        yield _block_event("content_block_start", index, content_block=empty)
        for delta in deltas:
            yield _block_event("content_block_delta", index, delta=delta)
        yield _block_event("content_block_stop", index)
    ending = {key: message.get(key) for key in ("stop_reason", "stop_sequence")}
    yield Event(
        name="message_delta",
        data={"type": "message_delta", "delta": ending, "usage": usage},
    )
    yield Event(name="message_stop", data={"type": "message_stop"})


def assemble(events: Iterable[httpx2.ServerSentEvent]) -> Json | None:
    """The whole message that `events` describe, or None when they break off or report an error."""
    message: Json = {}
    for event in events:
        if event.event == "message_stop":
            return message or None
        data: Json = json.loads(event.data)
        if event.event == "message_start":
            message = data["message"]
        elif event.event == "content_block_start":
            message["content"].append(data["content_block"])
        elif event.event == "content_block_delta":
            _extend(message["content"][data["index"]], data["delta"])
        elif event.event == "content_block_stop":
            _finish(message["content"][data["index"]])
        elif event.event == "message_delta":
            message |= data["delta"]
            message["usage"] = message.get("usage", {}) | data.get("usage", {})
    return None


def _blocks(content: object) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _block_event(name: str, index: int, **data: Json) -> Event:
    return Event(name=name, data={"type": name, "index": index, **data})


def _split(block: Json) -> tuple[Json, list[Json]]:
    """A block as it opens, and the deltas that fill it. Kinds without deltas open complete."""
    match block["type"]:
        case "text":
            return block | {"text": ""}, [{"type": "text_delta", "text": t} for t in _chunks(block["text"])]
        case "tool_use" | "server_tool_use":
            arguments = _chunks(json.dumps(block["input"]))
            return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": a} for a in arguments]
        case "thinking":
            deltas: list[Json] = [{"type": "thinking_delta", "thinking": t} for t in _chunks(block["thinking"])]
            deltas.append({"type": "signature_delta", "signature": block.get("signature", "")})
            return block | {"thinking": "", "signature": ""}, deltas
        case _:
            return block, []


def _extend(block: Json, delta: Json) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "input_json_delta":
            # Kept as text in `input` until the block ends: only the whole of it is JSON.
            block["input"] = (block["input"] or "") + delta["partial_json"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "citations_delta":
            block.setdefault("citations", []).append(delta["citation"])


def _finish(block: Json) -> None:
    if isinstance(block.get("input"), str):
        block["input"] = json.loads(block["input"] or "{}")


def _chunks(text: str) -> Iterator[str]:
    return (text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK))
