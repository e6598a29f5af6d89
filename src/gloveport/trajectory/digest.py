"""A run's events, condensed for a person: the commands with their results, and how often what happened."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gloveport.model import Event, EventKind

__all__ = ["CommandRun", "Digest", "digest_events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRun:
    """One command executed in the sandbox, and how it ended."""

    text: str
    """The command as a person would type it."""
    status: int | None
    """As a shell would say it; `None` when no end was recorded."""
    duration: float
    """Seconds."""
    remark: str = ""
    """`timed out`, `out of memory`, … or empty."""


@dataclass(slots=True)
class Digest:
    """What a trajectory amounts to."""

    turns: int = 0
    tool_calls: int = 0
    refused: int = 0
    commands: list[CommandRun] = field(default_factory=list)


def digest_events(events: Iterable[Event]) -> Digest:
    """Read a trajectory once, in order. What the platform runs for itself is not among the commands."""
    digest = Digest()
    started: dict[tuple[str, int], str] = {}
    for event in events:
        data = event.data
        if event.kind is EventKind.TURN:
            digest.turns += 1
        elif event.kind is EventKind.TOOL_CALLED:
            digest.tool_calls += 1
        elif event.kind is EventKind.DECISION and data.get("verdict") == "deny":
            digest.refused += 1
        elif event.kind is EventKind.EXEC_STARTED:
            started[data["sandbox"], data["exec"]] = data.get("shown_as", shlex.join(data["argv"]))
        elif event.kind is EventKind.EXEC_ENDED:
            text = started.pop((data["sandbox"], data["exec"]), "")
            if text:
                digest.commands.append(_command(text, data))
    digest.commands += [
        CommandRun(text=text, status=None, duration=0.0, remark="no end recorded") for text in started.values() if text
    ]
    return digest


def _command(text: str, facts: Mapping[str, Any]) -> CommandRun:
    code, signum = facts.get("code"), facts.get("signal")
    remarks = [
        word
        for key, word in (("timed_out", "timed out"), ("oom", "out of memory"), ("disk_full", "disk full"))
        if facts.get(key)
    ]
    if "error" in facts:
        remarks.append(str(facts.get("message") or facts["error"]))
    return CommandRun(
        text=text,
        status=code if isinstance(code, int) else 128 + signum if isinstance(signum, int) else None,
        duration=float(facts.get("duration") or 0.0),
        remark=", ".join(remarks),
    )
