"""Approvals: what a sandbox waits for a person to allow, what the person may answer, and the grants that come of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["AnswerKind", "Approval", "Grant"]


class AnswerKind(StrEnum):
    """What a person says to a question."""

    ONCE = "once"
    """One of the connections that wait, and no other."""
    SANDBOX = "sandbox"
    """Every connection to this host and port, until the sandbox ends."""
    ALWAYS = "always"
    """The same, in every sandbox of this installation whose policy asks, until the grant expires."""
    DENY = "deny"
    """All that wait are refused, and this sandbox does not ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One question that waits for a person: however many connections wait for its answer, it is asked once."""

    id: str
    sandbox: str
    host: str
    """Canonical: a name in lower case, or an address."""
    port: int
    rule: str
    """What made it a question."""
    reason: str
    asked_at: float
    """Seconds since 1970."""
    expires_at: float
    """When no answer becomes a denial; seconds since 1970."""
    waiting: int
    """Connections that wait for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A recorded, expiring widening: connections to one host and port that a policy asks about pass."""

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
    """Seconds since 1970; `None`: with the connection (`once`), or with the sandbox (`sandbox`)."""
