"""Counting: every task in both arms, with each way to answer; and what the counts come to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import anyio

from benchmarks.place import installation
from benchmarks.prompts.arms import Answering, Outcome, run_at_the_boundary, run_with_regular_permissions
from benchmarks.prompts.script import Task
from gloveport.sandbox import Manager

__all__ = ["CLAIMED", "Comparison", "Total", "compare_arms", "document", "flaws", "report", "total"]

CLAIMED = 84
"""Percent fewer prompts that the vendor of Claude Code claims for its own sandbox, from its internal use."""
_CLAIM = f"claimed by the vendor for Claude Code's own sandbox, from internal use, not measured here: {CLAIMED} % fewer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One task in both arms, its person answering in one way."""

    task: Task
    answering: Answering
    regular: Outcome
    """Claude Code's regular permissions."""
    boundary: Outcome
    """Gloveport."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Of all tasks, their persons answering in one way."""

    answering: Answering
    tasks: int
    calls: int
    """Tool calls in each arm."""
    regular: int
    """Approvals asked under Claude Code's regular permissions."""
    boundary: int
    """Approvals asked by Gloveport."""

    @property
    def reduction(self) -> float | None:
        """Percent fewer; `None` where the regular permissions asked nothing."""
        return 100 * (1 - self.boundary / self.regular) if self.regular else None


_Arm = Callable[[Task, Answering, Manager], Awaitable[Outcome]]


async def compare_arms(
    tasks: Sequence[Task], *, at_a_time: int = 2, say: Callable[[str], None] = lambda _text: None
) -> list[Comparison]:
    """Run every task four times: two arms, two ways to answer. Each run has a sandbox of its own."""
    found: dict[tuple[str, Answering, _Arm], Outcome] = {}
    limiter = anyio.CapacityLimiter(at_a_time)

    async def run(task: Task, answering: Answering, arm: _Arm, manager: Manager) -> None:
        async with limiter:
            outcome = found[task.name, answering, arm] = await arm(task, answering, manager)
        name = "regular" if arm is run_with_regular_permissions else "boundary"
        say(f"{task.name}, {name}, {answering}: approvals {len(outcome.approvals)}, calls {outcome.calls}")

    with installation() as settings:
        async with Manager(settings) as manager, anyio.create_task_group() as runs:
            for task in tasks:
                for answering in Answering:
                    for arm in (run_with_regular_permissions, run_at_the_boundary):
                        runs.start_soon(run, task, answering, arm, manager)
    return [
        Comparison(
            task=task,
            answering=answering,
            regular=found[task.name, answering, run_with_regular_permissions],
            boundary=found[task.name, answering, run_at_the_boundary],
        )
        for answering in Answering
        for task in tasks
    ]


def total(comparisons: Sequence[Comparison], answering: Answering) -> Total:
    """The sums over the tasks whose persons answered like this."""
    chosen = [each for each in comparisons if each.answering is answering]
    return Total(
        answering=answering,
        tasks=len(chosen),
        calls=sum(len(each.task.calls) for each in chosen),
        regular=sum(len(each.regular.approvals) for each in chosen),
        boundary=sum(len(each.boundary.approvals) for each in chosen),
    )


def flaws(comparisons: Sequence[Comparison]) -> list[str]:
    """Why the counts would mean nothing: calls that were lost, approvals counted twice, hosts that nobody tried."""
    found = []
    for each in comparisons:
        where = f"{each.task.name}, {each.answering}"
        for name, outcome in (("regular", each.regular), ("boundary", each.boundary)):
            if outcome.calls != len(each.task.calls):
                found.append(f"{where}, {name}: {outcome.calls} of {len(each.task.calls)} calls came back")
            if len(set(outcome.approvals)) != len(outcome.approvals) or "" in outcome.approvals:
                found.append(f"{where}, {name}: an approval was counted twice, or has no id")
            if refused := sorted({tool for tool in outcome.failed if tool != "Bash"}):
                found.append(f"{where}, {name}: calls of {', '.join(refused)} failed, so the script does not fit")
        odd = sorted(set(each.boundary.about) ^ each.task.hosts)
        if each.answering is Answering.EACH_TIME:
            odd += [host for host in each.task.hosts if each.boundary.about.count(host) < each.task.connects(host)]
        if odd:
            found.append(f"{where}, boundary: asked too seldom or unexpectedly about {', '.join(odd)}")
    return found


def report(comparisons: Sequence[Comparison]) -> str:
    """What the command prints."""
    tasks = list(dict.fromkeys(each.task.name for each in comparisons))
    by_key = {(each.task.name, each.answering): each for each in comparisons}
    lines = [
        ("task", "tool calls", *(f"{arm}, {way}" for way in Answering for arm in ("Claude Code", "Gloveport"))),
        *(_row(name, [by_key[name, way] for way in Answering]) for name in tasks),
    ]
    totals = [total(comparisons, way) for way in Answering]
    counts = [str(count) for each in totals for count in (each.regular, each.boundary)]
    lines.append(("all", str(totals[0].calls), *counts))
    return "\n".join([_table(lines), "", *(_sentence(each) for each in totals), _CLAIM])


def document(comparisons: Sequence[Comparison]) -> Mapping[str, Any]:
    """All of it as JSON values."""
    totals = [total(comparisons, way) for way in Answering]
    return {
        "totals": [asdict(each) | {"reduction_percent": each.reduction} for each in totals],
        "claimed_percent": CLAIMED,
        "claimed_by": "the vendor of Claude Code, for its own sandbox, from internal use; not measured here",
        "tasks": [
            {"task": each.task.name, "answering": each.answering, "calls": len(each.task.calls)}
            | {arm: _arm(outcome) for arm, outcome in (("regular", each.regular), ("boundary", each.boundary))}
            for each in comparisons
        ],
    }


def _arm(outcome: Outcome) -> Mapping[str, Any]:
    asked = {about: outcome.about.count(about) for about in sorted(set(outcome.about))}
    return {"approvals": len(outcome.approvals), "about": asked, "failed": len(outcome.failed), "cli": outcome.cli}


def _sentence(found: Total) -> str:
    less = "nothing to compare" if found.reduction is None else f"{found.reduction:.0f} % fewer"
    return (
        f"answered {found.answering}: {found.regular} approvals under Claude Code's regular permissions, "
        f"{found.boundary} under Gloveport: {less} ({found.tasks} tasks, {found.calls} tool calls)"
    )


def _row(name: str, ways: Sequence[Comparison]) -> tuple[str, ...]:
    counts = [str(len(outcome.approvals)) for each in ways for outcome in (each.regular, each.boundary)]
    return (name, str(len(ways[0].task.calls)), *counts)


def _table(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [
        [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    rule = ["-" * width if not column else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])
