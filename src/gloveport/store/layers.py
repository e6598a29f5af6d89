"""Sealed trees: what one is, said as a digest, and whether it still is what it was."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gloveport.model import Layer
from gloveport.store.description import WHITEOUT, Description, hard_link, like, regular_file, symbolic_link
from gloveport.store.tree import Node, Stack, attributes, is_whiteout

__all__ = ["ReadLayer", "glance", "read_layer"]


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
    description = Description()
    with Stack(root, as_is=as_is) as tree:
        _describe(tree, description)
    # Reading may have opened up a file for a moment, which shows in its change time: so this comes last.
    return ReadLayer(description.layer, glance(root))


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


def _describe(tree: Stack, description: Description) -> None:
    with tree.directory("") as root:
        description.add("", like(tree.seen, tree.mode(tree.seen), attributes(root)))
    links: dict[tuple[int, int], str] = {}
    for node in tree.walk():
        description.add(node.path, _entry(tree, node, links))


def _entry(tree: Stack, node: Node, links: dict[tuple[int, int], str]) -> Mapping[str, Any]:
    seen = node.seen
    if is_whiteout(seen):
        return WHITEOUT
    if stat.S_ISLNK(seen.st_mode):
        return symbolic_link(seen, os.readlink(node.name, dir_fd=node.parent))
    if stat.S_ISDIR(seen.st_mode):
        with tree.directory(node.path) as opened:
            return like(seen, node.mode, attributes(opened))
    if not stat.S_ISREG(seen.st_mode):
        return like(seen, node.mode, {})
    first = links.setdefault((seen.st_dev, seen.st_ino), node.path) if seen.st_nlink > 1 else node.path
    if first != node.path:
        return hard_link(first)
    opened = node.open()
    with os.fdopen(opened, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
        return regular_file(seen, node.mode, attributes(opened), content)
