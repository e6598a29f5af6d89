"""The patch: a workspace's changes as one file that `git apply` reproduces exactly, and applying it to a tree."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread

from gloveport.backends.base import ChangeSet, changed_meanwhile
from gloveport.errors import LimitExceeded, NotFound
from gloveport.model import GIB, MIB, Change, ChangeKind, FileType
from gloveport.sandbox.host_git import run_git
from gloveport.sandbox.patch_warnings import refused_by_git, warnings_for
from gloveport.store.layout import remove_tree

__all__ = ["Patch", "PatchEntry", "PatchSummary", "make_patch", "write_patch"]

CONTENT_BYTES = 2 * GIB
"""What the files of one patch may hold, before and after together: sparse files cost a guest nothing."""
IN_MEMORY_BYTES = 256 * MIB
"""The largest patch that is returned as bytes."""
_SECONDS = 600.0
_COMMIT = b"commit refs/heads/%s/%s\ncommitter gloveport <> 0 +0000\ndata 0\n"
_LINK, _PROGRAM, _FILE = 0o120000, 0o100755, 0o100644
_DIFF = ("diff", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv", "--full-index")
_PREFIXES = {b"plain": "", b"spaced": "\t"}
"""What the first component of a name ends in. `git apply` cannot tell where an unquoted name ends that holds " /"
when it is empty or only its mode changes; the tab makes git quote it, and `-p1` strips it with the component.
"""
_STREAM_BYTES = CONTENT_BYTES + GIB
"""The contents, and the names of a million paths."""
_TOLD_BYTES = GIB
_COPIED_AT_ONCE = 1 * MIB
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
class PatchSummary:
    """What a patch holds, and what it does not."""

    paths: tuple[PatchEntry, ...] = ()
    """By path, in byte order."""
    warnings: tuple[str, ...] = ()
    """What to look at before applying: files that a host runs by itself, links out of the tree, what is not in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch(PatchSummary):
    """Changes in git's format."""

    data: bytes
    """Empty when nothing changed. Names are quoted as git quotes them; contents are raw, in any encoding."""


async def make_patch(
    changes: ChangeSet, *, scratch: Path, selected: Collection[str] | None = None, protected: Sequence[str] = ()
) -> Patch:
    """As `write_patch`, in memory. Raises `LimitExceeded` for a patch above 256 MiB, too."""
    with await anyio.to_thread.run_sync(lambda: tempfile.TemporaryFile(dir=scratch)) as file:
        summary = await write_patch(changes, file, scratch=scratch, selected=selected, protected=protected)
        size = file.seek(0, os.SEEK_END)
        if size > IN_MEMORY_BYTES:
            raise LimitExceeded(
                f"the patch is larger than {IN_MEMORY_BYTES // MIB} MiB",
                hint="write it to a file, or leave large files out",
                limit="patch_bytes",
            )
        file.seek(0)
        data = await anyio.to_thread.run_sync(file.read)
    return Patch(data=data, paths=summary.paths, warnings=summary.warnings)


async def write_patch(
    changes: ChangeSet,
    output: BinaryIO,
    *,
    scratch: Path,
    selected: Collection[str] | None = None,
    protected: Sequence[str] = (),
) -> PatchSummary:
    """Write the patch of `changes`, or of the `selected` paths among them, to the open file `output`.

    The changed paths alone are put into a clean repository below `scratch` and compared there: no setting,
    attribute or hook of the workspace has a say. Made for repositories whose objects are SHA-1. What is too large
    is left out, with a warning: files above 512 MiB, and the largest files where all together hold more than 2 GiB.
    `protected` are patterns of paths to warn of, beside the built-in ones.

    Raises `NotFound` for a selected path that did not change, `Conflict` for a file that the guest changed
    meanwhile, `PermissionDenied` for an unreadable one.
    """
    wanted = _select(changes.changes, selected)
    kept = [change for change in wanted if _has_content(change) and not refused_by_git(change)]
    fitting, left_out = await anyio.to_thread.run_sync(_fit, kept, changes)
    told = await anyio.to_thread.run_sync(lambda: tuple(warnings_for(wanted, changes, protected)))
    warnings = (*told, *left_out)
    if not fitting:
        return PatchSummary(warnings=warnings)
    async with _clean_repository(scratch) as (place, repository):
        with (place / "stream").open("w+b") as stream:
            await anyio.to_thread.run_sync(_write_stream, stream, fitting, changes)
            await run_git(["fast-import", "--quiet"], cwd=place, repository=repository, stdin=stream, timeout=_SECONDS)
        entries = b""
        for group, prefix in _PREFIXES.items():
            trees = [f"refs/heads/{group.decode()}/{side}" for side in ("before", "after")]
            entries += await run_git(
                [*_DIFF, "--raw", "--numstat", "-z", *trees, "--"],
                cwd=place,
                repository=repository,
                limit=_TOLD_BYTES,
                timeout=_SECONDS,
            )
            await run_git(
                [*_DIFF, "--binary", f"--src-prefix=a{prefix}/", f"--dst-prefix=b{prefix}/", *trees, "--"],
                cwd=place,
                repository=repository,
                stdout=output,
                timeout=_SECONDS,
            )
    return PatchSummary(paths=_entries(entries), warnings=warnings)


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


def _fit(kept: Sequence[Change], changes: ChangeSet) -> tuple[list[Change], list[str]]:
    """What goes into the patch, and a warning for each that is too large: small files go first."""
    sizes: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for change in kept:
        try:
            sizes[change.path] = _size(change, changes)
        except LimitExceeded as error:
            left_out[change.path] = f"{change.path!r} is not in the patch: {error.message}"
    room = CONTENT_BYTES
    for path in sorted(sizes, key=lambda path: (sizes[path], path)):
        room -= sizes[path]
        if room < 0:
            left_out[path] = f"{path!r} is not in the patch: all files together exceed {CONTENT_BYTES // GIB} GiB"
    return [change for change in kept if change.path not in left_out], [left_out[path] for path in sorted(left_out)]


def _size(change: Change, changes: ChangeSet) -> int:
    """Of both sides together, in bytes."""
    size = 0
    if _is_content(change.before):
        with changes.before(change) as content:
            size += content.seek(0, os.SEEK_END)
    if _is_content(change.after):
        with changes.after(change) as content:
            size += content.seek(0, os.SEEK_END)
    return size


def _write_stream(stream: BinaryIO, kept: Sequence[Change], changes: ChangeSet) -> None:
    """All trees in git's fast-import format."""
    for group in _PREFIXES:
        members = [change for change in kept if (" /" in change.path) == (group == b"spaced")]
        stream.write(_COMMIT % (group, b"before"))
        for change in _bounded(stream, members):
            if _is_content(change.before):
                with changes.before(change) as content:
                    _write_file(stream, change.path, _git_mode(change.before, change.mode_before), content)
        stream.write(_COMMIT % (group, b"after"))
        for change in _bounded(stream, members):
            if _is_content(change.after):
                with changes.after(change) as content:
                    _write_file(stream, change.path, _git_mode(change.after, change.mode_after), content)
    stream.seek(0)


def _bounded(stream: BinaryIO, kept: Sequence[Change]) -> Iterator[Change]:
    """Each change, until the guest makes files grow that were measured smaller."""
    for change in kept:
        if stream.tell() > _STREAM_BYTES:
            raise changed_meanwhile(change.path)
        yield change


def _write_file(stream: BinaryIO, path: str, mode: int, content: BinaryIO) -> None:
    """A file that grows meanwhile is taken at the length it had; one that shrinks is a `Conflict`."""
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    stream.write(b"M %o inline %s\ndata %d\n" % (mode, _quoted(path), size))
    while size > 0 and (part := content.read(min(size, _COPIED_AT_ONCE))):
        stream.write(part)
        size -= len(part)
    if size:
        raise changed_meanwhile(path)
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
