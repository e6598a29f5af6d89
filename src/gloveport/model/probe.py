"""What a backend says about itself on this host, before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

__all__ = ["Capability", "Enforcement", "Finding", "Isolation", "Probe"]


class Isolation(StrEnum):
    """What a backend claims, weakest first."""

    NONE = "none"
    NAMESPACE = "namespace"
    CONTAINER = "container"
    KERNEL = "kernel"
    VM = "vm"


class Capability(StrEnum):
    """What a backend can do beyond the required verbs. Linux's own are always "Linux capabilities"."""

    PTY = "pty"
    CHANGES = "changes"
    PAUSE = "pause"
    SNAPSHOT = "snapshot"
    CONNECT = "connect"
    EGRESS = "egress"


class Enforcement(StrEnum):
    """How a limit is kept on this host."""

    KERNEL = "kernel"
    """By the kernel, exactly (a cgroup, a resource limit, a bounded file system)."""
    GUESTD = "guestd"
    """By guestd, exactly: it starts every process, takes all output and has the clock."""
    WATCHDOG = "watchdog"
    """By measuring a few times a second and killing: it can be overshot for a moment."""
    MISSING = "missing"
    """Not at all, or for CPUs only in whole ones: a spec that asks for more exactness does not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is missing or weak, and what to do about it."""

    problem: str
    remedy: str
    fatal: bool = True
    """Whether the backend cannot work until it is mended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A backend's self-examination, here and now."""

    backend: str
    isolation: Isolation
    capabilities: frozenset[Capability] = frozenset()
    versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    limits: Mapping[str, Enforcement] = field(default_factory=lambda: MappingProxyType({}))
    """Field of `Limits` → how it is kept."""
    findings: tuple[Finding, ...] = ()

    @property
    def available(self) -> bool:
        """Whether a sandbox can be made."""
        return not any(finding.fatal for finding in self.findings)
