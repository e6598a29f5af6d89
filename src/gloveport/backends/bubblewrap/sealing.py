"""What a snapshot holds of a sandbox: its trees, copied while nothing of the guest runs; and the way back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio.to_thread

from gloveport.backends.bubblewrap.live import LiveSandbox
from gloveport.errors import BackendUnavailable
from gloveport.model import Base, Tmpfs
from gloveport.store import LAYER_OWNER, Draft, copy_exactly

__all__ = ["fill", "seal"]

_WORKSPACE = "workspace"


async def seal(sandbox: LiveSandbox, draft: Draft) -> Base:
    """Copy what the guest has written into layers of the draft; what the workspace's layer lies on.

    The guest must be frozen. Raises as `copy_exactly`.
    """
    owner = LAYER_OWNER if os.geteuid() == 0 else None
    workspace = sandbox.workspace
    behind = (workspace.sealed,) if workspace.layer and workspace.sealed is not None else ()
    trees = (sandbox.place.upper, *behind)
    under = workspace.original if workspace.source and not workspace.is_covered else None
    saved = [mount for mount in sandbox.plan.mounts if isinstance(mount, Tmpfs) and mount.saved_as]

    def copy() -> None:
        draft.seal(_WORKSPACE, trees, owner=owner, under=under)
        with _root_of(sandbox) as root:
            for mount in saved:
                draft.seal(mount.saved_as, (root(mount),), owner=owner, one_device=True)

    await anyio.to_thread.run_sync(copy)
    if sandbox.channel.lost is not None:
        raise _ended(sandbox)
    facts = workspace.facts
    return Base(
        path=workspace.source,
        fingerprint=facts.fingerprint if facts is not None else "",
        is_covered=workspace.is_covered or (workspace.copied_at is not None and bool(workspace.source)),
    )


async def fill(sandbox: LiveSandbox) -> None:
    """Put into a new sandbox's file systems what its plan says, before anything runs in it."""
    filled = [mount for mount in sandbox.plan.mounts if isinstance(mount, Tmpfs) and mount.content]
    if not filled:
        return
    with _root_of(sandbox) as root:
        for mount in filled:
            work = partial(copy_exactly, Path(mount.content), root(mount), owner=sandbox.place.owner)
            await anyio.to_thread.run_sync(work)


@contextmanager
def _root_of(sandbox: LiveSandbox) -> Iterator[Callable[[Tmpfs], Path]]:
    """Where this process finds a guest's file systems, while a descriptor of its root is open."""
    root = sandbox.launched.open_root()
    if root is None:
        raise _ended(sandbox)
    try:
        yield lambda mount: Path(f"/proc/self/fd/{root}{mount.target}")
    finally:
        os.close(root)


def _ended(sandbox: LiveSandbox) -> BackendUnavailable:
    return BackendUnavailable(
        f"sandbox {sandbox.plan.sandbox} ended while it was saved", hint="take an earlier snapshot; see: gloveport list"
    )
