"""Where one installation keeps its things, and who owns a sandbox's directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from pathlib import Path

from gloveport.errors import BackendUnavailable

__all__ = ["DirectoryLock", "claim", "make_private", "remove_tree", "try_claim"]


class DirectoryLock:
    """Holds a directory's `lock` file for as long as this object (or its process) lives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let go; idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def make_private(path: Path, *, mode: int = 0o700) -> Path:
    """Make `path` (and parents) with exactly `mode`; an existing one must belong to this user."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
        seen = path.stat()
        if seen.st_uid != os.geteuid():
            raise BackendUnavailable(
                f"{path} belongs to another user (uid {seen.st_uid})",
                hint="remove it, or point GLOVEPORT_STATE and GLOVEPORT_DATA at directories of your own",
            )
        if stat.S_IMODE(seen.st_mode) != mode:
            path.chmod(mode)
    except OSError as error:
        raise BackendUnavailable(
            f"cannot use {path}: {error.strerror}",
            hint="point GLOVEPORT_STATE and GLOVEPORT_DATA at directories you can write",
        ) from error
    return path


def claim(directory: Path) -> DirectoryLock:
    """Become the owner of a directory nobody owns yet. Raises `BackendUnavailable` when somebody does."""
    lock = try_claim(directory)
    if lock is None:
        raise BackendUnavailable(
            f"{directory} is in use by another process", hint="wait for it, or use another GLOVEPORT_STATE"
        )
    return lock


def try_claim(directory: Path) -> DirectoryLock | None:
    """Become the owner if nobody is: an owner that died, however it died, no longer is one."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    return DirectoryLock(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a tree that a guest wrote, however deep, unreadable or oddly named. Missing is fine.

    Nothing is reached by a path of the guest's making: every directory is moved up to the top, opened there without
    following links, and emptied; so two descriptors suffice for any depth. Two who remove the same tree take turns.
    """
    try:
        top = _open_directory(path, None)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        path.unlink(missing_ok=True)
        return
    try:
        fcntl.flock(top, fcntl.LOCK_EX)
        _empty(top)
    finally:
        os.close(top)
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()


def _empty(top: int) -> None:
    number = 0
    pending = _take_apart(top, top, number)
    while pending:
        name = pending.pop()
        directory = _open_directory(name, top)
        try:
            number += len(pending) + 1
            pending += _take_apart(directory, top, number)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=top)


def _take_apart(directory: int, top: int, number: int) -> list[bytes]:
    """Remove the files in `directory` and move its directories to `top`; their names there."""
    moved: list[bytes] = []
    for entry in os.listdir(directory):
        name = os.fsencode(entry)
        try:
            os.unlink(name, dir_fd=directory)
        except (IsADirectoryError, PermissionError):
            if _removed_empty(name, directory):
                continue
            new = b".removing-%d-%d-%s" % (number, len(moved), secrets.token_hex(4).encode())
            os.close(_open_directory(name, directory))  # makes it movable
            os.rename(name, new, src_dir_fd=directory, dst_dir_fd=top)
            moved.append(new)
        except FileNotFoundError:
            continue
    return moved


def _removed_empty(name: bytes, parent: int) -> bool:
    """Whether it was an empty directory, which is removed where it is: most are."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:
        return False
    return True


def _open_directory(name: Path | bytes, parent: int | None) -> int:
    """Open a directory, never through a link, after giving its owner all permissions."""
    where = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{where}", 0o700)
        return os.open(f"/proc/self/fd/{where}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(where)
