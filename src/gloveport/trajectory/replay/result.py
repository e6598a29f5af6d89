"""What a replay found: step by step, and as a whole."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from gloveport.trajectory.replay.normalise import Applied
from gloveport.trajectory.steps import Outcome

__all__ = [
    "Aspect",
    "Difference",
    "Divergence",
    "DivergenceKind",
    "ReplayResult",
    "StepResult",
    "Verdict",
    "difference_of",
    "unified",
]


_LONGEST_DIFF = 20_000
_PREVIEW = 200


class DivergenceKind(StrEnum):
    """Why a step came out another way."""

    ENVIRONMENT = "environment"
    """Something around it is missing or in the way: a program, a path, a permission, the network, a limit."""
    NONDETERMINISTIC = "nondeterministic"
    """It comes out differently by itself, or differs only in what is known to vary."""
    BEHAVIOUR = "behaviour"
    """The same call does something else."""


class Aspect(StrEnum):
    """What differs."""

    STATUS = "status"
    ERROR = "error"
    OUTPUT = "output"
    CHANGES = "changes"
    CALL = "call"
    """It could not be called as it was recorded."""
    MODEL = "model"
    """The agent asked its model something else than was recorded."""


class Verdict(StrEnum):
    """What became of one step."""

    SAME = "same"
    DIVERGED = "diverged"
    UNCOMPARED = "uncompared"
    """Executed; there was nothing to compare, or nothing was to be compared."""
    SKIPPED = "skipped"
    """Not executed, as when it was recorded; or nothing that a sandbox executes."""
    MISSING = "missing"
    """Not executed: the sandbox did not answer any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One aspect in which a step came out another way."""

    aspect: Aspect
    recorded: str
    """In a few words, or as a whole text; normalised."""
    replayed: str
    diff: str
    """The same as a unified diff."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """A step that came out another way."""

    step: int
    """From 0."""
    tool: str
    kind: DivergenceKind
    reason: str
    """Why it is of this kind."""
    differences: tuple[Difference, ...]

    @property
    def diff(self) -> str:
        """Every difference as one unified diff."""
        return "".join(difference.diff for difference in self.differences)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step."""

    step: int
    tool: str
    verdict: Verdict
    outcome: Outcome | None = None
    """What came of it here; `None` where it was not carried out."""
    normalised: tuple[Applied, ...] = ()
    """What the normalisers changed, on both sides together."""
    carried: tuple[tuple[str, str], ...] = ()
    """Names of the recording that its parameters had, and the ones they got here: a directory of `mktemp`."""
    note: str = ""
    """Why it was not executed or not compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """A whole replay."""

    total_steps: int
    completed_steps: int
    """Steps that were executed, or that needed no execution."""
    steps: tuple[StepResult, ...]
    divergences: tuple[Divergence, ...]
    normalised: tuple[Applied, ...] = ()
    """What the normalisers changed in all steps."""
    notes: tuple[str, ...] = field(default=())
    """What the result does not say by itself: what could not be guaranteed."""
    duration: float = 0.0
    """Seconds."""

    @property
    def compared_steps(self) -> int:
        """Steps that were held against their record."""
        return sum(step.verdict in (Verdict.SAME, Verdict.DIVERGED) for step in self.steps)

    @property
    def success(self) -> bool:
        """Whether every step was executed and none diverged."""
        return not self.divergences and self.completed_steps == self.total_steps

    @property
    def divergence_step(self) -> int:
        """The first step that diverged; -1 where none did."""
        return self.divergences[0].step if self.divergences else -1

    @property
    def details(self) -> list[dict[str, Any]]:
        """One object a step, as knowlyr-sandbox has them, with what became of it and why."""
        divergences = {one.step: one for one in self.divergences}
        return [
            {
                "step": one.step,
                "tool_name": one.tool,
                "exit_code": _exit_code(one.outcome),
                "diverged": one.step in divergences,
                "output_preview": ((one.outcome.text or "") if one.outcome is not None else "")[:_PREVIEW],
                "verdict": str(one.verdict),
                "note": one.note,
                "kind": str(divergences[one.step].kind) if one.step in divergences else None,
                "diff": divergences[one.step].diff if one.step in divergences else None,
            }
            for one in self.steps
        ]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values; divergences with their diff, steps without what they wrote into files."""
        steps = [{**asdict(replace(step, outcome=None)), "outcome": _plain(step.outcome)} for step in self.steps]
        return {
            "success": self.success,
            "divergence_step": self.divergence_step,
            "total_steps": self.total_steps,
            "completed_steps": self.completed_steps,
            "compared_steps": self.compared_steps,
            "divergences": [{**asdict(one), "diff": one.diff} for one in self.divergences],
            "steps": steps,
            "normalised": [asdict(one) for one in self.normalised],
            "notes": list(self.notes),
            "duration": round(self.duration, 6),
        }


def _exit_code(outcome: Outcome | None) -> int | None:
    if outcome is None or outcome.status is not None:
        return None if outcome is None else outcome.status
    return int(outcome.is_error or False)


def _plain(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {name: getattr(outcome, name) for name in ("text", "is_error", "error", "status", "duration", "changes")}


def difference_of(aspect: Aspect, left: str, right: str, name: str) -> Difference:
    """A difference in a few words on each side."""
    return Difference(aspect=aspect, recorded=left, replayed=right, diff=unified(left, right, f"{name} {aspect}"))


def unified(left: str, right: str, name: str) -> str:
    """A unified diff of at most about 20,000 characters."""
    heads = (f"recorded {name}", f"replayed {name}")
    text = "\n".join(difflib.unified_diff(left.split("\n"), right.split("\n"), *heads, lineterm="")) + "\n"
    left_out = len(text) - _LONGEST_DIFF
    return text if left_out <= 0 else f"{text[:_LONGEST_DIFF]}\n[… {left_out} more characters]\n"
