"""Where one installation keeps its things, and who owns a sandbox's directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
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
        owner = path.stat().st_uid
        if owner != os.geteuid():
            raise BackendUnavailable(
                f"{path} belongs to another user (uid {owner})",
                hint="remove it, or point GLOVEPORT_STATE and GLOVEPORT_DATA at directories of your own",
            )
        if stat.S_IMODE(path.stat().st_mode) != mode:
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
    """Remove a tree that a guest wrote: unreadable directories included, links never followed. Missing is fine."""
    shutil.rmtree(path, onerror=_open_up_and_retry)


def _open_up_and_retry(function: Callable[..., object], path: str, _error: object) -> None:
    parent = os.path.dirname(path)
    with contextlib.suppress(OSError):
        os.chmod(parent, 0o700)
    with contextlib.suppress(OSError):
        if not os.path.islink(path):
            os.chmod(path, 0o700)
    with contextlib.suppress(FileNotFoundError):
        if function is os.scandir or function is os.open or function is os.lstat:
            shutil.rmtree(path, ignore_errors=True)
        else:
            function(path)
