"""What a person asks for: the spec of a sandbox, its source and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["GIB", "KIB", "MIB", "WORKSPACE", "Limits", "Source", "Spec"]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

WORKSPACE = "/workspace"
"""Where the workspace is, in every sandbox of every backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one sandbox. Every one is enforced or the sandbox does not start."""

    exec_seconds: float = 600.0
    """Wall time of one exec that names none itself, in seconds."""
    sandbox_seconds: float = 4 * 3600.0
    """Wall time of the sandbox; then it is stopped, in seconds."""
    memory_bytes: int = 2 * GIB
    """Resident memory of all processes together, its tmpfs included."""
    processes: int = 512
    """Processes and threads alive at once."""
    open_files: int = 4096
    """Open descriptors of one process."""
    disk_bytes: int = 8 * GIB
    """What the workspace may grow by, each entry counting 4 KiB at least; also the largest single file. Measured at
    intervals, so that a fast writer passes it by what it writes between two looks. At most a million entries."""
    tmp_bytes: int = 512 * MIB
    """Size of each of `/tmp`, the home directory and `/dev/shm`; never more than a quarter of `memory_bytes`."""
    output_bytes: int = 10 * MIB
    """Bytes kept of each output stream of one exec; the rest is counted and dropped."""
    cpus: float | None = None
    """CPU time per second of wall time; `None` leaves it to the host's scheduler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the workspace's first content comes from."""

    repo: str
    """A directory of this host (with or without `.git`), or a Git URL."""
    commit: str | None = None
    """A commit, tag or branch. `None`: a directory as it is, uncommitted changes included; a URL's default branch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The declarative request for one sandbox."""

    backend: str = "bubblewrap"
    source: Source | None = None
    """`None` starts with an empty workspace."""
    image: str | None = None
    """A directory that holds a root file system; `None` is the host's own system directories, read-only."""
    language: str | None = None
    """Make this language's toolchain of the host visible, wherever it is installed (`python`, `node`, …)."""
    read_only: tuple[str, ...] = ()
    """More host paths to show, read-only, at the same place: virtual environments, toolchains, data."""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Variables of every process, beside the few that a shell needs."""
    limits: Limits = field(default_factory=Limits)
