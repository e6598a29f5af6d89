"""What an attack is, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Attack", "AttackKind", "Finding", "Outcome", "Report"]


class AttackKind(StrEnum):
    """Whom it hurts, and how: gVisor's taxonomy."""

    ESCAPE = "escape"
    """The guest acts on the host."""
    HOST_LEAK = "host-leak"
    """The guest learns what only the host should know."""
    EXFIL = "exfil"
    """What the guest knows leaves for where the policy does not allow."""
    LATERAL = "lateral"
    """The guest reaches another sandbox, or the network of its host."""
    HOST_DOS = "host-dos"
    """The guest takes what the host needs."""
    PEER_DOS = "peer-dos"
    """The guest takes what another sandbox needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One thing that a hijacked agent would try, and the guard that stops it."""

    name: str
    kind: AttackKind
    guard: str
    """The name of the guard without which it succeeds: its positive control."""
    run: str
    """`module:function` below `inside/`: it returns what proves its success, or nothing."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""
    ground: str = "plain"
    """The sandbox it is tried in: a name of `grounds`."""
    behind: str = ""
    """A second guard that stops it too: its control does without both."""
    leaves: str = ""
    """A file of the host that proves its success when the guest has written there."""
    asks: str = ""
    """A name whose look-up at the private network's name server proves its success."""
    needs_neighbour: bool = False
    """It looks for another sandbox, which is there meanwhile."""
    alone: bool = False
    """It may take its own harness with it, so that it gets one of its own."""
    on_host: bool = False
    """Its control runs on the host as root: no namespace gives anybody the power that it takes."""
    optional: bool = False
    """Not every kernel has what it attacks: then it cannot succeed anywhere."""


class Outcome(StrEnum):
    """What came of one attack."""

    HELD = "held"
    """It failed, and its control shows that it works where the guard is not."""
    SUCCEEDED = "succeeded"
    UNPROVEN = "unproven"
    """It failed, and so did its control: nothing is shown."""
    ABSENT = "absent"
    """This kernel does not have what it attacks."""
    UNTRIED = "untried"
    """Its control needs root: the kernel itself refuses it to everybody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One attack and its outcome."""

    attack: Attack
    outcome: Outcome
    evidence: str = ""
    """What it got, when it succeeded."""
    control: str = ""
    """What its control got."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every attack on one backend."""

    backend: str
    findings: Sequence[Finding]
    plan_digests: Mapping[str, str]
    """Ground → the digest of the plan that was attacked."""

    def count(self, outcome: Outcome) -> int:
        """How many ended so."""
        return sum(finding.outcome is outcome for finding in self.findings)

    @property
    def missing(self) -> tuple[str, ...]:
        """The guards that did not hold, by name."""
        return tuple(sorted({f.attack.guard for f in self.findings if f.outcome is Outcome.SUCCEEDED}))

    @property
    def holds(self) -> bool:
        """Whether no attack succeeded, and every one that was tried is shown to work without its guard."""
        return self.count(Outcome.SUCCEEDED) == 0 and self.count(Outcome.UNPROVEN) == 0
