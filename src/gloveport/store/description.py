"""What a sealed tree is, said as a digest: told of every entry, whoever walks over them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gloveport.model import Layer
from gloveport.store.acls import GUEST, renumbered
from gloveport.store.tree import ACLS

__all__ = ["WHITEOUT", "Description", "hard_link", "like", "plain", "regular_file", "symbolic_link"]

_KINDS: Final = MappingProxyType(
    {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
    }
)
_JSON: Final = json.JSONEncoder(separators=(",", ":"), sort_keys=True)
WHITEOUT: Final = MappingProxyType({"type": "whiteout"})


class Description:
    """A layer in the making. Entries come in the order of `Stack.walk`, the root with an empty path first."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._entries = 0
        self._size = 0

    def add(self, path: str, said: Mapping[str, Any]) -> None:
        """One entry."""
        self._digest.update(_JSON.encode({"path": path, **said}).encode() + b"\n")
        self._entries += 1
        self._size += said.get("size", 0)

    @property
    def layer(self) -> Layer:
        """What it all is."""
        return Layer(digest=self._digest.hexdigest(), entries=self._entries, size=self._size)


def like(seen: os.stat_result, mode: int, attributes: Mapping[str, bytes]) -> dict[str, Any]:
    """An entry with all that makes it what it is. Change times and numbers of inodes do not, nor does its owner.

    `mode` is its `st_mode` when nobody looks.
    """
    said: dict[str, Any] = {"type": _KINDS.get(stat.S_IFMT(mode), "device"), "mtime": seen.st_mtime_ns}
    if not stat.S_ISLNK(mode):
        said["mode"] = stat.S_IMODE(mode)
    if attributes:
        said["attributes"] = {
            name: base64.b64encode(value).decode() for name, value in sorted(plain(seen, attributes).items())
        }
    return said


def plain(seen: os.stat_result, attributes: Mapping[str, bytes]) -> dict[str, bytes]:
    """The attributes of an entry as they are said, whoever owns it.

    Who owns a layer's files differs from host to host, and so does what an access control list calls him.
    """
    owner = (seen.st_uid, seen.st_gid)
    return {name: renumbered(value, owner, GUEST) if name in ACLS else value for name, value in attributes.items()}


def regular_file(seen: os.stat_result, mode: int, attributes: Mapping[str, bytes], sha256: str) -> dict[str, Any]:
    """A file, by the digest of what is in it."""
    return {**like(seen, mode, attributes), "size": seen.st_size, "sha256": sha256}


def symbolic_link(seen: os.stat_result, target: str) -> dict[str, Any]:
    """A symbolic link."""
    return {**like(seen, seen.st_mode, {}), "target": target}


def hard_link(first: str) -> dict[str, Any]:
    """Another name of a file, by its first one."""
    return {"type": "link", "target": first}
