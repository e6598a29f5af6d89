"""The checks of a rubric: each looks at the steps of a trajectory and says what it found, where and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gloveport.trajectory.scoring.acts import (
    command_of,
    failed,
    has_succeeded,
    is_creation,
    is_edit,
    left_changes,
    named_in,
    path_of,
    spellings,
    writes,
)
from gloveport.trajectory.scoring.rubric import LAST_EDIT, CommandCheck, Criterion, compile_pattern
from gloveport.trajectory.steps import Step

__all__ = ["Finding", "look"]

Steps = Sequence[Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found."""

    score: float
    """0 to 1."""
    why: str
    steps: tuple[int, ...] = ()
    """The steps that it is about, from 0."""


def look(criterion: Criterion, steps: Steps) -> Finding:
    """What the check of a criterion finds in these steps. What the record does not say is credited to nobody."""
    return _CHECKS[criterion.check](getattr(criterion, criterion.check), steps)


def _count(found: Sequence[object], word: str) -> str:
    return f"{len(found)} {word}{'s' * (len(found) != 1)}"


def _at_most(found: Sequence[int], most: float, count: float, why: str) -> Finding:
    return Finding(score=float(count <= most), why=why, steps=tuple(found))


def _max_steps(most: int, steps: Steps) -> Finding:
    return _at_most(
        range(most, min(len(steps), most + 1)), most, len(steps), f"{_count(steps, 'step')}, {most} at most"
    )


def _max_errors(most: float, steps: Steps) -> Finding:
    ends = [failed(step) for step in steps]
    errors = [number for number, end in enumerate(ends) if end]
    told = len(ends) - ends.count(None)
    if steps and not told:
        return Finding(score=0.0, why="the record does not say how calls ended")
    share = len(errors) / told if told else 0.0
    untold = f"; not recorded: {len(ends) - told}" if told < len(ends) else ""
    return _at_most(
        errors, most, share, f"errors: {len(errors)} of {_count(range(told), 'call')}, {most:g} at most{untold}"
    )


def _max_refused(most: int, steps: Steps) -> Finding:
    refused = [number for number, step in enumerate(steps) if step.refused]
    return _at_most(refused, most, len(refused), f"{_count(refused, 'call')} refused, {most} at most")


def _max_repeats(most: int, steps: Steps) -> Finding:
    begin, longest = 0, range(min(len(steps), 1))
    for number, step in enumerate(steps):
        before = steps[begin]
        if (step.tool, step.params) != (before.tool, before.params):
            begin = number
        if number + 1 - begin > len(longest):
            longest = range(begin, number + 1)
    found = longest if len(longest) > most else range(0)
    return _at_most(found, most, len(longest), f"the same call in a row: {len(longest)}, {most} at most")


def _tool_used(names: Sequence[str], steps: Steps) -> Finding:
    calls = _calls(names, steps)
    return Finding(score=float(bool(calls)), why=f"{_count(calls, 'call')} of {', '.join(names)}", steps=tuple(calls))


def _tool_unused(names: Sequence[str], steps: Steps) -> Finding:
    calls = _calls(names, steps)
    return Finding(score=float(not calls), why=f"{_count(calls, 'call')} of {', '.join(names)}", steps=tuple(calls))


def _calls(names: Sequence[str], steps: Steps) -> list[int]:
    return [number for number, step in enumerate(steps) if step.tool in names]


def _command(asked: CommandCheck, steps: Steps) -> Finding:
    pattern = compile_pattern(asked.matches)
    commands = (command_of(step) for step in steps)
    # Recordings may hold halves of surrogate pairs, which no UTF-8 can.
    is_match = [
        pattern.isinstance_python(text.encode("utf-8", "replace").decode()) if text else False for text in commands
    ]
    ran = [number for number, matches in enumerate(is_match) if matches and not steps[number].refused]
    good = [number for number in ran if has_succeeded(steps[number])] if asked.succeeded else ran
    if not ran:
        return Finding(score=0.0, why="no such command ran")
    if not good:
        return Finding(score=0.0, why=f"{_count(ran, 'such command')}, none known to have succeeded", steps=tuple(ran))
    if asked.after != LAST_EDIT:
        return Finding(score=1.0, why=_count(good, "such command"), steps=tuple(good))
    last = ran[-1]
    if last != good[-1]:
        return Finding(score=0.0, why="the last such command is not known to have succeeded", steps=(last,))
    # What such a command changes itself, as a report of the tests, is no edit.
    others = range(last + 1, len(steps))
    edits = [number for number in others if is_edit(steps[number]) or left_changes(steps[number])]
    if edits:
        return Finding(score=0.0, why="files were changed after the last such command", steps=(last, edits[-1]))
    return Finding(score=1.0, why="no file was changed after it", steps=(last,))


def _reads_before_edit(_asked: bool, steps: Steps) -> Finding:
    wanted = {name for step in steps if is_edit(step) for name in spellings(path_of(step))}
    seen: set[str] = set()
    written: set[str] = set()
    unread: list[int] = []
    edited = 0
    for number, step in enumerate(steps):
        path = path_of(step)
        if is_edit(step):
            if path and path not in written and not is_creation(step):
                edited += 1
                if seen.isdisjoint(spellings(path)):
                    unread.append(number)
            written.add(path)
        elif not step.refused and not writes(step):
            seen.update(wanted.intersection((path,) if path else named_in(command_of(step))))
    score = 1.0 - len(unread) / edited if edited else 1.0
    why = f"looked at before: {edited - len(unread)} of {edited} edited files"
    return Finding(score=score, why=why if edited else "no file was edited that was there before", steps=tuple(unread))


_CHECKS: Mapping[str, Callable[[Any, Steps], Finding]] = {
    "tool_used": _tool_used,
    "tool_unused": _tool_unused,
    "command": _command,
    "max_steps": _max_steps,
    "max_errors": _max_errors,
    "max_refused": _max_refused,
    "max_repeats": _max_repeats,
    "reads_before_edit": _reads_before_edit,
}
