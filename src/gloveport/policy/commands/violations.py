"""What was refused, read from the events of a trail: by level and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gloveport.model import Event, EventKind
from gloveport.policy.commands.risk import RiskLevel, assess_path, assess_risk
from gloveport.policy.commands.shell_grammar import read_argv

__all__ = ["Violation", "count_violations", "find_violations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One refusal."""

    sequence: int
    """Of its event."""
    time: str
    """UTC, ISO 8601."""
    level: RiskLevel
    """Never `NONE`: something was refused."""
    rule: str
    reason: str
    data: Mapping[str, Any]
    """The event's."""


def find_violations(
    events: Iterable[Event],
    *,
    at_least: RiskLevel = RiskLevel.LOW,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[Violation]:
    """The refusals among `events` of this level or a higher one, in their order.

    `since` is included, `until` is not; both know their time zone. An event that says no level gets the one that its
    command or path looks like today.
    """
    for event in events:
        if not _is_refusal(event):
            continue
        if since is not None or until is not None:
            time = datetime.fromisoformat(event.time)
            if (since is not None and time < since) or (until is not None and time >= until):
                continue
        level = max(_level(event), RiskLevel.LOW)
        if level >= at_least:
            yield Violation(
                sequence=event.sequence,
                time=event.time,
                level=level,
                rule=str(event.data.get("rule", "")),
                reason=str(event.data.get("reason", "")),
                data=event.data,
            )


def count_violations(found: Iterable[Violation]) -> Mapping[str, Mapping[str, int]]:
    """How many there are by level and by rule."""
    listed = list(found)
    return {
        "level": dict(Counter(str(violation.level) for violation in listed)),
        "rule": dict(Counter(violation.rule for violation in listed)),
    }


def _is_refusal(event: Event) -> bool:
    if event.kind is EventKind.EGRESS:
        return event.data.get("allowed") is False or bool(event.data.get("alarm"))
    return event.kind is EventKind.DECISION and event.data.get("verdict") == "deny"


def _level(event: Event) -> RiskLevel:
    data = event.data
    said = str(data.get("level", "")).upper()
    if said in RiskLevel.__members__:
        return RiskLevel[said]
    if event.kind is EventKind.EGRESS:
        return RiskLevel.HIGH if data.get("alarm") else RiskLevel.MEDIUM
    argv = data.get("argv")
    if isinstance(argv, list) and all(isinstance(word, str) for word in argv):
        return assess_risk(read_argv(argv)).level
    for key in ("read", "write"):
        if isinstance(data.get(key), str):
            return assess_path(data[key], write=key == "write")
    return RiskLevel.LOW
