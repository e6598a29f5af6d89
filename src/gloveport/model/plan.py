"""The plan: the concrete, printable operations that a backend applies to make one sandbox."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any

from gloveport.model.limits import Limits
from gloveport.model.policy import Policy
from gloveport.model.snapshot import Base
from gloveport.model.spec import WORKSPACE

__all__ = [
    "EGRESS_PORT",
    "Assembled",
    "Bind",
    "DevMount",
    "Hidden",
    "Link",
    "MountOperation",
    "Overlay",
    "Plan",
    "ProcMount",
    "Tmpfs",
    "digest_plan",
]


EGRESS_PORT = 3128
"""Where a guest that has a way out reaches the egress proxy, on its own loopback; guestd.h has the same."""


@dataclass(frozen=True, slots=True)
class Bind:
    """Show a host path at `target`, read-only unless the policy lets the guest write it."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """An empty, private, bounded file system in memory."""

    target: str
    size_bytes: int
    mode: int = 0o755
    saved_as: str = ""
    """The snapshots' layer that holds its content; empty where snapshots leave it out."""
    content: str = ""
    """Host directory whose content it begins with, before anything runs."""


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link `path` → `target`."""

    target: str
    path: str


@dataclass(frozen=True, slots=True)
class Assembled:
    """A read-only directory of the platform's own making: small files, and copies of some of the host's.

    One mount instead of one a file: each costs a sandbox's start a fifth of a millisecond.
    """

    target: str
    files: Mapping[str, str]
    """Name in the directory → content."""
    copies: tuple[str, ...] = ()
    """Host paths below a directory of the same name as `target`. Links stay links; what is unreadable is left out."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """The workspace: `lower` (a host directory, never written; `None`: empty) under a private writable layer."""

    lower: str | None
    target: str = WORKSPACE
    layer: str = ""
    """Host directory of a snapshot's sealed layer, between the two."""
    base: Base | None = None
    """What that layer was sealed on: `lower` must still be that."""
    beside: str = ""
    """A live sandbox on the same `lower`, as which this one takes it: it was looked through for that one."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Cover `target`, which an earlier operation shows: nobody in the guest can open it."""

    target: str
    is_directory: bool


@dataclass(frozen=True, slots=True)
class ProcMount:
    """The guest's own `/proc`."""

    target: str = "/proc"


@dataclass(frozen=True, slots=True)
class DevMount:
    """A minimal `/dev`: null, zero, full, random, urandom, tty, pts, shm, mqueue."""

    target: str = "/dev"


MountOperation = Bind | Tmpfs | Link | Assembled | Hidden | Overlay | ProcMount | DevMount


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a backend does to make one sandbox. Mounts apply in order; a later one covers an earlier one."""

    sandbox: str
    """The sandbox's id."""
    mounts: tuple[MountOperation, ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The whole environment of every process."""
    uid: int = 1000
    """The guest's user; never 0, and on the host never root."""
    gid: int = 1000
    hostname: str = "gloveport"
    seccomp: str = "standard"
    """Name of the system-call filter."""
    network: str = "none"
    """`none`: the guest has a loopback interface and nothing else. `proxy`: the egress proxy listens on it."""
    policy: Policy = field(default_factory=Policy)
    """What the egress proxy decides by; limits and mounts of it are in the plan already."""
    limits: Limits = field(default_factory=Limits)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; each mount carries its operation's name."""
        body: dict[str, Any] = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        for mount, plain in zip(self.mounts, body["mounts"], strict=True):
            plain["operation"] = type(mount).__name__.lower()
        return body

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal: what the audit trail records."""
        return digest_plan(self.to_json())


def digest_plan(body: Mapping[str, Any]) -> str:
    """The digest of a plan that is JSON already."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(value: object) -> Any:
    """As JSON values; sets sorted."""
    if value is None or isinstance(value, str | int | float):
        return value  # most are: asked first, because every create asks of hundreds
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
