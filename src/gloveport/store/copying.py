"""Copies trees of files exactly: whatever a guest can make of its own files, the copy has too."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from gloveport.errors import GloveportError, Unsupported
from gloveport.store.acls import renumbered
from gloveport.store.files import cannot_write
from gloveport.store.identity import acting_as
from gloveport.store.tree import ACLS, OPAQUE, Node, Stack, Tree, attributes, is_whiteout

__all__ = ["copy_exactly", "dress_like"]

_CHUNK = 8 * 2**20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_exactly(
    sources: Sequence[Path],
    target: Path,
    *,
    owner: tuple[int, int] | None = None,
    under: Path | None = None,
    one_device: bool = False,
) -> None:
    """Copy a tree into the existing directory `target`, and what the root itself is like.

    `target` is empty but for directories, in which something else may be mounted. With `one_device` what is mounted
    inside the sources is passed over. Of several the foremost covers the others, as in an overlay. Kept: contents,
    holes, modes, times, links of both kinds, pipes, sockets, extended attributes, and an overlay's whiteouts where they
    cover something of `under`: elsewhere it would list them. With `owner` (uid, gid) everything is given to it.

    Raises `LimitExceeded` where there is no room or too much of it, `BackendUnavailable` where it cannot be written:
    what was copied until then is the caller's to remove.
    """
    try:
        with Stack(*sources, one_device=one_device) as old, Tree(target) as new:
            _Copier(old, new, owner, under).run()
    except OSError as error:
        raise cannot_write(target, error) from error


def dress_like(source: Path, target: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Give one directory another's mode, times and attributes. Raises as `copy_exactly`."""
    try:
        with Stack(source) as old, Tree(target) as new:
            _Copier(old, new, owner).dress("", old.seen)  # the root is its owner's already
    except OSError as error:
        raise cannot_write(target, error) from error


class _Copier:
    def __init__(self, source: Stack, target: Tree, owner: tuple[int, int] | None, under: Path | None = None) -> None:
        self._source = source
        self._target = target
        self._owner = owner
        self._under = under
        self._links: dict[tuple[int, int], str] = {}

    def run(self) -> None:
        if self._owner is not None:
            os.chown(f"/proc/self/fd/{self._target.root}", *self._owner)
        directories = [("", self._source.seen)]
        where, parent = "", os.dup(self._target.root)
        try:
            for node in self._source.walk():
                above = node.path.rpartition("/")[0]
                if above != where:
                    os.close(parent)
                    parent = -1
                    with self._target.directory(above) as found:
                        parent = os.dup(found)
                    where = above
                if stat.S_ISDIR(node.seen.st_mode):
                    with acting_as(self._owner):
                        _make_directory(node.name, parent)
                    directories.append((node.path, node.seen))
                else:
                    self._copy(node, parent)
        finally:
            if parent >= 0:
                os.close(parent)
        for path, seen in reversed(directories):
            self.dress(path, seen)

    def dress(self, path: str, seen: os.stat_result) -> None:
        """What a directory is like itself."""
        with self._source.directory(path) as old, self._target.directory(path) as new:
            self._dress(old, new, seen, is_closed=self._source.is_closed(path))

    def _copy(self, node: Node, parent: int) -> None:
        mode, name = node.seen.st_mode, node.name
        if is_whiteout(node.seen) and not self._covers(node.path):
            return
        if stat.S_ISREG(mode):
            self._file(node, parent)
            return
        target = os.readlink(name, dir_fd=node.parent) if stat.S_ISLNK(mode) else ""
        with acting_as(self._owner):
            if target:
                os.symlink(target, name, dir_fd=parent)
            elif is_whiteout(node.seen):
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
            elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                os.mknod(name, mode, dir_fd=parent)
            else:
                raise _no_copy(node.path)
        if not stat.S_ISLNK(mode):
            os.chmod(name, stat.S_IMODE(mode), dir_fd=parent)
        os.utime(name, ns=(node.seen.st_atime_ns, node.seen.st_mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _covers(self, path: str) -> bool:
        """Whether a whiteout covers anything."""
        if self._under is None or any(self._source.is_closed(above) for above in _above(path)):
            return False
        try:
            os.lstat(self._under / path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
        return True

    def _file(self, node: Node, parent: int) -> None:
        inode = (node.seen.st_dev, node.seen.st_ino)
        if node.seen.st_nlink > 1 and inode in self._links:
            with acting_as(self._owner):
                os.link(self._links[inode], node.name, src_dir_fd=self._target.root, dst_dir_fd=parent)
            return
        reading = node.open()
        try:
            with acting_as(self._owner):
                writing = os.open(node.name, _CREATE, 0o600, dir_fd=parent)
            try:
                _copy_bytes(reading, writing, node.seen.st_size)
                self._dress(reading, writing, node.seen)
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        if node.seen.st_nlink > 1:
            self._links[inode] = node.path

    def _dress(self, old: int, new: int, seen: os.stat_result, *, is_closed: bool = False) -> None:
        """The mode last but the times: it may close the file."""
        if is_closed:
            os.setxattr(new, OPAQUE, b"y")
        for name, value in attributes(old).items():
            os.setxattr(new, name, self._translated(value, seen) if name in ACLS else value)
        os.fchmod(new, stat.S_IMODE(self._source.mode(seen)))
        os.utime(new, ns=(seen.st_atime_ns, seen.st_mtime_ns))

    def _translated(self, acl: bytes, seen: os.stat_result) -> bytes:
        """An access control list with the new owner's numbers where it names the old one's."""
        return acl if self._owner is None else renumbered(acl, (seen.st_uid, seen.st_gid), self._owner)


def _make_directory(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            raise


def _above(path: str) -> Iterator[str]:
    """The directories above a path, the root included."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def _copy_bytes(reading: int, writing: int, size: int) -> None:
    """What is in a file, holes left out."""
    at = 0
    while at < size:
        try:
            at = os.lseek(reading, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # nothing but a hole is left
        end = os.lseek(reading, at, os.SEEK_HOLE)
        while at < end:
            copied = _copy_piece(reading, writing, at, min(_CHUNK, end - at))
            if not copied:
                break
            at += copied
    os.ftruncate(writing, size)


def _copy_piece(reading: int, writing: int, at: int, size: int) -> int:
    """By the kernel, and by reference where the file system can; between two file systems through this process."""
    try:
        return os.copy_file_range(reading, writing, size, at, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
    data = os.pread(reading, size, at)
    written = 0
    while written < len(data):
        written += os.pwrite(writing, data[written:], at + written)
    return written


def _no_copy(path: str) -> GloveportError:
    return Unsupported(f"{path!r} is a device, which no snapshot holds", hint="remove it, and try again", path=path)
