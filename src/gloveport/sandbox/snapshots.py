"""Taking a snapshot, and standing on one: the plan of a sandbox that begins where another one was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from gloveport.backends import Backend
from gloveport.errors import Conflict, InvalidRequest
from gloveport.model import MountOperation, Overlay, Plan, Ref, Snapshot, Source, Spec, Tmpfs
from gloveport.policy.compile import is_fetched, is_sealed
from gloveport.store import Snapshots

__all__ = ["as_first", "beneath", "check_layers", "layers_of", "move_to", "stand_on", "take", "while_made"]

_WORKSPACE = "workspace"


async def take(backend: Backend, ref: Ref, store: Snapshots, *, fetched: Path, label: str = "") -> Snapshot:
    """Save a sandbox.

    What was fetched, below `fetched`, never changes, nor do layers: there is no need of a fingerprint.
    Whatever fails leaves nothing.
    """
    with store.draft() as draft:
        try:
            base = await backend.snapshot(ref, draft)
            if is_fetched(base.path, fetched) or is_sealed(base.path, store.root):
                base = replace(base, fingerprint="")
            return await anyio.to_thread.run_sync(partial(store.keep, draft, base, sandbox=ref.id, label=label))
        finally:
            if draft.path.exists():  # it was not kept
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(draft.clear)


def beneath(spec: Spec, store: Snapshots) -> tuple[Snapshot, Spec]:
    """The snapshot that a spec begins from, and the spec with the directory under it, where that is a user's.

    Raises as `Snapshots.get`, and `InvalidRequest` for a spec with a source of its own.
    """
    if spec.source is not None:
        raise InvalidRequest("a snapshot has its own source", hint="leave out either the source or the snapshot")
    snapshot = store.get(spec.snapshot or "")
    path = snapshot.base.path
    return snapshot, replace(spec, source=Source(repo=path)) if path and not is_sealed(path, store.root) else spec


@asynccontextmanager
async def while_made(store: Snapshots) -> AsyncIterator[None]:
    """A scope in which sandboxes are made, and so no snapshot is removed. Waiting for it holds nobody else up."""
    with ExitStack() as held:
        if not store.hold(held, wait=False):
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(store.hold, held)
        yield


def layers_of(plan: Plan) -> list[str]:
    """The directories of snapshots, and of a user's, that a plan's workspace lies on."""
    overlay = next((mount for mount in plan.mounts if isinstance(mount, Overlay)), None)
    return [path for path in (overlay.layer, overlay.lower) if path] if overlay is not None else []


async def check_layers(plan: Plan, store: Snapshots) -> None:
    """Raise `BackendUnavailable` unless every snapshot that a plan's workspace stands on is what was sealed."""
    for snapshot in {held.id: held for path in layers_of(plan) if (held := store.holding(path))}.values():
        await anyio.to_thread.run_sync(store.check, snapshot)


def move_to(plan: Plan, snapshot: Snapshot, store: Snapshots) -> Plan:
    """The plan of a sandbox that is to be what a snapshot is. Raises `Conflict` for one of another source."""
    overlay = next(mount for mount in plan.mounts if isinstance(mount, Overlay))
    lower = store.lower(snapshot)
    if overlay.lower != lower:
        raise Conflict(
            f"the snapshot {snapshot.id} is of another source: {lower or 'an empty workspace'}",
            hint=f"make a sandbox of it: gloveport restore {snapshot.id}",
            id=snapshot.id,
        )
    return stand_on(plan, snapshot, store)


def stand_on(plan: Plan, snapshot: Snapshot, store: Snapshots, *, beside: str = "") -> Plan:
    """The same plan with the snapshot's files in it.

    `beside` is a live sandbox on the same base, which then is taken to be what that one has under it.
    """

    def moved(mount: MountOperation) -> MountOperation:
        if isinstance(mount, Overlay):
            return replace(
                mount,
                lower=store.lower(snapshot),
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
