"""What the server's tools take and return, as data: the JSON Schemas are made of it, and calls are checked by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from gloveport.model import WORKSPACE

__all__ = [
    "CloseSandbox",
    "Closed",
    "CreateSandbox",
    "CriterionScored",
    "Diff",
    "Diverged",
    "ExecuteTool",
    "Executed",
    "ForkSandbox",
    "Forked",
    "GetDiff",
    "ListSandboxes",
    "Listed",
    "ReplayTrajectory",
    "Replayed",
    "Reset",
    "ResetSandbox",
    "SandboxFacts",
    "ScoreTrajectory",
    "Scored",
    "SnapshotSandbox",
    "SnapshotTaken",
]

_ASKED = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_GIVEN = ConfigDict(use_attribute_docstrings=True)

Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
SandboxId = Annotated[str, Field(min_length=1)]
Template = Literal["minimal", "standard", "development"]
ToolName = Literal[
    "file_read", "file_write", "shell", "search", "git", "Bash", "Read", "Write", "Edit", "Glob", "Grep"
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSandbox:
    """Parameters of `create_sandbox`."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED
    repo_url: str | None = None
    """What to work on: a Git URL, or a directory that this server may show. Without it the workspace is empty."""
    base_commit: str | None = None
    """A commit, tag or branch of it. Without it: a directory as it is, a URL's default branch."""
    snapshot: str | None = None
    """The id of a snapshot to start from, which has its own source."""
    language: str | None = None
    """Show this toolchain of the host: python, node, go, rust, java, ruby."""
    image: str | None = None
    """A directory that holds an unpacked root file system; without it, the host's own system directories, read-only."""
    timeout: Positive | None = None
    """Seconds that one command may take unless it names its own time (600)."""
    memory: str | None = None
    """Memory of all its processes together, such as 512m or 2g (2g)."""
    cpu: Positive | None = None
    """CPUs, such as 1.0 (as many as there are)."""
    disk: str | None = None
    """What its workspace may grow by, such as 8g (8g)."""
    policy: Template | None = None
    """What it may do: minimal (no network), standard (packages and git after asking), development (packages and git).
    Without one it has no network. The server's own policy stands above it, and is never widened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxFacts:
    """One sandbox."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    sandbox_id: str
    state: Literal["creating", "running", "paused", "stopped", "failed"]
    reason: str = ""
    """Why it stopped or failed; empty while it runs."""
    created_at: float = 0.0
    """Seconds since the epoch."""
    source: str = ""
    """Where its workspace came from; empty for an empty one."""
    workspace: str = WORKSPACE
    """Where its workspace is, inside: relative paths start there."""
    isolation: str = ""
    """What kind of wall is around it."""
    network: bool = False
    """Whether its policy lets it reach anything at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteTool:
    """Parameters of `execute_tool`."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED
    sandbox_id: SandboxId
    tool_name: ToolName
    params: Mapping[str, Any] = field(default_factory=dict)
    """The tool's own parameters, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """What one tool call gave. The result is an error, too, where the exit code is not 0."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    output: str
    error: str | None
    """Standard error, or why the call failed."""
    exit_code: int
    """The command's own status; 124 when its time ran out."""
    timed_out: bool
    duration: float
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetSandbox:
    """Parameters of `reset_sandbox`."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED
    sandbox_id: SandboxId
    snapshot: str | None = None
    """The id of a snapshot; without it, the sandbox's first state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """A sandbox that is as it was: every process ended; workspace, /tmp and home restored."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    sandbox_id: str
    snapshot: str | None
    """What it was reset to; null is its first state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSandbox:
    """Parameters of `snapshot_sandbox`."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED
    sandbox_id: SandboxId
    label: str = ""
    """A word for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTaken:
    """A snapshot."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    sandbox_id: str
    snapshot: str
    """Its id, a digest."""
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkSandbox:
    """Parameters of `fork_sandbox`."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED
    sandbox_id: SandboxId
    count: Annotated[int, Field(ge=1, le=32, strict=True)] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """New sandboxes, each in the state that the first was in, independent from then on."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    sandbox_id: str
    sandboxes: tuple[SandboxFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTrajectory:
    """Parameters of `replay_trajectory`."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED
    sandbox_id: SandboxId
    trajectory: Mapping[str, Any]
    """`{"steps": [{"tool_name": …, "params": {…}, "expected_output": …}], "metadata": {…}}`, as the trajectory resource
    of a sandbox gives it; or an ATIF document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverged:
    """A step that came out another way than it was recorded."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    step: int
    """From 0."""
    tool: str
    kind: str
    """`environment`, `nondeterministic` or `behaviour`."""
    reason: str
    """Why it is of this kind."""
    difference: str
    """A unified diff, from the recorded to the replayed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How a replay went."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    success: bool
    total_steps: int
    completed_steps: int
    divergence_step: int
    """The first step that diverged, from 0; -1 where none did."""
    details: tuple[Diverged, ...]
    notes: tuple[str, ...]
    """What could not be guaranteed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTrajectory:
    """Parameters of `score_trajectory`."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED
    trajectory: Mapping[str, Any]
    """As of `replay_trajectory`."""
    rubric: Mapping[str, Any]
    """`{"criteria": [{"name": …, "weight": 1, CHECK: …}]}`, where CHECK is one of `tool_used: [NAME]`,
    `tool_unused: [NAME]`, `command: {"matches": REGEX, "succeeded": true, "after": "start" | "last-edit"}`,
    `max_steps: N`, `max_errors: SHARE`, `max_refused: N`, `max_repeats: N`, `reads_before_edit: true`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriterionScored:
    """What came of one criterion."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    name: str
    check: str
    weight: float
    score: float
    """0 to 1."""
    why: str
    steps: tuple[int, ...]
    """The steps that it is about, from 0: the first hundred."""
    steps_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """How a trajectory went."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    score: float
    """0 to 1: the weighted mean of the criteria."""
    total_steps: int
    criteria: tuple[CriterionScored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSandboxes:
    """`list_sandboxes` takes nothing."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The sandboxes of this server."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    sandboxes: tuple[SandboxFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSandbox:
    """Parameters of `close_sandbox`."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED
    sandbox_id: SandboxId


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A sandbox that is gone, with everything in it."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    sandbox_id: str
    closed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GetDiff:
    """Parameters of `get_diff`."""

    __pydantic_config__: ClassVar[ConfigDict] = _ASKED
    sandbox_id: SandboxId
    ignored: Annotated[bool, Field(strict=True)] = False
    """Include what .gitignore leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What changed in the workspace since the sandbox was made."""

    __pydantic_config__: ClassVar[ConfigDict] = _GIVEN
    sandbox_id: str
    patch: str
    """For `git apply`."""
    truncated: bool
    """Whether `patch` is only the beginning, which cannot be applied."""
    patch_bytes: int
    """Size of the whole patch."""
    paths: tuple[str, ...]
    """What changed: the first thousand."""
    paths_total: int
    warnings: tuple[str, ...]
    """What to look at before applying it."""
