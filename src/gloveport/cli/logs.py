"""`gloveport logs`: what was done in a sandbox or by a run, also after it is gone; and what was refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gloveport.cli.options import JsonOption
from gloveport.cli.output import plain, print_json, write_document
from gloveport.cli.times import parse_time
from gloveport.cli.trails import find_trail
from gloveport.client import connect, encode
from gloveport.errors import InvalidRequest
from gloveport.model import Event
from gloveport.policy.commands.risk import RiskLevel
from gloveport.policy.commands.violations import Violation, count_violations, find_violations
from gloveport.settings import Settings
from gloveport.store import read_trail

__all__ = ["Level", "command"]


class Level(StrEnum):
    """How dangerous what was refused looked."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


def command(
    name: Annotated[str, typer.Argument(metavar="RUN|ID", help="A run (`last` is the newest), or a sandbox.")],
    process: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="The newest output of this detached process instead.")
    ] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused, with its rule.")] = False,
    level: Annotated[Level | None, typer.Option(help="With --refused: this level, or a higher one.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --refused: from 2026-03-01T14:30, or 90m ago, on.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="With --refused: what was before it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the events of a run or a sandbox, oldest first, also after it is gone; with --json one record a line.

    gloveport logs last --refused --level high --since 24h
    """
    narrowed = {"--level": level, "--since": since, "--until": until}
    _check(refused, [option for option, value in narrowed.items() if value is not None], process)
    settings = Settings.load()
    if process is not None:
        with connect(settings) as runner:
            runner.call("output", id=name, process=process, sink=write_document)
        return
    now = datetime.now(UTC)
    begin = parse_time(since, "--since", now) if since is not None else None
    end = parse_time(until, "--until", now) if until is not None else None
    if begin is not None and end is not None and begin >= end:
        raise InvalidRequest(f"nothing is from {since} on and before {until}", hint="give --until a later time")
    found = find_trail(settings, name)
    events = read_trail(found if isinstance(found, Path) else found.audit)
    if refused:
        least = RiskLevel[level.name] if level is not None else RiskLevel.LOW
        _print_refusals(find_violations(events, at_least=least, since=begin, until=end), as_json=as_json)
        return
    for event in events:
        if as_json:
            print_json(encode(event))
        else:
            sys.stdout.write(_line(event))


def _check(refused: bool, narrowed: list[str], process: int | None) -> None:
    if narrowed and not refused:
        raise InvalidRequest(f"{narrowed[0]} is for refusals", hint=f"add --refused, or leave {narrowed[0]} out")
    if refused and process is not None:
        raise InvalidRequest("a process has output, and no refusals", hint="leave --process or --refused out")


def _print_refusals(refusals: Iterable[Violation], *, as_json: bool) -> None:
    listed = []
    for refusal in refusals:
        if as_json:
            facts = {key: getattr(refusal, key) for key in ("sequence", "time", "rule", "reason")}
            print_json({**facts, "level": str(refusal.level), "data": encode(refusal.data)})
        else:
            sys.stdout.write(_refusal_lines(refusal))
            listed.append(refusal)
    if not as_json:
        levels = count_violations(listed)["level"]
        counted = ", ".join(f"{levels[level]} {level}" for level in reversed(Level) if level in levels)
        sys.stdout.write(f"{len(listed)} refusal{'' if len(listed) == 1 else 's'}{f': {counted}' if counted else ''}\n")


def _refusal_lines(refusal: Violation) -> str:
    """When and how dangerous, what was refused, by which rule and why. A guest's text stays on its line."""
    facts = {name: value for name, value in refusal.data.items() if name not in _SAID}
    reason = f": {_one_line(refusal.reason)}" if refusal.reason else ""
    return f"{refusal.time}  {refusal.level!s:<8}  {json.dumps(facts)}\n  {_one_line(refusal.rule)}{reason}\n"


_SAID = frozenset(("sandbox", "verdict", "rule", "reason", "level", "categories"))
"""What a refusal's own lines say already."""


def _one_line(text: str) -> str:
    return plain(text).replace("\n", "\\x0a")


def _line(event: Event) -> str:
    """One event on one line. JSON escapes whatever control characters a guest put there."""
    facts = {name: value for name, value in event.data.items() if name != "sandbox"}
    return f"{event.time}  {event.kind:<16}  {json.dumps(facts)}\n"
