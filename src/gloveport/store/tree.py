"""Trees of files as a guest made them, one before the other: walked while nobody changes them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gloveport.errors import LimitExceeded

__all__ = [
    "ACLS",
    "MOST_BYTES",
    "MOST_ENTRIES",
    "OPAQUE",
    "Node",
    "Stack",
    "Tree",
    "attributes",
    "check_room",
    "is_attribute",
    "is_whiteout",
]

MOST_ENTRIES = 1_000_000
"""Of one tree."""
MOST_BYTES = 64 * 2**30
"""That the regular files of one tree may say they have, holes included."""
ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_LONGEST_PATH = 4095
_ANCHORED = 32
"""Levels between two directories of one path that are kept open."""
_THROUGH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OVERLAYS_OWN = "user.overlay."
OPAQUE = "user.overlay.opaque"
"""An overlay's mark of a directory below which nothing of the lower trees shows."""


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of a tree; `parent` is open for as long as the walk is there."""

    path: str
    name: str
    parent: int
    seen: os.stat_result
    mode: int
    """`st_mode` as it is when nobody looks."""

    def open(self) -> int:
        """A descriptor of a regular file."""
        return os.open(self.name, _FILE, dir_fd=self.parent)


@dataclass(frozen=True, slots=True)
class _Anchor:
    names: list[str]
    descriptor: int


class Tree:
    """A directory and everything below it, reached by names without following a link, whatever a guest has made."""

    def __init__(self, root: Path, *, as_is: bool = False) -> None:
        """`as_is`: never change it, not for a moment. What its owner has closed cannot be read then."""
        self._path = root
        self._as_is = as_is
        self._root = -1
        self._modes: dict[tuple[int, int], int] = {}
        self._opened_up: list[tuple[str, int]] = []
        self._anchors: list[_Anchor] = []
        """Directories on the way to the last one: a guest may make its trees two thousand levels deep."""

    def __enter__(self) -> Self:
        self._root = os.open(self._path, _THROUGH)
        try:
            self.open_up("", os.stat(self._root))
        except BaseException:
            os.close(self._root)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for path, mode in reversed(self._opened_up):
                with suppress(FileNotFoundError):
                    self._set_mode(path, mode)
        finally:
            for descriptor in (*(anchor.descriptor for anchor in self._anchors), self._root):
                os.close(descriptor)

    @property
    def root(self) -> int:
        """A descriptor by which names below can be reached."""
        return self._root

    @contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """A descriptor of a directory below, by its path; of the root, by an empty one."""
        descriptor = self.open_directory(path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open_directory(self, path: str) -> int:
        """The same, for the caller to close."""
        return self._reach(path, _DIRECTORY)

    def mode(self, seen: os.stat_result) -> int | None:
        """`st_mode` of what was opened up, as it was; `None` for anything else."""
        return self._modes.get((seen.st_dev, seen.st_ino))

    def open_up(self, path: str, seen: os.stat_result) -> None:
        """Make readable what its owner has closed, until the end of the scope."""
        if os.geteuid() == 0 or self._as_is:
            return
        needed = 0o700 if stat.S_ISDIR(seen.st_mode) else 0o400 if stat.S_ISREG(seen.st_mode) else 0
        if seen.st_mode & needed == needed or (seen.st_dev, seen.st_ino) in self._modes:
            return
        self._modes[seen.st_dev, seen.st_ino] = seen.st_mode
        self._opened_up.append((path, seen.st_mode))
        self._set_mode(path, seen.st_mode | needed)

    def open_up_directory(self, path: str) -> bool:
        """The same for a directory by its path; whether there is one."""
        try:
            descriptor = self._reach(path, _THROUGH)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            self.open_up(path, os.fstat(descriptor))
        finally:
            os.close(descriptor)
        return True

    def _set_mode(self, path: str, mode: int) -> None:
        descriptor = self._reach(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", stat.S_IMODE(mode))
        finally:
            os.close(descriptor)

    def _reach(self, path: str, flags: int) -> int:
        if not path:
            return os.open(f"/proc/self/fd/{self._root}", flags & ~os.O_NOFOLLOW)
        names = path.split("/")
        while self._anchors and names[: len(self._anchors[-1].names)] != self._anchors[-1].names:
            os.close(self._anchors.pop().descriptor)
        passed = len(self._anchors[-1].names) if self._anchors else 0
        held = fixed = self._anchors[-1].descriptor if self._anchors else self._root
        for position in range(passed, len(names)):
            last = position == len(names) - 1
            try:
                following = os.open(names[position], flags if last else _THROUGH, dir_fd=held)
            finally:
                if held != fixed:
                    os.close(held)
            held = following
            if not last and (position + 1) % _ANCHORED == 0:
                self._anchors.append(_Anchor(names[: position + 1], held))
                fixed = held
        return held


class Stack:
    """Trees one before the other, as an overlay shows them: what is in one covers what is in those behind it.

    One tree by itself is the most frequent one. Nobody may change any of them meanwhile.
    """

    def __init__(self, *roots: Path, as_is: bool = False, one_device: bool = False) -> None:
        """The foremost first. `as_is` as for `Tree`; with `one_device` what is mounted inside them is passed over."""
        self._trees = [Tree(root, as_is=as_is) for root in roots]
        self._one_device = one_device
        self._behind: dict[str, int] = {}
        """Directories that are not in the foremost tree: in which they are."""
        self._closed: set[str] = set()
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as held:
            for tree in self._trees:
                held.enter_context(tree)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    @property
    def is_single(self) -> bool:
        """Whether it is one tree by itself."""
        return len(self._trees) == 1

    @property
    def seen(self) -> os.stat_result:
        """What the foremost tree's root is like."""
        return os.stat(self._trees[0].root)

    def directory(self, path: str) -> AbstractContextManager[int]:
        """A descriptor of a directory that the walk has passed, by its path; of the root, by an empty one."""
        return self._trees[self._behind.get(path, 0)].directory(path)

    def mode(self, seen: os.stat_result) -> int:
        """`st_mode` as it is when nobody looks."""
        return next((mode for tree in self._trees if (mode := tree.mode(seen)) is not None), seen.st_mode)

    def is_closed(self, path: str) -> bool:
        """Whether a directory that the walk has passed shows nothing of what lies under all the trees."""
        return path in self._closed

    def walk(self) -> Iterator[Node]:
        """Every entry, a directory before what is in it, in the order of names. Raises `LimitExceeded`."""
        pending = [("", 0)]
        left, room = MOST_ENTRIES, MOST_BYTES
        devices = [os.stat(tree.root).st_dev for tree in self._trees]
        while pending:
            above, foremost = pending.pop()
            directories = []
            with ExitStack() as held:
                for name, parent, number in self._names(above, foremost, held):
                    path = f"{above}/{name}" if above else name
                    seen = os.stat(name, dir_fd=parent, follow_symlinks=False)
                    if self._one_device and seen.st_dev != devices[number]:
                        continue
                    left -= 1
                    room -= seen.st_size if stat.S_ISREG(seen.st_mode) else 0
                    check_room(path, left, room)
                    self._trees[number].open_up(path, seen)
                    if stat.S_ISDIR(seen.st_mode):
                        directories.append((path, number))
                        if number:
                            self._behind[path] = number
                    yield Node(path, name, parent, seen, self.mode(seen))
            pending += reversed(directories)

    def _names(self, path: str, foremost: int, held: ExitStack) -> list[tuple[str, int, int]]:
        """What a directory shows: each name, a descriptor of the directory that has it, and the number of its tree."""
        found: dict[str, tuple[int, int]] = {}
        for number in range(foremost, len(self._trees)):
            tree = self._trees[number]
            if number > foremost and not tree.open_up_directory(path):
                continue
            parent = held.enter_context(tree.directory(path))
            for name in os.listdir(parent):
                found.setdefault(name, (parent, number))
            if attributes(parent).get(OPAQUE) == b"y":
                self._closed.add(path)
                break
        return [(name, *found[name]) for name in sorted(found, key=os.fsencode)]


def is_whiteout(seen: os.stat_result) -> bool:
    """Whether an entry is an overlay's word for "deleted"."""
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def attributes(descriptor: int) -> dict[str, bytes]:
    """The extended attributes that belong to a tree: users' own, access control lists, and an overlay's `opaque`."""
    found = {}
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return {}
        raise
    for name in names:
        if is_attribute(name):
            found[name] = os.getxattr(descriptor, name)
    return found


def is_attribute(name: str) -> bool:
    """Whether `attributes` tells of an extended attribute of that name."""
    return name == OPAQUE or name in ACLS or (name.startswith("user.") and not name.startswith(_OVERLAYS_OWN))


def check_room(path: str, entries: int, size: int) -> None:
    """Raise `LimitExceeded` for a path too long, or where no room for entries or bytes is left."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise LimitExceeded(
            "the tree is deeper than a path can say",
            hint=f"remove the deep directories below {path[:80]!r}",
            limit="snapshot",
        )
    if entries < 0 or size < 0:
        what = f"{MOST_ENTRIES:,} entries" if entries < 0 else f"{MOST_BYTES // 2**30} GiB"
        raise LimitExceeded(
            f"more than {what} to be saved", hint="remove what was generated (build output, caches)", limit="snapshot"
        )
