"""Reads one layer of an OCI image that a stranger may have written: nothing is followed, nothing left, nothing run."""

from __future__ import annotations

import errno
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from gloveport.errors import GloveportError, InvalidRequest
from gloveport.store.acls import GUEST, renumbered
from gloveport.store.files import cannot_write
from gloveport.store.identity import acting_as
from gloveport.store.packing import ATTRIBUTE, CLOSED, SOCKET, WHITEOUT
from gloveport.store.tree import ACLS, MOST_BYTES, MOST_ENTRIES, OPAQUE, Tree, check_room, is_attribute

__all__ = ["MALFORMED", "entries_of", "unpack"]

MALFORMED = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError, TypeError, AttributeError)
"""What `tarfile` raises for what is no tar."""
_HINT = "copy the file again, or save the snapshot anew"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = frozenset(
    {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE}
)
_TIME = re.compile(r"(-?)(\d{1,18})(?:\.(\d{1,9}))?")
_PIECE = 2**16
_CANNOT_BE = frozenset(
    {
        errno.E2BIG,
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ERANGE,
    }
)
_OWN_PATHS = frozenset({"", ".", ".."})
_LONGEST_NAME = 255
_MOST_WORDS = 2**29
"""Bytes of names, and of what is kept of directories until everything is in them."""


def entries_of(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The entries of a tar. Raises `InvalidRequest` where it is none, or was cut off."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            passed = -1
            while (entry := tar.next()) is not None:
                if tar.offset <= passed or entry.size < 0 or entry.sparse is not None:
                    raise InvalidRequest("an entry of it has no size", hint=_HINT)
                passed = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep every one
                yield entry
    except MALFORMED as error:
        raise InvalidRequest(f"it is no whole tar: {error}", hint=_HINT) from error


def unpack(
    file: BinaryIO, place: str, target: Path, *, owner: tuple[int, int] | None = None, covers: bool = False
) -> None:
    """Make the tree of a layer whose names begin with `place` in the empty directory `target`.

    The reverse of `pack`, with `owner` as for `copy_exactly`. Raises `InvalidRequest` for anything that `pack` would
    not have written, `LimitExceeded` for too much of it or where there is no room: what was made until then is the
    caller's to remove.
    """
    with Tree(target) as tree:
        _Unpacker(file, place, tree, owner).run(covers=covers)


class _Unpacker:
    def __init__(self, file: BinaryIO, place: str, tree: Tree, owner: tuple[int, int] | None) -> None:
        self._file = file
        self._place = place
        self._tree = tree
        self._owner = owner
        self._numbers = owner or (os.geteuid(), os.getegid())
        self._directories: dict[str, tarfile.TarInfo] = {}
        self._closed: set[str] = set()
        self._files: set[str] = set()
        """Regular ones, made here: what a hard link may name."""
        self._where, self._parent = "", -1

    def run(self, *, covers: bool) -> None:
        left, room, words = MOST_ENTRIES, MOST_BYTES, _MOST_WORDS
        self._parent = os.dup(self._tree.root)
        try:
            if self._owner is not None:
                os.chown(f"/proc/self/fd/{self._tree.root}", *self._owner)
            for entry in entries_of(self._file):
                left, room = left - 1, room - entry.size
                path = self._path(entry.name)
                check_room(path, left, room)
                words -= len(path) + (sum(map(len, entry.pax_headers.values())) if entry.isdir() else 0)
                if words < 0:
                    raise _refused(entry.name, "names and attributes take too much memory")
                try:
                    self._make(path, entry)
                except OSError as error:
                    raise _cannot_make(entry.name, error) from error
                except (ValueError, ArithmeticError) as error:
                    raise _refused(entry.name, str(error)) from error
            if "" not in self._directories:
                raise _refused(self._place, "the directory itself is missing")
            if covers:
                self._closed.discard("")
            for path, entry in reversed(self._directories.items()):
                self._dress_directory(path, entry)
        finally:
            if self._parent >= 0:
                os.close(self._parent)

    def _path(self, name: str) -> str:
        """The path below the layer's own directory. `Tree` follows no link in it, and this lets none lead upwards."""
        if name == self._place:
            return ""
        if "\0" in name or not name.startswith(f"{self._place}/"):
            raise _refused(name, f"only what is below {self._place}/ belongs there")
        path = name[len(self._place) + 1 :]
        for part in path.split("/"):
            if part in _OWN_PATHS or len(os.fsencode(part)) > _LONGEST_NAME:
                raise _refused(name, "it is no plain path")
        return path

    def _make(self, path: str, entry: tarfile.TarInfo) -> None:
        if entry.type not in _KINDS:
            raise _refused(entry.name, "devices and other special files belong in no snapshot")
        if not path:
            self._add_directory(path, entry)
            return
        above, _, name = path.rpartition("/")
        if above not in self._directories:
            raise _refused(entry.name, "what it is in is no directory of this layer")
        if above != self._where or self._parent < 0:
            self._enter(above)
        if name.startswith(WHITEOUT):
            self._add_whiteout(above, name, entry)
        elif entry.isdir():
            with acting_as(self._owner):
                os.mkdir(name, 0o700, dir_fd=self._parent)
            self._add_directory(path, entry)
        elif entry.islnk():
            self._add_link(name, entry)
        elif entry.isreg():
            self._add_file(name, entry)
            self._files.add(path)
        else:
            self._add_special(name, entry)

    def _enter(self, above: str) -> None:
        os.close(self._parent)
        self._parent = -1
        with self._tree.directory(above) as found:
            self._parent = os.dup(found)
        self._where = above

    def _add_directory(self, path: str, entry: tarfile.TarInfo) -> None:
        if not entry.isdir() or path in self._directories:
            raise _refused(entry.name, "the directory itself must be one, and be named once")
        self._directories[path] = entry

    def _add_whiteout(self, above: str, name: str, entry: tarfile.TarInfo) -> None:
        covered = name.removeprefix(WHITEOUT)
        if not entry.isreg() or entry.size:
            raise _refused(entry.name, f"names that begin with {WHITEOUT} mean a deleted file")
        if name == CLOSED:
            self._closed.add(above)
        elif covered in _OWN_PATHS or covered.startswith(WHITEOUT):
            raise _refused(entry.name, "it covers no name")
        else:
            with acting_as(self._owner):
                os.mknod(covered, stat.S_IFCHR, 0, dir_fd=self._parent)

    def _add_link(self, name: str, entry: tarfile.TarInfo) -> None:
        first = self._path(entry.linkname)
        if first not in self._files:
            raise _refused(entry.name, "it links to no file of this layer that comes before it")
        # Every directory on the way was made here, and nothing that was made is ever replaced: there is no link in it.
        with acting_as(self._owner):
            os.link(first, name, src_dir_fd=self._tree.root, dst_dir_fd=self._parent, follow_symlinks=False)

    def _add_file(self, name: str, entry: tarfile.TarInfo) -> None:
        with acting_as(self._owner):
            writing = os.open(name, _CREATE, 0o600, dir_fd=self._parent)
        try:
            self._copy(writing, entry)
            self._dress(writing, entry)
        finally:
            os.close(writing)

    def _copy(self, writing: int, entry: tarfile.TarInfo) -> None:
        """Zeros are left out: a tar knows no holes."""
        self._file.seek(entry.offset_data)
        at = 0
        while at < entry.size:
            piece = self._file.read(min(_PIECE, entry.size - at))
            if not piece:
                raise _refused(entry.name, "it is cut off")
            if piece.count(0) != len(piece):
                written = 0
                while written < len(piece):
                    written += os.pwrite(writing, piece[written:], at + written)
            at += len(piece)
        os.ftruncate(writing, entry.size)

    def _add_special(self, name: str, entry: tarfile.TarInfo) -> None:
        with acting_as(self._owner):
            if entry.issym():
                os.symlink(entry.linkname, name, dir_fd=self._parent)
            else:
                kind = stat.S_IFSOCK if SOCKET in entry.pax_headers else stat.S_IFIFO
                os.mknod(name, kind | 0o600, dir_fd=self._parent)
        if not entry.issym():
            os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=self._parent)
        if any(key.startswith(ATTRIBUTE) for key in entry.pax_headers):
            raise _refused(entry.name, "only files and directories have attributes")
        os.utime(name, ns=_times(entry), dir_fd=self._parent, follow_symlinks=False)

    def _dress_directory(self, path: str, entry: tarfile.TarInfo) -> None:
        try:
            with self._tree.directory(path) as opened:
                if path in self._closed:
                    os.setxattr(opened, OPAQUE, b"y")
                self._dress(opened, entry)
        except OSError as error:
            raise _cannot_make(entry.name, error) from error
        except (ValueError, ArithmeticError) as error:
            raise _refused(entry.name, str(error)) from error

    def _dress(self, opened: int, entry: tarfile.TarInfo) -> None:
        """The mode last but the times: it may close the file."""
        for keyword, text in entry.pax_headers.items():
            if keyword.startswith(ATTRIBUTE):
                name = os.fsdecode(unquote_to_bytes(keyword.removeprefix(ATTRIBUTE)))
                if not is_attribute(name):
                    raise _refused(entry.name, f"no snapshot holds the attribute {name!r}")
                value = text.encode("utf-8", "surrogateescape")
                os.setxattr(opened, name, renumbered(value, GUEST, self._numbers) if name in ACLS else value)
        os.fchmod(opened, stat.S_IMODE(entry.mode))
        os.utime(opened, ns=_times(entry))


def _times(entry: tarfile.TarInfo) -> tuple[int, int]:
    said = _TIME.fullmatch(entry.pax_headers.get("mtime") or str(int(entry.mtime)))
    if said is None:
        raise ValueError("its time is no number of seconds")
    time = int(said[2]) * 10**9 + int((said[3] or "").ljust(9, "0"))
    time = -time if said[1] else time
    return time, time


def _refused(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{name[:200]!r} is refused: {why}", hint=_HINT, path=name[:200])


def _cannot_make(name: str, error: OSError) -> GloveportError:
    """`InvalidRequest` where the file asks for what cannot be; otherwise it is this host that fails."""
    if error.errno in _CANNOT_BE:
        return _refused(name, f"it cannot be made: {error.strerror}")
    return cannot_write(Path(name), error)
