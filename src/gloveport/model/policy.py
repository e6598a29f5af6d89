"""Policy: the declared limits of what a sandbox may do, as data; and what a decision says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from gloveport.model.limits import Limits

__all__ = [
    "Decision",
    "EgressRule",
    "ExecRule",
    "FileRules",
    "Injection",
    "Origin",
    "Policy",
    "PolicyLayer",
    "SecretBinding",
    "SecretSource",
    "ToolRate",
    "ToolRule",
    "Verdict",
]


class Verdict(StrEnum):
    """What a decision says; the strictest wins: deny, then ask, then allow."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict, the rule it comes from, and why."""

    verdict: Verdict
    rule: str
    reason: str = ""
    subject: str = ""
    """Of an exec that is asked about: the commands that a person has to allow, exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a rule was written."""

    layer: str
    """`built-in`, `organisation`, `project` or `command line`."""
    file: str = ""
    line: int = 0
    """From 1; 0 where there is no file."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{self.layer} ({place})" if place else self.layer


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRule:
    """One line about where traffic may go."""

    verdict: Verdict
    host: str
    """A canonical name, `*.name`, an address, a network in CIDR form, or `*`."""
    port: int | None = None
    """`None`: any."""
    methods: tuple[str, ...] = ()
    """HTTP methods; empty for all. Methods and paths are seen only where TLS is terminated, and in plain HTTP."""
    paths: tuple[str, ...] = ()
    """Path patterns, `*` for any characters; empty for all."""
    private: bool = False
    """Whether the name may lead to private, loopback and link-local addresses."""
    reason: str = ""
    origin: Origin = field(default_factory=lambda: Origin(layer="built-in"))

    def __str__(self) -> str:
        port = f":{self.port}" if self.port is not None else ""
        parts = [",".join(self.methods), f"{self.host}{port}", ",".join(self.paths)]
        return f"egress.{self.verdict}: {' '.join(part for part in parts if part)}, {self.origin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRule:
    """One line about commands: words, `*` for any one, `**` at the end for any more."""

    verdict: Verdict
    command: tuple[str, ...]
    reason: str = ""
    origin: Origin = field(default_factory=lambda: Origin(layer="built-in"))

    def __str__(self) -> str:
        return f"exec.{self.verdict}: {' '.join(self.command)}, {self.origin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRule:
    """One line about tools by name; `*` for any characters."""

    verdict: Verdict
    tool: str
    reason: str = ""
    origin: Origin = field(default_factory=lambda: Origin(layer="built-in"))

    def __str__(self) -> str:
        return f"tools.{self.verdict}: {self.tool}, {self.origin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRate:
    """How many tool calls one sandbox may make in any such time."""

    calls: int
    seconds: float
    origin: Origin = field(default_factory=lambda: Origin(layer="built-in"))

    def __str__(self) -> str:
        return f"tools.rate: {self.calls} in {self.seconds:g} s, {self.origin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRules:
    """Host paths beyond the built-in allow-list."""

    read_only: tuple[str, ...] | None = None
    """Shown in the guest at the same place, and all that lower layers may show; `None` leaves that to them."""
    hidden: tuple[str, ...] = ()
    """Not shown, although a directory above is."""
    writable: tuple[str, ...] = ()
    """Shown and writable: the one way to leave a trace outside the workspace."""
    protected: tuple[str, ...] = ()
    """Patterns of paths in a patch that need an explicit flag to be applied, beside the built-in ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSource:
    """Where the host finds a secret: exactly one is set."""

    env: str | None = None
    file: str | None = None
    command: tuple[str, ...] | None = None
    keyring: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """How a secret goes into a request at the egress proxy."""

    kind: str = "header"
    """`header`, `basic`, `query` or `sigv4`."""
    name: str = "authorization"
    """The header or the query parameter; for `basic` the user's name."""
    value: str = "Bearer {secret}"
    """What it becomes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretBinding:
    """A secret, the hosts it is for, and the placeholder that the guest sees."""

    name: str
    source: SecretSource
    hosts: tuple[str, ...]
    """Canonical names, without patterns: a secret goes to hosts that somebody wrote down."""
    injection: Injection = field(default_factory=Injection)
    variable: str | None = None
    """The variable of the guest that holds the placeholder."""
    origin: Origin = field(default_factory=lambda: Origin(layer="built-in"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLayer:
    """What one layer says. A section that is absent says nothing."""

    origin: Origin
    egress: tuple[EgressRule, ...] | None = None
    egress_default: Verdict = Verdict.DENY
    """For hosts that no rule names; `allow` does not exist."""
    exec: tuple[ExecRule, ...] | None = None
    tools: tuple[ToolRule, ...] | None = None
    tool_rate: ToolRate | None = None
    files: FileRules | None = None
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Only the limits that it names."""
    secrets: tuple[SecretBinding, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    defaults: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Variables that the groups of its egress rules bring, so that tools find their places; anything else wins."""
    open: frozenset[str] = frozenset()
    """Sections that lower layers may widen; in all others they can only tighten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Layers from the highest to the lowest, and the limits they come to."""

    layers: tuple[PolicyLayer, ...] = ()
    limits: Limits = field(default_factory=Limits)
