"""Measures what a guest takes of the host's disk, in a tree that it may be rewriting at this moment."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BEYOND", "LEAST_CHARGE", "disk_usage", "free_space"]

LEAST_CHARGE = 4096
"""Bytes that every file, directory or link counts for at least: a file system runs out of inodes too."""
BEYOND = 2**63 - 1
"""The usage of a tree that is too large to be measured."""

_MOST_ENTRIES = 1_000_000
"""Names and open descriptors looked at; a workspace with more changes could not be told either."""
_MOST_PENDING = 64 * 1024 * 1024
"""Bytes of directory names that a walk remembers: what bounds this process's memory."""
_BREATH = 1024
"""Entries between two looks at whether the measurement is still wanted."""
_BLOCK = 512
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GUESTS_DOING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ESRCH, errno.ESTALE}
)
"""What a guest can make of a name at any moment. Any other error is the host's, and the measurement's end."""


def disk_usage(
    directory: Path,
    is_over: Callable[[], bool] = lambda: False,
    *,
    guest: int | None = None,
    workspace: str = "/workspace",
) -> int:
    """Bytes that what is below `directory` occupies, `LEAST_CHARGE` each at least, hard links once; or `BEYOND`.

    Never follows links; what vanishes meanwhile is skipped, and so is what this user may not read. Paths may be of any
    length: two descriptors are open, however deep the tree. With `guest`, a descriptor of the guest's own `/proc`, the
    files of its `workspace` that it holds open but has removed count too, as far as this user may see its descriptors.
    `is_over` is asked again and again and ends the walk early. Raises `OSError` when the host fails.
    """
    try:
        root = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        return 0
    walk = None
    try:
        count = _Count(is_over)
        walk = _Walk(root, count)
        walk.run()
        if guest is not None:
            _add_removed(guest, _devices(root, guest, workspace), count)
    except _TooMuch:
        return BEYOND
    except _Over:
        pass
    finally:
        if walk is not None:
            walk.close()
        os.close(root)
    return count.total


def free_space(directory: Path) -> int:
    """Bytes that the file system of `directory` has left, an inode taken as `LEAST_CHARGE`. Costs next to nothing."""
    facts = os.statvfs(directory)
    return facts.f_bfree * facts.f_frsize + facts.f_ffree * LEAST_CHARGE


class _TooMuch(Exception):
    pass


class _Over(Exception):
    pass


class _Count:
    """The sum so far, and the bounds on finding it."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.total = 0
        self._is_over = is_over
        self._entries = 0

    def look(self) -> None:
        """Account for looking at one entry more."""
        self._entries += 1
        if self._entries > _MOST_ENTRIES:
            raise _TooMuch
        if self._entries % _BREATH == 0:
            self.pause()

    def pause(self) -> None:
        """A place to stop at."""
        if self._is_over():
            raise _Over

    def add(self, facts: os.stat_result) -> None:
        """Add one name's share of its file. Remembering the files with several names would take memory by the file."""
        links = 1 if stat.S_ISDIR(facts.st_mode) else max(1, facts.st_nlink)
        self.total += max(facts.st_blocks * _BLOCK, LEAST_CHARGE) // links


@dataclass(slots=True)
class _Level:
    """One directory on the way from the root to where the walk is."""

    name: bytes
    identity: tuple[int, int]
    pending: list[bytes]
    """Its subdirectories that are still to be walked."""


class _Walk:
    """A walk with openat alone, in a tree that its owner may move about meanwhile."""

    def __init__(self, root: int, count: _Count) -> None:
        self._root = root
        self._count = count
        self._levels: list[_Level] = []
        self._pending = 0
        self._here = os.dup(root)

    def close(self) -> None:
        os.close(self._here)

    def run(self) -> None:
        self._read(b"")
        while self._levels:
            self._count.pause()
            pending = self._levels[-1].pending
            if pending:
                name = pending.pop()
                self._pending -= len(name)
                if self._move(name):
                    self._read(name)
            else:
                self._ascend()

    def _read(self, name: bytes) -> None:
        """Add up the directory where the walk is, and make it the deepest level."""
        level = _Level(name, _identity(self._here), [])
        self._levels.append(level)
        try:
            with os.scandir(self._here) as entries:
                for entry in entries:
                    self._count.look()
                    self._take(entry, level)
        except OSError as error:
            _pass_over(error)

    def _take(self, entry: os.DirEntry[str], level: _Level) -> None:
        try:
            facts = entry.stat(follow_symlinks=False)
        except OSError as error:
            _pass_over(error)
            return
        self._count.add(facts)
        if stat.S_ISDIR(facts.st_mode):
            name = os.fsencode(entry.name)
            level.pending.append(name)
            self._pending += len(name)
            if self._pending > _MOST_PENDING:
                raise _TooMuch

    def _ascend(self) -> None:
        self._levels.pop()
        if self._levels and not self._move(b"..", self._levels[-1].identity):
            self._find_back()

    def _find_back(self) -> None:
        """A directory on the way was moved: go on from the deepest one that is still where it was."""
        start = os.dup(self._root)
        os.close(self._here)
        self._here = start
        for depth, level in enumerate(self._levels[1:], start=1):
            if not self._move(level.name, level.identity):
                self._pending -= sum(len(name) for lost in self._levels[depth:] for name in lost.pending)
                del self._levels[depth:]
                return

    def _move(self, name: bytes, identity: tuple[int, int] | None = None) -> bool:
        """Go to a directory next to this one, if it is there (and is the one with `identity`)."""
        try:
            there = os.open(name, _DIRECTORY, dir_fd=self._here)
        except OSError as error:
            _pass_over(error)
            return False
        if identity not in (None, _identity(there)):
            os.close(there)
            return False
        os.close(self._here)
        self._here = there
        return True


def _devices(root: int, guest: int, workspace: str) -> set[int]:
    """How the workspace's files say where they are: as the host sees them, and through the guest's overlay."""
    devices = {os.fstat(root).st_dev}
    try:
        devices.add(os.stat(f"1/root{workspace}", dir_fd=guest).st_dev)
    except OSError as error:
        _pass_over(error)
    return devices


def _add_removed(guest: int, devices: set[int], count: _Count) -> None:
    """Add the files that only descriptors of the guest's processes still hold."""
    seen: set[tuple[int, int]] = set()
    for process in os.listdir(guest):
        if not process.isdigit():
            continue
        try:
            descriptors = os.open(f"{process}/fd", _DIRECTORY, dir_fd=guest)
        except OSError as error:
            _pass_over(error)
            continue
        try:
            _add_held(descriptors, devices, seen, count)
        except OSError as error:
            _pass_over(error)
        finally:
            os.close(descriptors)


def _add_held(descriptors: int, devices: set[int], seen: set[tuple[int, int]], count: _Count) -> None:
    with os.scandir(descriptors) as entries:
        for entry in entries:
            count.look()
            try:
                facts = entry.stat()  # of the file itself: these links lead nowhere else
            except OSError as error:
                _pass_over(error)
                continue
            identity = (facts.st_dev, facts.st_ino)
            is_removed = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 0 and facts.st_dev in devices
            if is_removed and identity not in seen:
                seen.add(identity)
                count.add(facts)


def _identity(fd: int) -> tuple[int, int]:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino


def _pass_over(error: OSError) -> None:
    if error.errno not in _GUESTS_DOING:
        raise error
