"""A run's events, condensed for a person: the commands with their results, and how often what happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gloveport.model import Event, EventKind

__all__ = ["CommandRun", "Digest", "digest_events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRun:
    """One command executed in the sandbox, and how it ended."""

    argv: tuple[str, ...]
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
    """Read a trajectory once, in order. guestd's own functions (reading and writing files) are not commands."""
    digest = Digest()
    started: dict[int, tuple[str, ...]] = {}
    for event in events:
        data = event.data
        if event.kind is EventKind.TURN:
            digest.turns += 1
        elif event.kind is EventKind.TOOL_CALLED:
            digest.tool_calls += 1
        elif event.kind is EventKind.DECISION and data.get("verdict") == "deny":
            digest.refused += 1
        elif event.kind is EventKind.EXEC_STARTED and not data.get("builtin"):
            started[data["exec"]] = tuple(data["argv"])
        elif event.kind is EventKind.EXEC_ENDED and data["exec"] in started:
            digest.commands.append(_command(started.pop(data["exec"]), data))
    digest.commands += [
        CommandRun(argv=argv, status=None, duration=0.0, remark="no end recorded") for argv in started.values()
    ]
    return digest


def _command(argv: tuple[str, ...], facts: Mapping[str, Any]) -> CommandRun:
    code, signum = facts.get("code"), facts.get("signal")
    remarks = [
        word
        for key, word in (("timed_out", "timed out"), ("oom", "out of memory"), ("disk_full", "disk full"))
        if facts.get(key)
    ]
    if "error" in facts:
        remarks.append(str(facts.get("message") or facts["error"]))
    return CommandRun(
        argv=argv,
        status=code if isinstance(code, int) else 128 + signum if isinstance(signum, int) else None,
        duration=float(facts.get("duration") or 0.0),
        remark=", ".join(remarks),
    )
