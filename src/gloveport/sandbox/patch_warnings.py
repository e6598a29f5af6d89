"""What a person should look at before applying a patch, and the names that git does not take at all."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from gloveport.backends.base import ChangeSet
from gloveport.model import Change, FileType

__all__ = ["refused_by_git", "warnings_for"]

_RUN_BY_THEMSELVES = (
    (
        ".bash_profile .bash_login .bashrc .profile .zprofile .zshenv .zshrc",
        "a shell runs it when it starts in this home",
    ),
    (".envrc", "direnv runs it when a shell enters the directory"),
    (".githooks/* .husky/*", "git runs it where core.hooksPath points there"),
    (".gitmodules", "git fetches what it names when submodules are updated"),
    (".pre-commit-config.yaml", "pre-commit runs what it names at the next commit"),
    (".claude/settings.json .claude/settings.local.json", "Claude Code runs the hooks it names"),
    (".mcp.json", "coding agents start the servers it names"),
    (".vscode/tasks.json .vscode/settings.json", "the editor runs or uses it when the folder is opened"),
    (
        ".devcontainer.json .devcontainer/devcontainer.json",
        "the editor runs its initializeCommand on the host",
    ),
    (".github/workflows/* .gitlab-ci.yml", "CI runs it, with the secrets of the repository"),
)
"""Patterns (matched from the right) of files that a host acts on without being asked, and what acts."""

_DOT_GIT = re.compile(r"(?:^|[/\\])(?:\.git|git~1)[. ]*(?:$|[/\\:])", re.IGNORECASE)
"""What git takes for `.git` on any file system, and so refuses in every tree."""

_CONTENT = (FileType.FILE, FileType.SYMLINK)


def refused_by_git(change: Change) -> bool:
    """Whether no patch can hold this path: another spelling of `.git`, or `.gitmodules` as a link."""
    if _DOT_GIT.search(change.path):
        return True
    name = change.path.rpartition("/")[2].lower()
    return name == ".gitmodules" and FileType.SYMLINK in (change.before, change.after)


def warnings_for(chosen: Sequence[Change], changes: ChangeSet) -> Iterator[str]:
    """One sentence for each thing to look at, by path."""
    written = {change.path for change in chosen if change.after in _CONTENT}
    for change in chosen:
        if refused_by_git(change):
            yield f"{change.path!r} is not in the patch: git accepts no such name"
        elif change.after in _CONTENT:
            yield from _about(change, written, changes)
        elif change.after is FileType.DIRECTORY and change.before is None:
            yield f"{change.path!r} is not in the patch: git keeps no empty directories"
        elif change.before is FileType.DIRECTORY:
            yield f"{change.path!r} was removed: git knows no empty directories, remove it by hand"
    for path in changes.skipped:
        yield f"{path!r} is not in the patch: a pipe, a socket, a device, or unreadable"


def _about(change: Change, written: set[str], changes: ChangeSet) -> Iterator[str]:
    path = PurePosixPath(change.path)
    for patterns, reason in _RUN_BY_THEMSELVES:
        if any(path.match(pattern) for pattern in patterns.split()):
            yield f"{change.path!r}: {reason}"
    if path.name == "HEAD" and str(path.with_name("config")) in written:
        yield f"{str(path.parent)!r} looks like a Git repository: git commands inside it obey its config"
    if change.after is FileType.SYMLINK:
        with changes.after(change) as content:
            target = os.fsdecode(content.read())
        if _leaves(change.path, target):
            yield f"{change.path!r} is a link out of the tree, to {target!r}"


def _leaves(path: str, target: str) -> bool:
    whole = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return target.startswith("/") or whole == ".." or whole.startswith("../")
