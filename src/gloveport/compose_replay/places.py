"""Sandboxes to replay in: by a run's recorded plan, on a snapshot, on what a file names, or one that is there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from gloveport.agents.skillset import SKILLS_HOME, install_skills, shipped_skills
from gloveport.client import connect
from gloveport.client.backend import RunnerBackend
from gloveport.egress import TapeOfEgress
from gloveport.errors import InvalidRequest, NotFound
from gloveport.jobs import RunDirectory
from gloveport.model import Plan, Ref, RunSummary, Snapshot, Source, Spec, new_id
from gloveport.sandbox import Held, Manager, Recorder, Sandbox
from gloveport.sandbox.snapshots import stand_on
from gloveport.store import Trail, make_private
from gloveport.trajectory import Trajectory
from gloveport.trajectory.replay import Normaliser, OpenSandbox
from gloveport.trajectory.replay.base import RecordedBase, fresh_plan

__all__ = ["ReplayAsked", "ReplaySubject", "applied", "opener", "snapshot_before"]

_DIGEST = "sha256:"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayAsked:
    """How somebody wants it replayed."""

    start: int
    on: str | None
    source: Source | None
    times: int
    network: bool
    env: Mapping[str, str]
    rules: tuple[Normaliser, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySubject:
    """What is replayed."""

    trajectory: Trajectory
    run: RunDirectory | None = None
    summary: RunSummary | None = None
    base: RecordedBase | None = None
    fetched: TapeOfEgress | None = None
    """What the run's guest fetched, which is served again."""


def snapshot_before(manager: Manager, trajectory: Trajectory, asked: ReplayAsked) -> Snapshot | None:
    """The snapshot to begin with: the one that is named, or the one that was taken before the first compared step."""
    if asked.on is not None:
        return manager.snapshots.get(asked.on) if asked.on.startswith(_DIGEST) else None
    taken = trajectory.steps[asked.start].snapshot if asked.start < len(trajectory.steps) else ""
    try:
        return manager.snapshots.get(taken) if taken and asked.start else None
    except NotFound:
        return None


async def opener(
    manager: Manager, subject: ReplaySubject, asked: ReplayAsked, snapshot: Snapshot | None
) -> tuple[OpenSandbox, list[str]]:
    """What opens the sandbox to replay in, as often as one is needed, and what cannot be guaranteed about it."""
    if asked.on is not None and snapshot is None:
        if asked.times > 1:
            raise InvalidRequest("a sandbox of the runner replays once", hint="leave out --times, or --on")
        return _on(manager, asked.on), ["the sandbox was taken as it was: it may not be in the recorded first state"]
    if subject.base is not None and asked.source is None:
        plan, notes = await fresh_plan(
            subject.base, manager, network=asked.network or subject.fetched is not None, env=asked.env
        )
        if snapshot is not None:
            plan, notes = stand_on(plan, snapshot, manager.snapshots), [f"it begins with snapshot {snapshot.id}"]
        skills = SKILLS_HOME in json.dumps([dict(step.params) for step in subject.trajectory.steps], default=str)
        return applied(manager, plan, with_skills=skills and snapshot is None), notes
    if snapshot is not None:
        return _created(manager, Spec(snapshot=snapshot.id, env=asked.env)), [f"it begins with snapshot {snapshot.id}"]
    spec, notes = _spec(subject.trajectory, asked)
    return _created(manager, spec), notes


def _spec(trajectory: Trajectory, asked: ReplayAsked) -> tuple[Spec, list[str]]:
    """For a trajectory that does not say how its sandbox was made."""
    notes = ["the file does not say what the sandbox was like: it is one without policy, tools and network"]
    source = asked.source
    if source is None and isinstance(repo := trajectory.metadata.get("repo"), str) and repo:
        commit = trajectory.metadata.get("commit")
        if not Path(repo).exists():  # whoever wrote the file would have this host ask any other one for it
            raise InvalidRequest(
                f"the file worked on {repo!r}, which is no directory here",
                hint="if you trust that, name it yourself with --repo",
            )
        source = Source(repo=repo, commit=commit if isinstance(commit, str) and commit else None)
        notes.append(f"it works on {repo}, which the file names")
    if source is None:
        notes.append("the file does not say what it worked on: the workspace is empty (name it with --repo)")
    elif source.commit is None:
        notes.append(f"{source.repo} is taken as it is: name a commit for an exact state")
    return Spec(source=source, env=asked.env), notes


def _created(manager: Manager, spec: Spec) -> OpenSandbox:
    return _opened(manager, lambda: manager.create(spec))


def applied(manager: Manager, plan: Plan, *, with_skills: bool) -> OpenSandbox:
    """Opens sandboxes by a plan; with the skills that the agent was offered, where its calls name them."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Sandbox]:
        async with _opened(manager, lambda: manager.apply(_renewed(plan)))() as sandbox:
            if with_skills:
                await install_skills(sandbox.files, shipped_skills())
            yield sandbox

    return opened


def _opened(manager: Manager, make: Callable[[], Awaitable[Held]]) -> OpenSandbox:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Sandbox]:
        held = await make()
        try:
            yield Sandbox(held)
        finally:
            with anyio.CancelScope(shield=True):
                await manager.delete(held.ref.id)

    return opened


def _renewed(plan: Plan) -> Plan:
    return replace(plan, sandbox=new_id())


def _on(manager: Manager, name: str) -> OpenSandbox:
    """A sandbox that the runner holds. What is done in it is recorded by both."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Sandbox]:
        settings = manager.settings
        with connect(settings) as runner:
            found = runner.call("status", id=name)["status"]["ref"]["id"]
        trail = Trail(make_private(settings.data / "audit") / f"replay-{new_id()}.jsonl", redactor=manager.redactor)
        async with RunnerBackend(settings) as backend:
            ref = Ref(id=found, backend=backend.name)
            plan = Plan(sandbox=found, mounts=())
            recorder = Recorder(backend, trail)
            try:
                yield Sandbox(Held(ref, recorder, make_private(settings.state / "scratch"), plan, manager))
            finally:
                trail.close()

    return opened
