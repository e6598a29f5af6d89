"""Reads below a directory that a guest may be rewriting at this moment: no link is followed, no directory trusted."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gloveport.backends.base import changed_meanwhile
from gloveport.errors import GloveportError, InvalidRequest, LimitExceeded, PermissionDenied
from gloveport.model import MIB, FileType

__all__ = ["FILE_BYTES", "GONE", "Beneath", "file_type", "same_content"]

FILE_BYTES = 512 * MIB
"""The largest file that is read."""

GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What an open raises when the guest was faster. (A link in the place of a directory is `NotADirectoryError`.)"""

_CHUNK = 1 * MIB
_THROUGH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK the open of a FIFO would wait for a writer that never comes.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_REPLACED = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})
"""How an open says that the name is a link, a socket or a device."""

_TYPES = {
    stat.S_IFREG: FileType.FILE,
    stat.S_IFDIR: FileType.DIRECTORY,
    stat.S_IFLNK: FileType.SYMLINK,
    stat.S_IFIFO: FileType.FIFO,
    stat.S_IFSOCK: FileType.SOCKET,
}


def file_type(mode: int) -> FileType:
    """The type in an `st_mode`."""
    return _TYPES.get(stat.S_IFMT(mode), FileType.DEVICE)


class Beneath:
    """A directory tree, read one component at a time from its root.

    `root` belongs to the platform or the user; everything below may be hostile. Paths are relative, `/`
    between names, empty for the root itself; bytes that are not UTF-8 are surrogate escapes.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """A descriptor of a directory; raises one of `GONE` or `PermissionError`."""
        descriptor = self._open(path, _DIRECTORY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def file(self, path: str) -> BinaryIO:
        """A regular file, open. `LimitExceeded` beyond `FILE_BYTES`, `Conflict` when it is no such file any more."""
        try:
            descriptor = self._open(path, _FILE)
        except OSError as error:
            raise _refusal(path, error) from error
        try:
            _check(os.fstat(descriptor), path)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def target(self, path: str) -> bytes:
        """What a symbolic link says. `Conflict` when it is no link any more."""
        above, _, name = path.rpartition("/")
        try:
            with self.directory(above) as parent:
                return os.fsencode(os.readlink(name, dir_fd=parent))
        except OSError as error:
            raise _refusal(path, error) from error

    def _open(self, path: str, flags: int) -> int:
        names = path.split("/") if path else []
        if any(name in ("", ".", "..") for name in names):
            raise InvalidRequest(
                f"not a path below the workspace: {path!r}", hint="take the path from the list of changes"
            )
        held = os.open(self._root, _DIRECTORY & ~os.O_NOFOLLOW)
        for position, name in enumerate(names):
            try:
                following = _open_at(held, name, flags if position == len(names) - 1 else _THROUGH)
            finally:
                os.close(held)
            held = following
        return held


def same_content(one: int, other: int, name: str) -> bool:
    """Whether the regular files called `name` in two open directories hold the same bytes."""
    first = _open_at(one, name, _FILE)
    try:
        second = _open_at(other, name, _FILE)
        try:
            while True:
                left, right = os.read(first, _CHUNK), os.read(second, _CHUNK)
                if left != right:
                    return False
                if not left:
                    return True
        finally:
            os.close(second)
    finally:
        os.close(first)


def _open_at(parent: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in _REPLACED:
            raise FileNotFoundError(error.errno, error.strerror, name) from error
        raise


def _check(seen: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(seen.st_mode):
        raise changed_meanwhile(path)
    if seen.st_size > FILE_BYTES:
        raise LimitExceeded(
            f"{path!r} is larger than {FILE_BYTES // MIB} MiB",
            hint="leave it out: remove it in the sandbox, or list it in .gitignore",
            limit="file_bytes",
            path=path,
        )


def _refusal(path: str, error: OSError) -> GloveportError:
    if isinstance(error, PermissionError):
        return PermissionDenied(
            f"{path!r} cannot be read from the host",
            hint="make it readable in the sandbox: chmod u+r",
            path=path,
        )
    return changed_meanwhile(path)
