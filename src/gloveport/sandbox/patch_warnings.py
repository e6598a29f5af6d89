"""What a person should look at before applying a patch, and the names that git does not take at all."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence

from gloveport.backends.base import ChangeSet
from gloveport.model import KIB, Change, FileType
from gloveport.policy.files.protected import ProtectedPath, ProtectionLevel, Touched, find_protected

__all__ = ["refused_by_git", "warnings_for"]

_DOT_GIT = re.compile(r"(?:^|[/\\])(?:\.git|git~1)[. ]*(?:$|[/\\:])", re.IGNORECASE)
"""What git takes for `.git` on any file system, and so refuses in every tree."""

_CONTENT = (FileType.FILE, FileType.SYMLINK)
_DRIVERS = re.compile(rb"\b(?:filter|diff|merge)=")
_LOOKED_AT = 256 * KIB
"""Bytes of a `.gitattributes`; git itself takes no larger lines than 2 KiB."""


def refused_by_git(change: Change) -> bool:
    """Whether no patch can hold this path: another spelling of `.git`, or `.gitmodules` as a link."""
    if _DOT_GIT.search(change.path):
        return True
    name = change.path.rpartition("/")[2].lower()
    return name == ".gitmodules" and FileType.SYMLINK in (change.before, change.after)


def warnings_for(chosen: Sequence[Change], changes: ChangeSet, patterns: Sequence[str] = ()) -> Iterator[str]:
    """One sentence for each thing to look at, by path. `patterns` are what a policy protects."""
    links = {change.path: _target(change, changes) for change in chosen if change.after is FileType.SYMLINK}
    touched = [
        Touched(path=change.path, link=links.get(change.path))
        for change in chosen
        if (change.before in _CONTENT or change.after in _CONTENT) and not refused_by_git(change)
    ]
    found = {protected.path: protected for protected in find_protected(touched, patterns)}
    for change in chosen:
        if refused_by_git(change):
            yield f"{change.path!r} is not in the patch: git accepts no such name"
            continue
        if change.path in found:
            yield _sentence(found[change.path])
        if change.after in _CONTENT:
            yield from _about(change, links, changes)
        elif change.after is FileType.DIRECTORY and change.before is None:
            yield f"{change.path!r} is not in the patch: git keeps no empty directories"
        elif change.before is FileType.DIRECTORY:
            yield f"{change.path!r} was removed: git knows no empty directories, remove it by hand"
    for path in changes.skipped:
        yield f"{path!r} is not in the patch: a pipe, a socket, a device, or unreadable"


def _sentence(protected: ProtectedPath) -> str:
    if protected.level is ProtectionLevel.REFUSED:
        return f"{protected}; applying it needs --allow-protected"
    return str(protected)


def _about(change: Change, links: Mapping[str, str], changes: ChangeSet) -> Iterator[str]:
    target = links.get(change.path)
    if target is not None and _leaves(change.path, target):
        yield f"{change.path!r} is a link out of the tree, to {target!r}"
    elif target is None and posixpath.basename(change.path).lower() == ".gitattributes":
        with changes.after(change) as content:
            if _DRIVERS.search(content.read(_LOOKED_AT)):
                yield f"{change.path!r}: git runs the filters and drivers it asks for, where your settings have them"


def _target(change: Change, changes: ChangeSet) -> str:
    with changes.after(change) as content:
        return os.fsdecode(content.read())


def _leaves(path: str, target: str) -> bool:
    whole = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return target.startswith("/") or whole == ".." or whole.startswith("../")
