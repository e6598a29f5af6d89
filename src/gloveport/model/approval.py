"""Approvals: what a sandbox waits for a person to allow, what the person may answer, and the grants that come of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["AnswerKind", "Approval", "Asked", "Grant", "QuestionKind"]


class QuestionKind(StrEnum):
    """What a policy asks about."""

    EGRESS = "egress"
    EXEC = "exec"
    TOOL = "tool"


class AnswerKind(StrEnum):
    """What a person says to a question."""

    ONCE = "once"
    """One of the connections, execs or tool calls that wait, and no other."""
    SANDBOX = "sandbox"
    """Every connection to this host and port, every exec of these commands, or every call of this tool, until the
    sandbox ends."""
    ALWAYS = "always"
    """The same, in every sandbox of this installation whose policy asks, until the grant expires."""
    DENY = "deny"
    """All that wait are refused, and this sandbox does not ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What waits for a person's word, and what that word may cover."""

    kind: QuestionKind
    name: str
    """What a grant covers that lasts: `host:port`, the commands, or the tool whatever its arguments."""
    shown: str = ""
    """Of a tool call: its arguments too. What differs here is another question."""
    host: str = ""
    port: int = 0

    @property
    def key(self) -> tuple[QuestionKind, str]:
        """What grants are found by."""
        return self.kind, self.name

    def __str__(self) -> str:
        return self.name if self.kind is QuestionKind.EGRESS else f"{self.kind} {self.shown or self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One question that waits for a person: however many wait for its answer, it is asked once."""

    id: str
    sandbox: str
    kind: QuestionKind
    host: str
    """Canonical: a name in lower case, or an address. Empty where no host is asked about."""
    port: int
    subject: str
    """What is asked about: `host:port`, `exec` and the commands, `tool` and its name and arguments."""
    rule: str
    """What made it a question."""
    reason: str
    asked_at: float
    """Seconds since 1970."""
    expires_at: float
    """When no answer becomes a denial; seconds since 1970."""
    waiting: int
    """Connections, execs or calls that wait for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A recorded, expiring widening: what a policy asks about passes, at one host and port, of one name."""

    id: str
    scope: AnswerKind
    """`once`, `sandbox` or `always`."""
    host: str
    port: int
    sandbox: str
    """Where it was asked for; with `once` and `sandbox` it holds nowhere else."""
    granted_at: float
    """Seconds since 1970."""
    granted_by: str
    """The user who answered."""
    until: float | None = None
    """Seconds since 1970; `None`: with what it lets through (`once`), or with the sandbox (`sandbox`)."""
    kind: QuestionKind = QuestionKind.EGRESS
    name: str = ""
    """The commands or the tool; empty where it is a host and a port."""

    @property
    def key(self) -> tuple[QuestionKind, str]:
        """What it covers; `Asked.key` of what it lets through."""
        return self.kind, self.name or f"{self.host}:{self.port}"

    def __str__(self) -> str:
        kind, name = self.key
        return name if kind is QuestionKind.EGRESS else f"{kind} {name}"
