"""A private directory of the host for one agent: its model proxy's socket, and a lock that says whose it is."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gloveport.store import DirectoryLock, claim, make_private, remove_tree, try_claim

__all__ = ["Room", "open_room"]


@dataclass(frozen=True, slots=True)
class Room:
    """The directory (0700) of one agent."""

    path: Path

    @property
    def socket(self) -> Path:
        """Where the model proxy listens."""
        return self.path / "model.sock"

    def open_socket(self) -> None:
        """Let root's jails, which are other users of the host, connect; nobody else can pass through the directory."""
        if os.geteuid() == 0:
            self.socket.chmod(0o666)


@contextmanager
def open_room(state: Path) -> Iterator[Room]:
    """Make a room, and remove those whose owners died; it is gone when the scope is left."""
    root = make_private(state / "agents")
    _sweep(state, root)
    path, lock = _make(state, root)
    try:
        yield Room(path)
    finally:
        _discard(state, path, lock)


def _make(state: Path, root: Path) -> tuple[Path, DirectoryLock]:
    """A new directory, locked by this process before a sweep can see it."""
    scratch = Path(tempfile.mkdtemp(dir=make_private(state / "new")))
    lock = claim(scratch)
    try:
        path = scratch.rename(root / secrets.token_hex(4))
    except BaseException:
        remove_tree(scratch)
        lock.release()
        raise
    return path, lock


def _sweep(state: Path, root: Path) -> None:
    for path in root.iterdir():
        try:
            lock = try_claim(path)
        except FileNotFoundError:
            continue
        if lock is not None:
            _discard(state, path, lock)


def _discard(state: Path, path: Path, lock: DirectoryLock) -> None:
    """Out of every sweep's sight first: one that met it half removed could lock it anew."""
    trash = make_private(state / "trash") / f"{path.name}-{secrets.token_hex(4)}"
    try:
        path.rename(trash)
        remove_tree(trash)
    except FileNotFoundError:
        pass
    finally:
        lock.release()
