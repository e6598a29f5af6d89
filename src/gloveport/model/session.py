"""What an agent's session says while it runs: the events a job records and a person watches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gloveport.model.run import Usage

__all__ = ["SessionEnd", "SessionEnded", "SessionEvent", "ToolCalled", "ToolReturned", "TurnTaken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTaken:
    """The model answered once."""

    text: str
    """What it said beside its tool calls; may be empty."""
    tools: tuple[str, ...] = ()
    """The tools it asked for."""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled:
    """A tool call is about to be carried out, or refused."""

    call: str
    """The call's id, the same in its `ToolReturned`."""
    name: str
    input: Mapping[str, Any]
    refused: str = ""
    """Why it was not carried out; empty when it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    """A tool call came back to the model."""

    call: str
    name: str
    text: str
    is_error: bool = False
    duration: float = 0.0
    """Seconds."""


class SessionEnd(StrEnum):
    """Why a session's work stopped."""

    DONE = "done"
    MAX_TURNS = "max_turns"
    MAX_COST = "max_cost"
    INTERRUPTED = "interrupted"
    MODEL_ERROR = "model_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded:
    """The agent stopped working on a prompt; the session may be resumed by its id."""

    end: SessionEnd
    session: str
    answer: str = ""
    """The agent's last words."""
    usage: Usage = field(default_factory=Usage)
    message: str = ""
    """What went wrong, for a person."""


SessionEvent = TurnTaken | ToolCalled | ToolReturned | SessionEnded
