"""From the Agent SDK's messages to the session's events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    Message,
    ResultMessage,
    StreamEvent,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from gloveport.agents.guard import Guard
from gloveport.model import SessionEnd, SessionEnded, SessionEvent, ToolCalled, ToolReturned, TurnTaken, Usage

__all__ = ["EventReader"]

_SUBTYPES: Mapping[str, SessionEnd] = {
    "error_max_turns": SessionEnd.MAX_TURNS,
    "error_max_budget_usd": SessionEnd.MAX_COST,
}
_ABORTED = "aborted"


class EventReader:
    """Reads one conversation's messages in order.

    The SDK hands out a model's answer block by block; what it streams tells where the answer ends and what it took.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._text: list[str] = []
        self._calls: list[ToolUseBlock] = []
        self._model = ""
        self._usage: dict[str, int] = {}
        self._streaming = False
        self._early: list[ToolResultBlock] = []
        self._open: dict[str, tuple[str, float]] = {}
        self._turns = 0
        self._answer = ""

    def read(self, message: Message) -> Iterator[SessionEvent]:
        """The events that one more message makes."""
        match message:
            case AssistantMessage():
                self._hear(message)
            case StreamEvent(event={"type": "message_start", "message": {"usage": Mapping() as usage}}):
                self._usage = _counts(usage)
                self._streaming = True
            case StreamEvent(event={"type": "message_delta", "usage": Mapping() as usage}):
                self._usage |= _counts(usage)
            case StreamEvent(event={"type": "message_stop"}):
                yield from self._turn()
            case UserMessage(content=list() as blocks):
                self._early += [block for block in blocks if isinstance(block, ToolResultBlock)]
                if not self._streaming:
                    yield from self._turn()
            case ResultMessage():
                yield from self._turn()
                yield self._ended(message)
            case _:
                return

    def _hear(self, message: AssistantMessage) -> None:
        self._model = message.model
        for block in message.content:
            if isinstance(block, TextBlock):
                self._text.append(block.text)
            elif isinstance(block, ToolUseBlock):
                self._calls.append(block)

    def _turn(self) -> Iterator[SessionEvent]:
        """The answer heard so far, if there is one, and results that came back while it was still coming in."""
        self._streaming = False
        text, calls, early = "\n".join(self._text), self._calls, self._early
        self._text, self._calls, self._early = [], [], []
        if text or calls:
            self._answer = text or self._answer
            self._turns += 1
            yield TurnTaken(
                text=text,
                tools=tuple(call.name for call in calls),
                model=self._model,
                input_tokens=_input(self._usage),
                output_tokens=self._usage.get("output_tokens", 0),
            )
        for call in calls:
            self._open[call.id] = (call.name, time.monotonic())
            refused = self._guard.refusal(call.name, call.input)
            yield ToolCalled(call=call.id, name=call.name, input=call.input, refused=refused)
        for block in early:
            yield self._returned(block)

    def _returned(self, block: ToolResultBlock) -> ToolReturned:
        name, began = self._open.pop(block.tool_use_id, ("", time.monotonic()))
        return ToolReturned(
            call=block.tool_use_id,
            name=name,
            text=_text_of(block.content),
            is_error=bool(block.is_error),
            duration=round(time.monotonic() - began, 6),
        )

    def _ended(self, result: ResultMessage) -> SessionEnded:
        end = _SUBTYPES.get(result.subtype, SessionEnd.DONE)
        if end is SessionEnd.DONE and result.is_error:
            aborted = (result.terminal_reason or "").startswith(_ABORTED)
            end = SessionEnd.INTERRUPTED if aborted else SessionEnd.MODEL_ERROR
        counts = _counts(result.usage or {})
        return SessionEnded(
            end=end,
            session=result.session_id,
            answer=(result.result or "") if end is SessionEnd.DONE else self._answer,
            usage=Usage(
                turns=self._turns,
                input_tokens=_input(counts),
                output_tokens=counts.get("output_tokens", 0),
                cost=result.total_cost_usd or 0.0,
            ),
            message=self._why(end, result),
        )

    def _why(self, end: SessionEnd, result: ResultMessage) -> str:
        match end:
            case SessionEnd.DONE:
                return ""
            case SessionEnd.MAX_TURNS:
                return f"the agent has used up its turns ({self._turns})"
            case SessionEnd.MAX_COST:
                return f"the agent has used up its budget (${result.total_cost_usd or 0.0:.4f} spent)"
            case SessionEnd.INTERRUPTED:
                return "interrupted"
            case SessionEnd.MODEL_ERROR:
                said = result.result or "; ".join(result.errors or ()) or result.subtype
                status = f" (status {result.api_error_status})" if result.api_error_status else ""
                return f"the model could not be asked{status}: {said}"


def _counts(usage: Mapping[str, Any]) -> dict[str, int]:
    return {name: count for name, count in usage.items() if isinstance(count, int)}


def _input(counts: Mapping[str, int]) -> int:
    """All tokens read: new ones, and those written to and read from the provider's cache."""
    return sum(counts.get(f"{kind}input_tokens", 0) for kind in ("", "cache_creation_", "cache_read_"))


def _text_of(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", f"[{part.get('type')}]")) for part in content)
    return content or ""
