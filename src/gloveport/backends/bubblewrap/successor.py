"""What a sandbox is after its next reset, started already; and when that is worth it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import anyio

from gloveport.backends.bubblewrap.helpers import Helpers
from gloveport.backends.bubblewrap.live import LiveSandbox
from gloveport.backends.bubblewrap.workspace import has_copies
from gloveport.errors import BackendUnavailable
from gloveport.model import MIB, Assembled, Bind, Overlay, Plan, SandboxState, Tmpfs

__all__ = ["Successor", "is_worth_it", "seen_by"]

_MOST_CONTENT = 4 * MIB
"""Bytes of a snapshot's `/tmp` and home that are put into memory beforehand."""
_SHARE_OF_FILES = 0.5
"""Of the open files that this process may have: beyond, they are left to sandboxes that somebody asked for."""


@dataclass(slots=True, kw_only=True)
class Successor:
    """What a sandbox is after its next reset by the same plan. Nothing runs in it but guestd until then."""

    plan: Plan
    seen: Sequence[object] = ()
    """What the plan's paths were when it began: bubblewrap mounts what is there, not what comes to be there."""
    live: LiveSandbox | None = None
    """`None` until it has started, where it could not, and once it is taken."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    settled: anyio.Event = field(default_factory=anyio.Event)

    async def take(self, plan: Plan, seen: Sequence[object]) -> LiveSandbox | None:
        """The sandbox. `None`, and it is gone, where it is by another plan, of other files, or does not run."""
        if plan == self.plan:
            await self.settled.wait()
            live = self.live
            if live is not None and live.state is SandboxState.RUNNING and seen == self.seen:
                self.live = None
                return live
        await self.dismiss()
        return None

    async def dismiss(self) -> None:
        """End it, unless it is taken, and throw away what it has. Idempotent."""
        self.scope.cancel()
        with anyio.CancelScope(shield=True):
            await self.settled.wait()
            live, self.live = self.live, None
            if live is not None:
                await live.end()
                live.place.clear()


def seen_by(plan: Plan, helpers: Helpers) -> Sequence[object]:
    """What is at the paths of the host that a plan shows: a path whose directory was replaced is another."""
    return tuple(map(_identity, _paths(plan, helpers)))


def is_worth_it(sandbox: LiveSandbox) -> bool:
    """Whether a successor of it costs little: no copy of its files on disk or in memory, and open files to spare."""
    if has_copies(sandbox.workspace, sandbox.place):
        return False
    room = _MOST_CONTENT
    for mount in sandbox.plan.mounts:
        if isinstance(mount, Tmpfs) and mount.content:
            room -= _size(mount.content, room)
            if room < 0:
                return False
    return len(os.listdir("/proc/self/fd")) < resource.getrlimit(resource.RLIMIT_NOFILE)[0] * _SHARE_OF_FILES


def _paths(plan: Plan, helpers: Helpers) -> Iterator[str]:
    for mount in plan.mounts:
        match mount:
            case Bind(source):
                yield source
            case Overlay():
                yield from (path for path in (mount.lower, mount.layer) if path)
            case Assembled():
                yield helpers.assemble(mount)
            case _:
                pass


def _identity(path: str) -> tuple[str, int, int]:
    try:
        seen = os.stat(path)
    except OSError:
        return path, 0, 0
    return path, seen.st_dev, seen.st_ino


def _size(path: str, most: int) -> int:
    """Bytes of the files below, as far as it takes to know that they are too many."""
    total = 0
    for top, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(top, name)).st_size
            except OSError as error:
                raise BackendUnavailable(f"{top} cannot be read: {error.strerror}", hint="take it again") from error
            if total > most:
                return total
    return total
