"""Files of a workspace, as seen from the host."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Change", "ChangeKind", "FileStat", "FileType", "Grep", "Match", "WatchEvent"]


class FileType(StrEnum):
    """What a path names, without following links."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat:
    """`lstat` of one path."""

    path: str
    """As asked for, or relative to the listed directory. Bytes that are not UTF-8 are surrogate escapes."""
    type: FileType
    mode: int
    """Permission bits, 0 to 0o7777."""
    size: int
    """Bytes."""
    mtime: float
    """Seconds since the epoch."""
    target: str | None = None
    """What a symbolic link says."""


class ChangeKind(StrEnum):
    """What happened to a path of the workspace since it was made."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path of the workspace that differs from its first state."""

    path: str
    """Relative to the workspace; surrogate escapes for bytes that are not UTF-8."""
    kind: ChangeKind
    before: FileType | None
    after: FileType | None
    mode_before: int = 0
    mode_after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grep:
    """A search with a regular expression (ripgrep's syntax)."""

    pattern: str
    path: str = "."
    glob: str | None = None
    """Only files whose name matches."""
    ignore_case: bool = False
    context_lines: int = 0
    limit: int = 10_000
    """Matches at most."""
    hidden: bool = True
    """Search dot-files too (never `.git`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One line found."""

    path: str
    line: int
    """1-based."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One change seen below a watched directory."""

    event: str
    """`created`, `modified`, `deleted`, `moved` or `overflow` (some were missed)."""
    path: str
