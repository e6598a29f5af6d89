"""Finds the desks of this installation where questions may wait: the runner's, and those of runs that ask."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gloveport.client.connection import Connection, unreachable
from gloveport.errors import BackendUnavailable
from gloveport.settings import Settings

__all__ = ["DeskPlace", "directory_of", "find_desks", "live_desks"]

_PATIENCE_SECONDS = 5.0
"""How long a desk may take to answer: its process may be stopped, and must not hold up the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskPlace:
    """Where one desk is."""

    path: Path
    run: str
    """Whose it is; empty for the runner's."""

    def __str__(self) -> str:
        return f"run {self.run}" if self.run else "the runner"

    def call(self, verb: str, **fields: Any) -> dict[str, Any] | None:
        """What the desk answers; `None` when nobody is there any more.

        Raises what it answers, `BackendUnavailable` for one of another version, `TimedOut` for one that is silent.
        """
        try:
            with directory_of(self.path.parent) as directory:
                connection = Connection.open(directory / self.path.name, seconds=_PATIENCE_SECONDS)
        except FileNotFoundError:
            return None
        if connection is None:
            return None
        with connection:
            try:
                return connection.call(verb, **fields)
            except BackendUnavailable:
                if self.path.exists():
                    raise
                return None


def find_desks(settings: Settings) -> list[DeskPlace]:
    """Where the runner's would be, and that of each run that lives; what dead runs left is removed."""
    runs = [DeskPlace(path=path, run=path.stem) for path in live_desks(settings.desks)]
    return [DeskPlace(path=settings.socket, run=""), *runs]


def live_desks(desks: Path) -> list[Path]:
    """The sockets in `desks` on which somebody listens, by name; the others are removed.

    Raises `BackendUnavailable` for a directory that this user cannot read.
    """
    try:
        with directory_of(desks) as directory:
            return [desks / path.name for path in sorted(directory.glob("*.sock")) if not _removed(path)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreachable(desks, error) from error


@contextmanager
def directory_of(path: Path) -> Iterator[Path]:
    """`path` by a short name while the scope lasts: the kernel takes no address of a socket that is long."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _removed(path: Path) -> bool:
    """Remove the socket of a process that is dead; whether it was one.

    Only a refusal says so: a process that is stopped, or that has too many callers, is silent and keeps its socket.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.setblocking(False)
        try:
            peer.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return True
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return False
