"""The patch: a workspace's changes as one file that `git apply` reproduces exactly, and applying it to a tree."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread

from gloveport.backends.base import ChangeSet
from gloveport.errors import NotFound
from gloveport.model import GIB, Change, ChangeKind, FileType
from gloveport.sandbox.host_git import run_git
from gloveport.sandbox.patch_warnings import refused_by_git, warnings_for
from gloveport.store.layout import remove_tree

__all__ = ["Patch", "PatchEntry", "make_patch"]

_PATCH_BYTES = 2 * GIB
_SECONDS = 600.0
_COMMIT = b"commit refs/heads/%s\ncommitter gloveport <> 0 +0000\ndata 0\n"
_LINK, _PROGRAM, _FILE = 0o120000, 0o100755, 0o100644
_DIFF = ("diff", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv", "--full-index")
_TREES = ("refs/heads/before", "refs/heads/after", "--")
_KINDS = {"A": ChangeKind.ADDED, "D": ChangeKind.DELETED}


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchEntry:
    """One path of a patch."""

    path: str
    """Relative to the workspace; surrogate escapes for bytes that are not UTF-8."""
    kind: ChangeKind
    added: int = 0
    """Lines; 0 for a binary file."""
    deleted: int = 0
    binary: bool = False
    modes: tuple[int, int] | None = None
    """Git's modes before and after, where both exist and differ: 0o100644, 0o100755 or 0o120000 (a link)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Changes in git's format."""

    data: bytes
    """Empty when nothing changed. Names are quoted as git quotes them; contents are raw, in any encoding."""
    paths: tuple[PatchEntry, ...] = ()
    """By path, in byte order."""
    warnings: tuple[str, ...] = ()
    """What to look at before applying: files that a host runs by itself, links out of the tree, what is not in it."""


async def make_patch(changes: ChangeSet, *, scratch: Path, selected: Collection[str] | None = None) -> Patch:
    """The patch of `changes`, or of the `selected` paths among them.

    The changed paths alone are put into a clean repository below `scratch` and compared there: no setting,
    attribute or hook of the workspace has a say. Made for repositories whose objects are SHA-1.

    Raises `NotFound` for a selected path that did not change, `LimitExceeded` for a file above 512 MiB or a
    patch above 2 GiB, `Conflict` for a file that the guest changed meanwhile, `PermissionDenied` for an
    unreadable one.
    """
    wanted = _select(changes.changes, selected)
    kept = [change for change in wanted if _has_content(change) and not refused_by_git(change)]
    warnings = tuple(warnings_for(wanted, changes))
    if not kept:
        return Patch(data=b"", warnings=warnings)
    async with _clean_repository(scratch) as (place, repository):
        with (place / "stream").open("w+b") as stream:
            await anyio.to_thread.run_sync(_write_stream, stream, kept, changes)
            await run_git(["fast-import", "--quiet"], cwd=place, repository=repository, stdin=stream, timeout=_SECONDS)
        told = await run_git(
            [*_DIFF, "--raw", "--numstat", "-z", *_TREES], cwd=place, repository=repository, limit=_PATCH_BYTES
        )
        data = await run_git(
            [*_DIFF, "--binary", "--src-prefix=a/", "--dst-prefix=b/", *_TREES],
            cwd=place,
            repository=repository,
            limit=_PATCH_BYTES,
            timeout=_SECONDS,
        )
    return Patch(data=data, paths=_entries(told), warnings=warnings)


@asynccontextmanager
async def _clean_repository(scratch: Path) -> AsyncIterator[tuple[Path, Path]]:
    """A directory of its own below `scratch`, and an empty bare repository in it."""
    place = Path(await anyio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="patch-", dir=scratch)))
    try:
        repository = place / "repository.git"
        await run_git(["init", "--quiet", "--bare", "--template="], cwd=place, repository=repository)
        yield place, repository
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, place)


def _select(changes: Sequence[Change], selected: Collection[str] | None) -> Sequence[Change]:
    if selected is None:
        return changes
    missing = set(selected) - {change.path for change in changes}
    if missing:
        path = min(missing)
        raise NotFound(f"{path!r} did not change", hint="take the paths from the list of changes", path=path)
    return [change for change in changes if change.path in selected]


def _has_content(change: Change) -> bool:
    """Git has no directories: one that is empty is a warning only."""
    return _is_content(change.before) or _is_content(change.after)


def _is_content(kind: FileType | None) -> bool:
    return kind in (FileType.FILE, FileType.SYMLINK)


def _write_stream(stream: BinaryIO, kept: Sequence[Change], changes: ChangeSet) -> None:
    """Both trees in git's fast-import format, one file in memory at a time."""
    stream.write(_COMMIT % b"before")
    for change in kept:
        if _is_content(change.before):
            _write_file(stream, change.path, _git_mode(change.before, change.mode_before), changes.before(change))
    stream.write(_COMMIT % b"after")
    for change in kept:
        if _is_content(change.after):
            _write_file(stream, change.path, _git_mode(change.after, change.mode_after), changes.after(change))
    stream.seek(0)


def _write_file(stream: BinaryIO, path: str, mode: int, content: bytes) -> None:
    stream.write(b"M %o inline %s\ndata %d\n" % (mode, _quoted(path), len(content)))
    stream.write(content)
    stream.write(b"\n")


def _git_mode(kind: FileType | None, mode: int) -> int:
    if kind is FileType.SYMLINK:
        return _LINK
    return _PROGRAM if mode & stat.S_IXUSR else _FILE


def _quoted(path: str) -> bytes:
    """As a C string: every byte that is not plain in octal."""
    plain = (b"%c" % byte if _is_plain(byte) else b"\\%03o" % byte for byte in os.fsencode(path))
    return b'"%s"' % b"".join(plain)


def _is_plain(byte: int) -> bool:
    return 0x20 <= byte < 0x7F and byte not in b'"\\'


def _entries(told: bytes) -> tuple[PatchEntry, ...]:
    """From `--raw --numstat -z`: first `:modes ids letter`, path, …; then `added TAB deleted TAB path`, …."""
    fields = iter(told.split(b"\0"))
    letters: dict[bytes, tuple[str, tuple[int, int]]] = {}
    lines: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for field in fields:
        if field.startswith(b":"):
            before, after, *_, letter = field[1:].split(b" ")
            letters[next(fields)] = (letter.decode(), (int(before, 8), int(after, 8)))
        elif field:
            added, deleted, path = field.split(b"\t", 2)
            lines.setdefault(path, []).append((added, deleted))
    return tuple(_entry(path, *letters[path], lines.get(path, [])) for path in sorted(letters))


def _entry(path: bytes, letter: str, modes: tuple[int, int], lines: Iterable[tuple[bytes, bytes]]) -> PatchEntry:
    counts = [(added, deleted) for added, deleted in lines if added != b"-"]
    return PatchEntry(
        path=os.fsdecode(path),
        kind=_KINDS.get(letter, ChangeKind.MODIFIED),
        added=sum(int(added) for added, _ in counts),
        deleted=sum(int(deleted) for _, deleted in counts),
        binary=any(added == b"-" for added, _ in lines),
        modes=modes if all(modes) and modes[0] != modes[1] else None,
    )
