"""The directory under a workspace: what it is made of, and how to copy it where it cannot be shown as it is."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gloveport.errors import BackendUnavailable, GloveportError, InvalidRequest, NotFound, PermissionDenied

__all__ = ["LowerFacts", "copy_tree", "inspect_lower", "owner_of"]

_SHOWN_PATH = 200
_CHUNK = 8 * 1024 * 1024
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerFacts:
    """What a walk over the whole tree found, `.git` included."""

    uid: int
    """Owner of the root directory."""
    gid: int
    uniform: bool
    """Every entry belongs to exactly that user and group. (A guest cannot write to what its namespace does not map.)"""
    entries: int
    """How many there are, the root itself not counted; what this user may not list is not."""
    fingerprint: str
    """Of every entry's name, type, mode, size and times, in hexadecimal: who changes one of them changes it."""

    @property
    def is_shown(self) -> bool:
        """Whether an overlay can show it as the guest's own: otherwise the guest gets a copy."""
        return self.uniform and os.geteuid() in (0, self.uid)


def inspect_lower(path: Path) -> LowerFacts:
    """Look at every entry of a directory once, following no link. A hundred thousand take under a second.

    Raises `NotFound` or `PermissionDenied` when the root itself cannot be listed, `InvalidRequest` for a tree deeper
    than a path can say.
    """
    root = str(path)
    top = _look(root)
    pending = [root]
    owner = (top.st_uid, top.st_gid)
    uniform, count, total = True, 0, _sum_of(b"", top)
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    seen = entry.stat(follow_symlinks=False)
                    count += 1
                    total += _sum_of(os.fsencode(entry.path[len(root) :]), seen)
                    if (seen.st_uid, seen.st_gid) != owner:
                        uniform = False
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except (PermissionError, FileNotFoundError, NotADirectoryError):
            continue  # closed to the guest too; or the user works on in the tree meanwhile
        except OSError as error:
            raise _refusal(error, directory) from error
    fingerprint = f"{total % 2**128:032x}"
    return LowerFacts(uid=owner[0], gid=owner[1], uniform=uniform, entries=count, fingerprint=fingerprint)


def owner_of(path: Path) -> tuple[int, int]:
    """The uid and gid of a directory itself. Raises as `inspect_lower` when it cannot be listed."""
    top = _look(str(path))
    return top.st_uid, top.st_gid


def _look(root: str) -> os.stat_result:
    try:
        with os.scandir(root):
            return os.lstat(root)
    except OSError as error:
        raise _refusal(error, root) from error


def _sum_of(path: bytes, seen: os.stat_result) -> int:
    """One entry's part of a fingerprint: a sum has no order, and so no need of a sorted walk."""
    facts = b"%s\0%o %d %d %d" % (path, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    return int.from_bytes(hashlib.blake2b(facts, digest_size=16).digest())


def copy_tree(
    source: Path,
    target: Path,
    *,
    owner: tuple[int, int] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Copy everything below `source` into the existing directory `target`.

    Kept: permission bits (but set-user-id, set-group-id and sticky), modification times, symbolic links as
    they are, hard links among the files copied. Left out: FIFOs, sockets, devices. With `owner` (uid, gid)
    everything copied, `target` included, is given to it. Returns False when `should_stop` said so between two
    files.

    Raises `PermissionDenied` naming the first unreadable path, `NotFound`, or `BackendUnavailable` (no
    space). What was copied until then stays in `target`, for the caller to remove with it.
    """
    copier = _Copier(str(source), str(target), owner)
    for entry in _walk(str(source)):
        if should_stop():
            return False
        copier.copy(entry)
    copier.finish()
    return True


def _walk(root: str) -> Iterator[os.DirEntry[str]]:
    """Every entry below `root`, a directory before what is in it."""
    pending = [root]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                found = list(entries)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _refusal(error, directory) from error
        for entry in found:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)


class _Copier:
    """Copies single entries; directories get their mode and time at the end, because filling them changes both."""

    def __init__(self, source: str, target: str, owner: tuple[int, int] | None) -> None:
        self._source = source
        self._target = target
        self._owner = owner
        self._links: dict[tuple[int, int], str] = {}
        self._directories: list[tuple[str, os.stat_result]] = [(target, os.stat(source))]

    def copy(self, entry: os.DirEntry[str]) -> None:
        target = self._target + entry.path[len(self._source) :]
        try:
            seen = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(seen.st_mode):
                os.mkdir(target, 0o700)
                self._directories.append((target, seen))
            elif stat.S_ISLNK(seen.st_mode):
                os.symlink(os.readlink(entry.path), target)
                self._dress(target, seen)
            elif stat.S_ISREG(seen.st_mode):
                self._file(entry.path, target, seen)
        except FileNotFoundError:
            return  # removed meanwhile by the user
        except OSError as error:
            raise _refusal(error, entry.path) from error

    def finish(self) -> None:
        for target, seen in reversed(self._directories):
            try:
                self._dress(target, seen)
            except OSError as error:
                raise _refusal(error, target) from error

    def _file(self, path: str, target: str, seen: os.stat_result) -> None:
        inode = (seen.st_dev, seen.st_ino)
        if seen.st_nlink > 1 and inode in self._links:
            os.link(self._links[inode], target, follow_symlinks=False)
            return
        reading = os.open(path, _READ)
        try:
            writing = os.open(target, _CREATE, 0o600)
            try:
                _copy_bytes(reading, writing)
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        self._dress(target, seen)
        if seen.st_nlink > 1:
            self._links[inode] = target

    def _dress(self, target: str, seen: os.stat_result) -> None:
        """Owner first: giving a file away may clear mode bits."""
        if self._owner is not None:
            os.chown(target, *self._owner, follow_symlinks=False)
        if not stat.S_ISLNK(seen.st_mode):
            os.chmod(target, seen.st_mode & 0o777)
        os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns), follow_symlinks=False)


def _copy_bytes(reading: int, writing: int) -> None:
    """By the kernel, and by reference where the file system can."""
    try:
        while os.copy_file_range(reading, writing, _CHUNK):
            pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
    else:
        return
    while os.sendfile(writing, reading, None, _CHUNK):
        pass


def _refusal(error: OSError, path: str) -> GloveportError:
    if isinstance(error, PermissionError):
        return PermissionDenied(
            f"{path} cannot be read by this user",
            hint="make it readable (chmod, chown), move it out of the repository, or run gloveport as its owner",
            path=path,
        )
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{path} is not a directory here", hint="check the path of the repository", path=path)
    if error.errno == errno.ENAMETOOLONG:
        return InvalidRequest(
            f"the tree is deeper than Linux takes in one path, below {path[:_SHOWN_PATH]}",
            hint="remove the deep directories, or name one that holds less",
        )
    return BackendUnavailable(
        f"{path} cannot be copied: {error.strerror}",
        hint="make room on the disk that holds GLOVEPORT_STATE, or point it elsewhere",
        path=path,
    )
