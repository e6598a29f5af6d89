"""Snapshots, forks, resets and replays: the one place where the server meets what makes them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from gloveport.mcp.bounds import check_snapshot_id
from gloveport.mcp.progress import Progress
from gloveport.mcp.sandboxes import Entry, Sandboxes
from gloveport.mcp.shapes import (
    Diverged,
    Forked,
    ForkSandbox,
    Replayed,
    ReplayTrajectory,
    Reset,
    ResetSandbox,
    SnapshotSandbox,
    SnapshotTaken,
)
from gloveport.sandbox import Sandbox
from gloveport.trajectory import Trajectory
from gloveport.trajectory.formats.registry import detect_format
from gloveport.trajectory.reading import parse_document
from gloveport.trajectory.replay import ReplayRequest, replay

__all__ = ["fork_sandbox", "read_given", "replay_trajectory", "reset_sandbox", "snapshot_sandbox"]


async def snapshot_sandbox(sandboxes: Sandboxes, asked: SnapshotSandbox, progress: Progress) -> SnapshotTaken:
    """Save the files of a sandbox as they are."""
    entry = sandboxes.get(asked.sandbox_id)
    with entry.in_use():
        await progress.say("saving")
        taken = await entry.sandbox.snapshot(asked.label)
    return SnapshotTaken(sandbox_id=entry.sandbox.id, snapshot=taken.id, label=asked.label)


async def reset_sandbox(sandboxes: Sandboxes, asked: ResetSandbox, progress: Progress) -> Reset:
    """Put a sandbox back to a snapshot, or to its first state."""
    check_snapshot_id(asked.snapshot)
    entry = sandboxes.get(asked.sandbox_id)
    with entry.in_use():
        await progress.say("resetting")
        try:
            await entry.sandbox.reset(asked.snapshot)
        except BaseException:
            sandboxes.forget_lost(entry)
            raise
        entry.restart()
    return Reset(sandbox_id=entry.sandbox.id, snapshot=asked.snapshot)


async def fork_sandbox(sandboxes: Sandboxes, asked: ForkSandbox, progress: Progress) -> Forked:
    """Make more sandboxes in the state of one."""
    entry = sandboxes.get(asked.sandbox_id)
    with entry.in_use(), sandboxes.room(asked.count):
        await progress.say("forking")
        forks = [sandboxes.adopt(sandboxes.manager.get(made.id)) for made in await entry.sandbox.fork(asked.count)]
    return Forked(sandbox_id=entry.sandbox.id, sandboxes=tuple([await made.facts() for made in forks]))


def read_given(trajectory: Mapping[str, Any]) -> Trajectory:
    """A trajectory that a client gives, in any format that is one object. Raises `InvalidRequest`."""
    document = parse_document(json.dumps(trajectory).encode())
    return detect_format(document).read(document)


async def replay_trajectory(sandboxes: Sandboxes, asked: ReplayTrajectory, progress: Progress) -> Replayed:
    """Carry out recorded tool calls again, in the state in which the sandbox is, and compare.

    A fork of that state tells chance from behaviour: what diverged is executed there once more.
    """
    entry = sandboxes.get(asked.sandbox_id)
    trajectory = read_given(asked.trajectory)
    with entry.in_use():
        await progress.say(f"replaying {len(trajectory.steps)} steps")
        async with _fork(sandboxes, entry) as fork:

            @asynccontextmanager
            async def again() -> AsyncIterator[Sandbox]:
                yield fork

            redactor = sandboxes.manager.redactor
            result = await replay(ReplayRequest(trajectory=trajectory, redactor=redactor, again=again), entry.sandbox)
    return Replayed(
        success=result.success,
        total_steps=result.total_steps,
        completed_steps=result.completed_steps,
        divergence_step=result.divergence_step,
        details=tuple(
            Diverged(step=one.step, tool=one.tool, kind=str(one.kind), reason=one.reason, difference=one.diff)
            for one in result.divergences
        ),
        notes=result.notes,
    )


@asynccontextmanager
async def _fork(sandboxes: Sandboxes, entry: Entry) -> AsyncIterator[Sandbox]:
    (fork,) = await entry.sandbox.fork()
    try:
        yield fork
    finally:
        with anyio.CancelScope(shield=True):
            await sandboxes.manager.delete(fork.id)
