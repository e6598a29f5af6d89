"""Writes a tree as one layer of an OCI image: a tar whose names are a guest's, with whiteouts as OCI spells them."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from gloveport.errors import Unsupported
from gloveport.store.acls import GUEST, renumbered
from gloveport.store.tree import ACLS, OPAQUE, Node, Stack, attributes, is_whiteout

__all__ = ["ATTRIBUTE", "CLOSED", "LARGEST_HEADER", "SOCKET", "WHITEOUT", "pack"]

WHITEOUT = ".wh."
CLOSED = ".wh..wh..opq"
"""In a directory: nothing of the layers under this one shows there."""
ATTRIBUTE = "SCHILY.xattr."
"""A PAX keyword; then the name of an extended attribute, percent-encoded where it is no plain one."""
SOCKET = "GLOVEPORT.socket"
"""A PAX keyword: a tar knows no sockets, so that they are pipes to everybody else."""
LARGEST_HEADER = 8 * 2**20
"""Bytes of names and attributes of one entry."""
_SECOND = 10**9
_BUFFER = 2**20


def pack(root: Path, place: str, file: BinaryIO, *, covers: bool = False, as_is: bool = False) -> None:
    """Write the tree at `root` as a layer whose names begin with `place`. The same tree gives the same bytes.

    `covers` says in the layer that nothing of those under it shows; `as_is` as for `Stack`. Nobody may change the tree
    meanwhile. Raises `Unsupported` for what no such layer can say, `OSError`, and what `Stack.walk` does.
    """
    with (
        Stack(root, as_is=as_is) as tree,
        tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_BUFFER) as tar,
    ):
        _Packer(tree, tar, place).run(covers=covers)


class _Packer:
    def __init__(self, tree: Stack, tar: tarfile.TarFile, place: str) -> None:
        self._tree = tree
        self._tar = tar
        self._place = place
        self._links: dict[tuple[int, int], str] = {}

    def run(self, *, covers: bool) -> None:
        seen = self._tree.seen
        self._directory("", seen, self._tree.mode(seen), covers=covers)
        for node in self._tree.walk():
            if node.name.startswith(WHITEOUT):
                raise _cannot_say(node.path, f"names that begin with {WHITEOUT} mean a deleted file there")
            self._add(node)

    def _add(self, node: Node) -> None:
        seen, mode = node.seen, node.mode
        if is_whiteout(seen):
            above, _, name = node.path.rpartition("/")
            self._write(tarfile.TarInfo(self._name(f"{above}/{WHITEOUT}{name}")))
        elif stat.S_ISDIR(mode):
            self._directory(node.path, seen, mode)
        elif stat.S_ISREG(mode):
            self._file(node)
        elif stat.S_ISLNK(mode):
            self._write(
                self._entry(node.path, seen, 0o777, tarfile.SYMTYPE, os.readlink(node.name, dir_fd=node.parent))
            )
        elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            entry = self._entry(node.path, seen, mode, tarfile.FIFOTYPE)
            if stat.S_ISSOCK(mode):
                entry.pax_headers = {**entry.pax_headers, SOCKET: "1"}
            self._write(entry)
        else:
            raise _cannot_say(node.path, "it is a device, which no snapshot holds")

    def _directory(self, path: str, seen: os.stat_result, mode: int, *, covers: bool = False) -> None:
        entry = self._entry(path, seen, mode, tarfile.DIRTYPE)
        with self._tree.directory(path) as opened:
            found = attributes(opened)
        covers = covers or found.get(OPAQUE) == b"y"
        if found.get(OPAQUE) == b"y":
            del found[OPAQUE]
        self._write(_with_attributes(entry, found, seen))
        if covers:
            self._write(tarfile.TarInfo(self._name(f"{path}/{CLOSED}")))

    def _file(self, node: Node) -> None:
        seen = node.seen
        first = self._links.setdefault((seen.st_dev, seen.st_ino), node.path) if seen.st_nlink > 1 else node.path
        if first != node.path:
            self._write(self._entry(node.path, seen, node.mode, tarfile.LNKTYPE, self._name(first)))
            return
        opened = node.open()
        with os.fdopen(opened, "rb") as content:
            entry = self._entry(node.path, seen, node.mode)
            entry.size = seen.st_size
            self._write(_with_attributes(entry, attributes(opened), seen), content)

    def _entry(
        self, path: str, seen: os.stat_result, mode: int, kind: bytes = tarfile.REGTYPE, target: str = ""
    ) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(self._name(path))
        entry.type = kind
        entry.linkname = target
        entry.mode = stat.S_IMODE(mode)
        entry.uid, entry.gid = GUEST
        entry.mtime = max(0, seen.st_mtime_ns // _SECOND)
        entry.pax_headers = {"mtime": _seconds(seen.st_mtime_ns)}
        return entry

    def _name(self, path: str) -> str:
        return f"{self._place}/{path.lstrip('/')}".rstrip("/")

    def _write(self, entry: tarfile.TarInfo, content: BinaryIO | None = None) -> None:
        self._tar.addfile(entry, content)
        self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep every one


def _with_attributes(entry: tarfile.TarInfo, found: dict[str, bytes], seen: os.stat_result) -> tarfile.TarInfo:
    if sum(map(len, found.values())) > LARGEST_HEADER:
        raise _cannot_say(entry.name, "its extended attributes are too large")
    said = {}
    for name, value in sorted(found.items()):
        plain = renumbered(value, (seen.st_uid, seen.st_gid), GUEST) if name in ACLS else value
        said[ATTRIBUTE + quote(os.fsencode(name))] = plain.decode("utf-8", "surrogateescape")
    entry.pax_headers = {**entry.pax_headers, **said}
    return entry


def _seconds(nanoseconds: int) -> str:
    whole, rest = divmod(abs(nanoseconds), _SECOND)
    return f"{'-' if nanoseconds < 0 else ''}{whole}.{rest:09d}"


def _cannot_say(path: str, why: str) -> Unsupported:
    return Unsupported(
        f"{path!r} cannot be in a file of layers: {why}",
        hint="remove or rename it, and take another snapshot",
        path=path,
    )
