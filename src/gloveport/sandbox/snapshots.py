"""Taking a snapshot, and standing on one: the plan of a sandbox that begins where another one was."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from gloveport.backends import Backend
from gloveport.model import MountOperation, Overlay, Plan, Ref, Snapshot, Tmpfs
from gloveport.policy.compile import is_fetched
from gloveport.store import Snapshots

__all__ = ["as_first", "stand_on", "take"]

_WORKSPACE = "workspace"


async def take(backend: Backend, ref: Ref, store: Snapshots, *, fetched: Path, label: str = "") -> Snapshot:
    """Save a sandbox. What was fetched, below `fetched`, never changes, so that nothing is to be told from.

    Whatever fails leaves nothing.
    """
    with store.draft() as draft:
        try:
            base = await backend.snapshot(ref, draft)
            if is_fetched(base.path, fetched):
                base = replace(base, fingerprint="")
            return await anyio.to_thread.run_sync(partial(store.keep, draft, base, sandbox=ref.id, label=label))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(draft.clear)


def stand_on(plan: Plan, snapshot: Snapshot, store: Snapshots, *, beside: str = "") -> Plan:
    """The same plan with the snapshot's files in it.

    `beside` is a live sandbox on the same base, which then is taken to be what that one has under it.
    """

    def moved(mount: MountOperation) -> MountOperation:
        if isinstance(mount, Overlay):
            return replace(
                mount,
                lower=snapshot.base.path or None,
                layer=str(store.layer(snapshot, _WORKSPACE)),
                base=snapshot.base,
                beside=beside,
            )
        if isinstance(mount, Tmpfs) and mount.saved_as in snapshot.layers:
            return replace(mount, content=str(store.layer(snapshot, mount.saved_as)))
        return mount

    return replace(plan, mounts=tuple(map(moved, plan.mounts)))


def as_first(plan: Plan, *, beside: str = "") -> Plan:
    """The same plan with nothing but the source under its workspace."""

    def bare(mount: MountOperation) -> MountOperation:
        if isinstance(mount, Overlay):
            return replace(mount, layer="", base=None, beside=beside)
        return replace(mount, content="") if isinstance(mount, Tmpfs) else mount

    return replace(plan, mounts=tuple(map(bare, plan.mounts)))
