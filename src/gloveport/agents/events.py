"""From the Agent SDK's messages to the session's events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

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

from gloveport.agents.bounds import Breach, Hearing
from gloveport.agents.guard import Guard
from gloveport.agents.model_budget import Exhaustion
from gloveport.errors import GloveportError
from gloveport.model import SessionEnd, SessionEnded, SessionEvent, ToolCalled, ToolReturned, TurnTaken, Usage

__all__ = ["Account", "EventReader"]

_SUBTYPES: Mapping[str, SessionEnd] = {
    "error_max_turns": SessionEnd.MAX_TURNS,
    "error_max_budget_usd": SessionEnd.MAX_COST,
}
_ABORTED = "aborted"
_USAGE_KINDS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


class Account(Protocol):
    """What the host itself has counted of one prompt at the model."""

    @property
    def exhaustion(self) -> Exhaustion | None:
        """The bound of the budget that was reached."""
        ...

    def usage(self, turns: int) -> Usage:
        """What the prompt has consumed, in as many turns."""
        ...


class EventReader:
    """Reads one conversation's messages in order.

    The SDK hands out a model's answer block by block; what it streams tells where the answer ends and what it took.
    The command line is a guest: what it says is checked and bounded by `hearing` (`Breach` is raised), and what a
    session consumed is the `account`'s word, not its own.
    """

    def __init__(self, guard: Guard, account: Account, hearing: Hearing) -> None:
        self._guard = guard
        self._account = account
        self._hearing = hearing
        self._text: list[str] = []
        self._calls: list[ToolCalled] = []
        self._model = ""
        self._usage: dict[str, int] = {}
        self._streaming = False
        self._early: list[_Result] = []
        self._open: dict[str, tuple[str, float]] = {}
        self._turns = 0
        self._answer = ""

    def read(self, message: Message) -> Iterator[SessionEvent]:
        """The events that one more message makes."""
        match message:
            case AssistantMessage():
                self._hear(message)
            case StreamEvent(event={"type": "message_start", "message": {"usage": Mapping() as usage}}):
                self._usage = self._counts(usage)
                self._streaming = True
            case StreamEvent(event={"type": "message_delta", "usage": Mapping() as usage}):
                self._usage |= self._counts(usage)
            case StreamEvent(event={"type": "message_stop"}):
                yield from self._turn()
            case UserMessage(content=list() as blocks):
                self._early += [self._result(block) for block in blocks if isinstance(block, ToolResultBlock)]
                if not self._streaming:
                    yield from self._turn()
            case ResultMessage():
                yield from self._turn()
                yield self._ended(message)
            case _:
                return

    def cut_off(self, error: GloveportError) -> SessionEnded | None:
        """The end of a session whose command line failed with `error`; None when that is the platform's own failure."""
        exhausted = self._account.exhaustion
        if exhausted is None and not isinstance(error, Breach):
            return None
        return SessionEnded(
            end=exhausted.end if exhausted else SessionEnd.MODEL_ERROR,
            session="",
            answer=self._answer,
            usage=self._account.usage(self._turns),
            message=exhausted.message if exhausted else error.message,
        )

    def _hear(self, message: AssistantMessage) -> None:
        self._model = self._hearing.name(message.model)
        for block in message.content:
            if isinstance(block, TextBlock):
                self._text.append(self._hearing.text(block.text))
            elif isinstance(block, ToolUseBlock):
                self._calls.append(self._call(block))

    def _call(self, block: ToolUseBlock) -> ToolCalled:
        self._hearing.record()
        name, arguments = self._hearing.name(block.name), self._hearing.mapping(block.input)
        refused = self._guard.refusal(name, arguments)
        return ToolCalled(call=self._hearing.name(block.id), name=name, input=arguments, refused=refused)

    def _result(self, block: ToolResultBlock) -> _Result:
        self._hearing.record()
        parts = self._parts(block.content)
        return self._hearing.name(block.tool_use_id), "\n".join(parts), bool(block.is_error)

    def _parts(self, content: object) -> Iterable[str]:
        if not isinstance(content, list):
            return [] if content is None else [self._hearing.text(content)]
        parts = [self._hearing.mapping(part) for part in content]
        return [str(part.get("text", f"[{part.get('type')}]")) for part in parts]

    def _turn(self) -> Iterator[SessionEvent]:
        """The answer heard so far, if there is one, and results that came back while it was still coming in."""
        self._streaming = False
        self._hearing.new_turn()
        text, calls, early = "\n".join(self._text), self._calls, self._early
        self._text, self._calls, self._early = [], [], []
        if text or calls:
            self._hearing.record()
            self._answer = text or self._answer
            self._turns += 1
            yield TurnTaken(
                text=text,
                tools=tuple(call.name for call in calls),
                model=self._model,
                input_tokens=sum(self._usage.get(kind, 0) for kind in _USAGE_KINDS[:-1]),
                output_tokens=self._usage.get("output_tokens", 0),
            )
        for call in calls:
            self._open[call.call] = (call.name, time.monotonic())
            yield call
        for call_id, said, is_error in early:
            name, began = self._open.pop(call_id, ("", time.monotonic()))
            duration = round(time.monotonic() - began, 6)
            yield ToolReturned(call=call_id, name=name, text=said, is_error=is_error, duration=duration)

    def _counts(self, usage: Mapping[str, Any]) -> dict[str, int]:
        return {kind: self._hearing.count(usage[kind]) for kind in _USAGE_KINDS if usage.get(kind) is not None}

    def _ended(self, result: ResultMessage) -> SessionEnded:
        end = _SUBTYPES.get(self._hearing.name(result.subtype), SessionEnd.DONE)
        if end is SessionEnd.DONE and result.is_error:
            aborted = self._hearing.name(result.terminal_reason or "").startswith(_ABORTED)
            end = SessionEnd.INTERRUPTED if aborted else SessionEnd.MODEL_ERROR
        said = "" if result.result is None else self._hearing.text(result.result)
        usage = self._account.usage(self._turns)
        exhausted = self._account.exhaustion if end not in (SessionEnd.DONE, SessionEnd.INTERRUPTED) else None
        return SessionEnded(
            end=exhausted.end if exhausted else end,
            session=self._hearing.name(result.session_id),
            answer=said if end is SessionEnd.DONE else self._answer,
            usage=usage,
            message=exhausted.message if exhausted else self._why(end, result, said, usage),
        )

    def _why(self, end: SessionEnd, result: ResultMessage, said: str, usage: Usage) -> str:
        match end:
            case SessionEnd.DONE:
                return ""
            case SessionEnd.MAX_TURNS:
                return f"the agent has used up its turns ({usage.turns})"
            case SessionEnd.MAX_COST:
                return f"the agent has used up its budget (${usage.cost:.4f} spent)"
            case SessionEnd.INTERRUPTED:
                return "interrupted"
            case SessionEnd.MODEL_ERROR:
                errors = "; ".join(map(self._hearing.text, result.errors or ()))
                status = result.api_error_status
                known = f" (status {self._hearing.count(status)})" if status else ""
                return f"the model could not be asked{known}: {said or errors or self._hearing.name(result.subtype)}"


_Result = tuple[str, str, bool]
"""A tool's result: the call's id, what it said, and whether that is an error."""
