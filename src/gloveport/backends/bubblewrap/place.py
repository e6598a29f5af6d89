"""One sandbox's directory on the host: made, found again, and swept when its owner died."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gloveport.errors import BackendUnavailable
from gloveport.store import FIRST_UID, DirectoryLock, claim, make_private, remove_tree, try_claim

__all__ = [
    "HostUser",
    "Place",
    "Record",
    "empty_trash",
    "find_places",
    "make_place",
    "sweep",
]

_UID_BITS = 27
_log = logging.getLogger(__name__)
_LONGEST_MAKING = 60.0
"""Seconds; making a place takes milliseconds."""


@dataclass(frozen=True, slots=True)
class HostUser:
    """Whom a sandbox's processes are on the host; never uid 0."""

    uid: int
    gid: int

    @classmethod
    def choose(cls) -> HostUser:
        """The caller, or for root a uid that nothing else has."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        number = FIRST_UID + 1 + secrets.randbits(_UID_BITS)
        return cls(number, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What another process may want to know of a sandbox (`record.json`)."""

    id: str
    created_at: float
    plan_digest: str
    image: str
    source: str
    layer: str = ""
    """The directory of the snapshot's layer that it stands on; empty where it stands on none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The directory of one sandbox and the lock that says who owns it."""

    path: Path
    user: HostUser
    lock: DirectoryLock
    turn: int = 0
    """How often the sandbox was reset: what it has is in a directory of its own each time."""

    @property
    def owner(self) -> tuple[int, int] | None:
        """To whom root gives what it makes for the sandbox; `None` for ordinary users, whose it is anyhow."""
        return (self.user.uid, self.user.gid) if os.geteuid() == 0 else None

    @property
    def guest(self) -> Path:
        """What belongs to the sandbox's user."""
        return self.path / (f"guest-{self.turn}" if self.turn else "guest")

    @property
    def upper(self) -> Path:
        """What the guest wrote in the workspace."""
        return self.guest / "upper"

    @property
    def work(self) -> Path:
        """The overlay's own scratch."""
        return self.guest / "work"

    @property
    def empty(self) -> Path:
        """The lower directory of an empty workspace."""
        return self.guest / "empty"

    @property
    def copy(self) -> Path:
        """A copy of the source, where an overlay cannot show it."""
        return self.guest / "copy"

    @property
    def stage(self) -> Path:
        """Where the launcher mounts what the sandbox's user could not reach."""
        return self.guest / "stage"

    def make(self, directory: Path) -> Path:
        """Make one of these directories, once it is needed, and have it belong to the sandbox's user."""
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if self.owner is not None:
            os.chown(directory, *self.owner)
        return directory

    def record(self, record: Record) -> None:
        """Write `record.json`, whole or not at all: another process may be reading it. Raises `OSError`."""
        new = self.path / "record.new"
        new.write_text(json.dumps(asdict(record)), "utf-8")
        new.rename(self.path / "record.json")

    def anew(self) -> Place:
        """Directories for the same sandbox from its beginning, with a user of their own, beside those it has."""
        place = replace(self, user=HostUser.choose(), turn=self.turn + 1)
        while place.guest.exists():  # what could not be thrown away
            place = replace(place, turn=place.turn + 1)
        try:
            place.fill()
        except BaseException:
            remove_tree(place.guest)
            raise
        return place

    def fill(self) -> None:
        """Make the directories that every sandbox has."""
        for directory in (self.guest, self.upper, self.work):
            self.make(directory)

    def clear(self) -> None:
        """Move what the guest had out of sight; the place goes on. Raises as `discard`."""
        self._throw_away(self.guest)

    def discard(self) -> None:
        """Move the directory out of sight at once; `remove_tree` of the result may take its time.

        Raises `BackendUnavailable` when it cannot; it belongs to nobody then, and the next sweep tries again.
        """
        try:
            self._throw_away(self.path)
        finally:
            self.lock.release()

    def _throw_away(self, path: Path) -> None:
        try:
            trash = make_private(self.path.parent.parent / "trash")
            path.rename(trash / f"{self.path.name}-{secrets.token_hex(4)}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise BackendUnavailable(
                f"{path} cannot be removed: {error.strerror}",
                hint="see what holds it (an immutable file, a mount); the next start tries again",
            ) from error


def make_place(state: Path, sandbox: str) -> Place:
    """Make the directories that every sandbox has, locked by this process before a sweep can see them."""
    user = HostUser.choose()
    root = make_private(state / "sandboxes", mode=0o711)
    scratch = Path(tempfile.mkdtemp(dir=make_private(state / "new")))
    lock = claim(scratch)
    try:
        scratch.chmod(0o711)
        place = Place(path=scratch, user=user, lock=lock)
        place.fill()
        scratch.rename(root / sandbox)
    except BaseException:
        remove_tree(scratch)
        lock.release()
        raise
    return replace(place, path=root / sandbox)


def find_places(state: Path) -> Iterator[tuple[str, Record | None]]:
    """Every sandbox directory of this installation, with what its owner wrote down."""
    for path in sorted(_entries(state / "sandboxes")):
        try:
            yield path.name, Record(**json.loads((path / "record.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            yield path.name, None


def sweep(state: Path) -> list[str]:
    """Remove what owners that died left behind; the ids found. Safe beside living owners.

    What cannot be removed keeps nothing else: it is logged, and the next sweep tries again.
    """
    swept = []
    for path in sorted(_entries(state / "sandboxes")):
        try:
            lock = try_claim(path)
            if lock is not None:
                Place(path=path, user=HostUser(0, 0), lock=lock).discard()
                swept.append(path.name)
        except FileNotFoundError:
            continue
        except (OSError, BackendUnavailable) as error:
            _log.warning("cannot sweep %s: %s", path, error)
    empty_trash(state)
    return swept


def empty_trash(state: Path) -> None:
    """Remove what was thrown away, and what dead makers left half made."""
    for leftover in _abandoned(state):
        # One that cannot be removed (an immutable file, a mount) must not keep the others; the next sweep tries again.
        with contextlib.suppress(OSError):
            remove_tree(leftover)


def _abandoned(state: Path) -> Iterator[Path]:
    """What was thrown away, and what was begun so long ago that its maker must have died."""
    yield from _entries(state / "trash")
    for path in _entries(state / "new"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LONGEST_MAKING:
                yield path


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        _log.warning("cannot look into %s: %s", directory, error)
        return []
