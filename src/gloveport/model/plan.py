"""The plan: the concrete, printable operations that a backend applies to make one sandbox."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from gloveport.model.spec import WORKSPACE, Limits

__all__ = [
    "Assembled",
    "Bind",
    "DevMount",
    "Link",
    "MountOperation",
    "Overlay",
    "Plan",
    "ProcMount",
    "Tmpfs",
]


@dataclass(frozen=True, slots=True)
class Bind:
    """Show a host path, read-only, at `target`."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """An empty, private, bounded file system in memory."""

    target: str
    size_bytes: int
    mode: int = 0o755


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


@dataclass(frozen=True, slots=True)
class ProcMount:
    """The guest's own `/proc`."""

    target: str = "/proc"


@dataclass(frozen=True, slots=True)
class DevMount:
    """A minimal `/dev`: null, zero, full, random, urandom, tty, pts, shm."""

    target: str = "/dev"


MountOperation = Bind | Tmpfs | Link | Assembled | Overlay | ProcMount | DevMount


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
    """`none`: the guest has a loopback interface of its own and nothing else."""
    limits: Limits = field(default_factory=Limits)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; each mount carries its operation's name."""
        body = asdict(replace(self, env={}, mounts=())) | {"env": dict(self.env)}
        body["mounts"] = [{"operation": type(mount).__name__.lower(), **_fields(mount)} for mount in self.mounts]
        return body

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal: what the audit trail records."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def _fields(mount: MountOperation) -> dict[str, Any]:
    values = {field.name: getattr(mount, field.name) for field in fields(mount)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
