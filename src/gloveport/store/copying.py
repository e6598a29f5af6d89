"""Copies trees of files exactly: whatever a guest can make of its own files, the copy has too."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gloveport.errors import GloveportError, Unsupported
from gloveport.model import Layer
from gloveport.store.acls import renumbered
from gloveport.store.description import WHITEOUT, Description, hard_link, like, plain, regular_file, symbolic_link
from gloveport.store.files import cannot_write
from gloveport.store.identity import acting_as
from gloveport.store.tree import ACLS, OPAQUE, Node, Stack, Tree, attributes, is_whiteout

__all__ = ["copy_exactly", "dress_like", "seal"]

_CHUNK = 8 * 2**20
_SMALL = 2**20
"""Bytes of a file that is read once, for the copy and for its digest."""
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_exactly(source: Path, target: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Copy a tree into the existing directory `target`, and what the root itself is like.

    `target` is empty but for directories, in which something else may be mounted. Kept: contents, holes, modes, times,
    links of both kinds, pipes, sockets, extended attributes. With `owner` (uid, gid) everything is given to it.

    Raises `LimitExceeded` where there is no room or too much of it, `BackendUnavailable` where it cannot be written:
    what was copied until then is the caller's to remove.
    """
    try:
        with Stack(source) as old, Tree(target) as new:
            _Copier(old, new, owner).run()
    except OSError as error:
        raise cannot_write(target, error) from error


def seal(
    sources: Sequence[Path],
    target: Path,
    *,
    owner: tuple[int, int] | None = None,
    under: Path | None = None,
    one_device: bool = False,
) -> Layer | None:
    """Copy one tree or several as `copy_exactly` does, and say what the copy is, as `read_layer` would find it.

    Of several the foremost covers the others, as in an overlay. An overlay's whiteouts are kept where they cover
    something of `under`: elsewhere it would list them. With `one_device` what is mounted inside is passed over.

    `None` where the copy has to be read to be known: of several trees, and where a file system rounds what it is told.
    """
    try:
        with Stack(*sources, one_device=one_device) as old, Tree(target) as new:
            description = Description() if old.is_single else None
            return _Copier(old, new, owner, under=under, description=description).run()
    except OSError as error:
        raise cannot_write(target, error) from error


def dress_like(source: Path, target: Path, *, owner: tuple[int, int] | None = None) -> None:
    """Give one directory another's mode, times and attributes. Raises as `copy_exactly`."""
    try:
        with Stack(source) as old, Tree(target) as new:
            _Copier(old, new, owner).dress()  # the root is its owner's already
    except OSError as error:
        raise cannot_write(target, error) from error


class _Copier:
    def __init__(
        self,
        source: Stack,
        target: Tree,
        owner: tuple[int, int] | None,
        *,
        under: Path | None = None,
        description: Description | None = None,
    ) -> None:
        self._source = source
        self._target = target
        self._owner = owner
        self._under = under
        self._description = description
        self._links: dict[tuple[int, int], str] = {}
        self._begun: dict[str, tuple[os.stat_result, dict[str, bytes]]] = {}
        """Directories that are not yet what they are to be."""

    def run(self) -> Layer | None:
        if self._owner is not None:
            os.chown(f"/proc/self/fd/{self._target.root}", *self._owner)
        self._begin("", self._source.seen)
        where, parent = "", self._target.open_directory("")
        try:
            for node in self._source.walk():
                above = node.path.rpartition("/")[0]
                if above != where:
                    self._leave(where, parent)
                    os.close(parent)
                    parent = -1
                    parent, where = self._target.open_directory(above), above
                if stat.S_ISDIR(node.seen.st_mode):
                    with acting_as(self._owner):
                        _make_directory(node.name, parent)
                    self._begin(node.path, node.seen)
                else:
                    self._copy(node, parent)
        finally:
            if parent >= 0:
                os.close(parent)
        for path in reversed(self._begun):
            with self._target.directory(path) as new:
                self._finish(path, new)
        return self._description.layer if self._description is not None else None

    def dress(self) -> None:
        """Only what the root itself is like."""
        self._begin("", self._source.seen)
        with self._target.directory("") as new:
            self._finish("", new)

    def _begin(self, path: str, seen: os.stat_result) -> None:
        """A directory, which becomes what it is to be once everything is in it."""
        with self._source.directory(path) as old:
            found = attributes(old)
        if self._description is not None:
            self._description.add(path, like(seen, self._source.mode(seen), found))
        self._begun[path] = (seen, found)

    def _leave(self, path: str, new: int) -> None:
        """Nothing more is made in a directory. One that its owner closes waits for what is below it."""
        if self._source.mode(self._begun[path][0]) & stat.S_IRWXU == stat.S_IRWXU:
            self._finish(path, new)
            del self._begun[path]

    def _finish(self, path: str, new: int) -> None:
        seen, found = self._begun[path]
        self._dress(new, seen, found, is_closed=self._source.is_closed(path))

    def _describe(self, node: Node, said: Mapping[str, Any]) -> None:
        if self._description is not None:
            self._description.add(node.path, said)

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
        if is_whiteout(node.seen):
            self._describe(node, WHITEOUT)
            return
        self._compare(os.lstat(name, dir_fd=parent), node.seen, node.mode)
        self._describe(node, symbolic_link(node.seen, target) if target else like(node.seen, node.mode, {}))

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
            self._describe(node, hard_link(self._links[inode]))
            return
        reading = node.open()
        try:
            with acting_as(self._owner):
                writing = os.open(node.name, _CREATE, 0o600, dir_fd=parent)
            try:
                self._content(node, reading, writing)
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        if node.seen.st_nlink > 1:
            self._links[inode] = node.path

    def _content(self, node: Node, reading: int, writing: int) -> None:
        found = attributes(reading)
        if self._description is None:
            _copy_bytes(reading, writing, node.seen.st_size)
        else:
            digest = _copy_and_digest(reading, writing, node.seen)
            self._describe(node, regular_file(node.seen, node.mode, found, digest))
        self._dress(writing, node.seen, found)

    def _dress(self, new: int, seen: os.stat_result, found: dict[str, bytes], *, is_closed: bool = False) -> None:
        """The mode last but the times: it may close the file."""
        if is_closed:
            os.setxattr(new, OPAQUE, b"y")
        for name, value in found.items():
            os.setxattr(new, name, self._translated(value, seen) if name in ACLS else value)
        if self._description is not None and plain(os.fstat(new), attributes(new)) != plain(seen, found):
            self._description = None  # its owner is called otherwise there, or it has something of its directory
        mode = self._source.mode(seen)
        os.fchmod(new, stat.S_IMODE(mode))
        os.utime(new, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        self._compare(os.fstat(new), seen, mode)

    def _compare(self, new: os.stat_result, seen: os.stat_result, mode: int) -> None:
        """Whether it has become what it was told to be: times may be rounded here, bits refused."""
        if (new.st_mtime_ns, new.st_mode) != (seen.st_mtime_ns, mode):
            self._description = None

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


def _copy_and_digest(reading: int, writing: int, seen: os.stat_result) -> str:
    """What is in a file, read once where it is small and has no holes."""
    if seen.st_size <= _SMALL and _is_solid(reading, seen.st_size):
        data = os.pread(reading, seen.st_size, 0)
        if len(data) == seen.st_size == os.write(writing, data):
            return hashlib.sha256(data).hexdigest()
    _copy_bytes(reading, writing, seen.st_size)
    with os.fdopen(os.dup(writing), "rb") as file:  # the copy: whatever could still happen to what was copied
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_solid(reading: int, size: int) -> bool:
    """Whether a file has no holes."""
    return not size or (os.lseek(reading, 0, os.SEEK_HOLE) == size and os.lseek(reading, 0, os.SEEK_DATA) == 0)


def _copy_bytes(reading: int, writing: int, size: int) -> None:
    """What is in a file, holes left out: by the kernel, and by reference where the file system can."""
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
    """Between two file systems through this process."""
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
