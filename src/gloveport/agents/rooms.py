"""A private directory of the host for one agent: its model proxy's socket, and a lock that says whose it is."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gloveport.store import claim, make_private, remove_tree, try_claim

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
    _sweep(root)
    path = make_private(root / secrets.token_hex(4))
    lock = claim(path)
    try:
        yield Room(path)
    finally:
        remove_tree(path)
        lock.release()


def _sweep(root: Path) -> None:
    for path in root.iterdir():
        try:
            lock = try_claim(path)
        except FileNotFoundError:
            continue
        if lock is not None:
            remove_tree(path)
            lock.release()
