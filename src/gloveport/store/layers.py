"""Sealed trees: what one is, said as a digest, and whether it still is what it was."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gloveport.model import Layer
from gloveport.store.acls import GUEST, renumbered
from gloveport.store.tree import ACLS, Node, Stack, attributes, is_whiteout

__all__ = ["ReadLayer", "glance", "read_layer"]

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class ReadLayer:
    """A layer, and how its files looked to whoever read it."""

    layer: Layer
    glance: str
    """See `glance`."""


def read_layer(root: Path, *, as_is: bool = False) -> ReadLayer:
    """Read every byte of a tree that nobody changes meanwhile. Raises `OSError`, and what `Stack.walk` does.

    `as_is` as for `Stack`.
    """
    digest = hashlib.sha256()
    entries = size = 0
    with Stack(root, as_is=as_is) as tree:
        for said in _describe(tree):
            digest.update(json.dumps(said, separators=(",", ":"), sort_keys=True).encode() + b"\n")
            entries += 1
            size += said.get("size", 0)
    # Reading may have opened up a file for a moment, which shows in its change time: so this comes last.
    return ReadLayer(Layer(digest=digest.hexdigest(), entries=entries, size=size), glance(root))


def glance(root: Path) -> str:
    """A digest of every entry's number, change time, mode and size: an entry that was touched since has another.

    Much cheaper than reading; the kernel alone sets change times. Empty for a tree too deep for it, or with a directory
    that cannot be listed. Raises `OSError`.
    """
    try:
        return _glance(os.fsencode(root))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return ""


def _glance(top: bytes) -> str:
    digest = hashlib.sha256()
    pending = [b""]
    while pending:
        above = pending.pop()
        directory = os.path.join(top, above) if above else top
        seen = os.lstat(directory)
        digest.update(b"%d %d %o\n" % (seen.st_ino, seen.st_ctime_ns, seen.st_mode))
        try:
            with os.scandir(directory) as found:
                entries = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in found)
        except PermissionError:
            if seen.st_mode & stat.S_IXUSR:
                return ""  # its owner can touch by its name what cannot be listed
            continue  # its owner has to open it, which shows, to touch what is in it
        for name, seen in entries:
            path = os.path.join(above, name)
            digest.update(b"%s %d %d %o %d\n" % (path, seen.st_ino, seen.st_ctime_ns, seen.st_mode, seen.st_size))
            if stat.S_ISDIR(seen.st_mode):
                pending.append(path)
    return digest.hexdigest()


def _describe(tree: Stack) -> Iterator[dict[str, Any]]:
    """Each entry, the root first, with all that makes it what it is. Change times and numbers of inodes do not."""
    seen = tree.seen
    with tree.directory("") as root:
        yield {"path": "", **_common(seen, tree.mode(seen)), **_attributes(root, seen)}
    links: dict[tuple[int, int], str] = {}
    for node in tree.walk():
        yield {"path": node.path, **_particular(tree, node, links)}


def _particular(tree: Stack, node: Node, links: dict[tuple[int, int], str]) -> dict[str, Any]:
    seen = node.seen
    if is_whiteout(seen):
        return {"type": "whiteout"}
    common = _common(seen, node.mode)
    if stat.S_ISLNK(seen.st_mode):
        return {**common, "target": os.readlink(node.name, dir_fd=node.parent)}
    if stat.S_ISDIR(seen.st_mode):
        with tree.directory(node.path) as opened:
            return {**common, **_attributes(opened, seen)}
    if not stat.S_ISREG(seen.st_mode):
        return common
    first = links.setdefault((seen.st_dev, seen.st_ino), node.path) if seen.st_nlink > 1 else node.path
    if first != node.path:
        return {"type": "link", "target": first}
    opened = node.open()
    with os.fdopen(opened, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
        return {**common, "size": seen.st_size, "sha256": content, **_attributes(opened, seen)}


def _common(seen: os.stat_result, mode: int) -> dict[str, Any]:
    said = {"type": _KINDS.get(stat.S_IFMT(mode), "device"), "mtime": seen.st_mtime_ns}
    return said if stat.S_ISLNK(mode) else {**said, "mode": stat.S_IMODE(mode)}


def _attributes(descriptor: int, seen: os.stat_result) -> dict[str, Any]:
    found = attributes(descriptor)
    if not found:
        return {}
    # Who owns a layer's files differs from host to host, and so does what an access control list calls him.
    plain = {
        name: renumbered(value, (seen.st_uid, seen.st_gid), GUEST) if name in ACLS else value
        for name, value in sorted(found.items())
    }
    return {"attributes": {name: base64.b64encode(value).decode() for name, value in plain.items()}}
