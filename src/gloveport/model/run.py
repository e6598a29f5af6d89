"""Tasks and runs: what an agent is asked to do, and one attempt at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from gloveport.model.spec import Spec

__all__ = ["EndReason", "RunState", "RunSummary", "Task", "Usage"]


class RunState(StrEnum):
    """States of a job and of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EndReason(StrEnum):
    """Why a run ended other than by its own success."""

    TIMEOUT = "timeout"
    BUDGET = "budget"
    POLICY = "policy"
    BACKEND = "backend"
    TASK = "task"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is asked of an agent."""

    prompt: str
    spec: Spec = field(default_factory=Spec)
    test: str | None = None
    """A shell command, run in the workspace after the agent; exit 0 is success."""
    model: str | None = None
    max_turns: int = 50
    max_cost: float | None = None
    """US dollars at the model."""
    trust_repository_skills: bool = False
    """Offer the repository's own `.claude/skills`, as copies."""
    snapshots: bool = False
    """Save the sandbox before each tool call that may change something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run consumed at the model."""

    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """US dollars, by known prices."""
    priced: bool = True
    """Whether every model that was asked has a known price; `cost` leaves the others out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The end of one run, as `run.json` holds it."""

    id: str
    state: RunState
    reason: EndReason | None = None
    prompt: str = ""
    repo: str = ""
    commit: str | None = None
    started_at: float = 0.0
    """Seconds since the epoch."""
    duration: float = 0.0
    """Seconds."""
    sandbox: str = ""
    model: str = ""
    scripted: bool = False
    """Whether a script played the model."""
    test: str | None = None
    test_status: int | None = None
    usage: Usage = field(default_factory=Usage)
    answer: str = ""
    """The agent's last words."""
    changed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What to look at before the patch is applied."""
    protected: tuple[str, ...] = ()
    """Patterns of paths that its policy protects when the patch is applied, beside the built-in ones."""
    message: str = ""
    """What went wrong, for a person."""
    trace: str = ""
