"""Grants that outlive their sandbox: one file of the installation, which each of its processes reads and writes."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gloveport.client.codec import decode, encode
from gloveport.errors import BackendUnavailable, GloveportError, InvalidRequest, LimitExceeded
from gloveport.model import AnswerKind, Grant, QuestionKind
from gloveport.store import cannot_write, whole_file

__all__ = ["MOST_KEPT", "Clock", "KeptGrants"]

MOST_KEPT = 1024
"""Grants that one installation keeps: each is a line that somebody has to be able to review."""
_LARGEST = 4 * 2**20
"""Bytes of the file; more was not written by this class."""
_END, _BOOT = "steady_until", "boot"
"""Keys of the file beside those of a grant."""
_log = logging.getLogger(__name__)


def _steady() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks that a grant expires by, in seconds."""

    wall: Callable[[], float] = time.time
    """Since 1970; anybody may set it, forwards and back."""
    steady: Callable[[], float] = _steady
    """Never goes back, and counts while the host sleeps; means nothing to another boot."""
    boot: Callable[[], str] = _boot
    """Which boot that is; empty where nobody knows."""


class KeptGrants:
    """The grants of scope `always`, each until it expires or is taken back.

    A grant expires by the steady clock, so that setting the other one back makes none last longer: the file says when,
    for the processes of one boot. After another boot there is only the wall clock; where that is before the grant was
    made, nothing says how old it is, and it counts as expired. Of two ends that are known the first one counts.

    What another process writes is seen at the next look. A file that cannot be read holds no grants.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._written: tuple[int, int, int] | None = None
        """Which version of the file was read last."""
        self._grants: Mapping[str, Grant] = {}
        self._ends: dict[str, float] = {}
        """By id, on the steady clock; of all that were ever seen, so that none is given a second life."""
        self._gone: dict[str, Grant] = {}
        """By id, those that were seen and that another process has removed since."""

    def find(self, key: tuple[QuestionKind, str]) -> Grant | None:
        """The one with this key. Never raises."""
        try:
            found = self.live()
        except GloveportError as error:
            _log.warning("no grant counts: %s", error)
            return None
        return next((grant for grant in found if grant.key == key), None)

    def holds(self, grant: Grant) -> bool:
        """Whether it has neither expired nor been taken back."""
        return self.find(grant.key) == grant

    def live(self) -> list[Grant]:
        """All that hold. Raises `InvalidRequest` or `BackendUnavailable` for a file that cannot be read."""
        self._refresh()
        return [grant for grant in self._grants.values() if self._is_live(grant)]

    def add(self, grant: Grant) -> None:
        """Keep one more; one for the same is replaced. Raises `LimitExceeded`, `BackendUnavailable`."""
        with self._alone():
            others = [kept for kept in self.live() if kept.key != grant.key]
            if len(others) >= MOST_KEPT:
                raise LimitExceeded(
                    f"{MOST_KEPT} grants are kept already",
                    hint="take some back: gloveport approvals grants, gloveport approvals revoke GRANT",
                    limit="grants",
                )
            self._write([*others, grant])

    def remove(self, name: str) -> Grant | None:
        """Take one back; `None` when there is none of this id. Raises `BackendUnavailable`."""
        with self._alone():
            held = {grant.id: grant for grant in self.live()}
            found = held.pop(name, None)
            if found is not None:
                self._write(list(held.values()))
                self._gone.pop(name, None)
            return found

    def take_gone(self, name: str) -> Grant | None:
        """One that held here and that another process took back, or found expired; once."""
        return self._gone.pop(name, None)

    def take_expired(self) -> list[Grant]:
        """Those whose time is over, each once: they leave the file."""
        try:
            self._refresh()
            if all(self._is_live(grant) for grant in self._grants.values()):
                return []
            with self._alone():
                live = self.live()
                expired = [grant for grant in self._grants.values() if grant not in live]
                self._write(live)
        except GloveportError as error:
            _log.warning("expired grants stay in the file: %s", error)
            return []
        return expired

    def _is_live(self, grant: Grant) -> bool:
        return self._clock.steady() < self._ends[grant.id]

    def _refresh(self) -> None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._gone.update(self._grants)
            self._written, self._grants = None, {}
            return
        except OSError as error:
            raise BackendUnavailable(f"cannot read {self._path}: {error.strerror}", hint="check who owns it") from error
        # Each version is a new file that takes the old one's name.
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if version != self._written:
            read = self._read(found.st_size)
            before, self._grants = self._grants, {grant.id: grant for grant, _ in read}
            self._gone.update({name: grant for name, grant in before.items() if name not in self._grants})
            for grant, end in read:
                self._ends.setdefault(grant.id, min(end, self._end(grant)))
            self._written = version

    def _end(self, grant: Grant) -> float:
        wall = self._clock.wall()
        known = grant.until is not None and grant.scope is AnswerKind.ALWAYS and grant.granted_at <= wall
        return self._clock.steady() + (grant.until - wall) if known and grant.until is not None else 0.0

    def _read(self, size: int) -> list[tuple[Grant, float]]:
        """Each with its end on the steady clock, as far as that was written down in this boot."""
        hint = "repair it, or remove it with all grants that are kept"
        if size > _LARGEST:
            raise InvalidRequest(f"{self._path} is too large", hint=hint)
        try:
            values = json.loads(self._path.read_bytes())
        except OSError as error:
            raise BackendUnavailable(f"cannot read {self._path}: {error.strerror}", hint="check who owns it") from error
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{self._path} is no JSON: {error}", hint=hint) from error
        if not isinstance(values, list):
            raise InvalidRequest(f"{self._path} holds no list", hint=hint)
        try:
            return [(decode(Grant, value), end) for value, end in map(self._split, values)]
        except InvalidRequest as error:
            raise InvalidRequest(f"{self._path}: {error.message}", hint=hint) from error

    def _split(self, value: object) -> tuple[object, float]:
        if not isinstance(value, dict):
            return value, math.inf
        end, boot = value.pop(_END, math.inf), value.pop(_BOOT, "")
        if not isinstance(end, int | float):
            raise InvalidRequest(f"no end of a grant: {end!r}", hint="a number of seconds")
        return value, float(end) if boot and boot == self._clock.boot() else math.inf

    def _write(self, grants: list[Grant]) -> None:
        boot = self._clock.boot()
        ends = {grant.id: self._ends.get(grant.id, self._end(grant)) for grant in grants}
        written = [{**encode(grant), _END: ends[grant.id], _BOOT: boot} for grant in grants]
        with whole_file(self._path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps(written, indent=1).encode())
        self._refresh()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time."""
        lock = self._path.with_suffix(".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise cannot_write(lock, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
