"""`gloveport replay`: carry out the tool calls of a run, or of a trajectory file, again, and compare."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import anyio
import typer

from gloveport.agents.model_tape import Tape
from gloveport.agents.skillset import SKILLS_HOME, install_skills, shipped_skills
from gloveport.cli.interruption import ended_by
from gloveport.cli.options import JsonOption
from gloveport.cli.output import note, plain, print_json, print_table
from gloveport.client import connect
from gloveport.client.backend import RunnerBackend
from gloveport.compose_replay import session_replay
from gloveport.errors import InvalidRequest, NotFound
from gloveport.jobs import RunDirectory, find_run, run_tests, verify_run
from gloveport.model import Plan, Ref, RunSummary, Snapshot, Source, Spec, new_id
from gloveport.sandbox import Held, Manager, Recorder, Sandbox
from gloveport.sandbox.snapshots import stand_on
from gloveport.settings import Settings
from gloveport.store import Trail, make_private, read_trail, verify_trail, whole_file
from gloveport.trajectory import Trajectory, from_events
from gloveport.trajectory.formats.registry import read_trajectory, write_trajectory
from gloveport.trajectory.replay import (
    NORMALISERS,
    Normaliser,
    OpenSandbox,
    ReplayRequest,
    ReplayResult,
    accept,
    replay,
    replay_on_forks,
)
from gloveport.trajectory.replay.base import FIXED, RecordedBase, fresh_plan, recorded_base
from gloveport.trajectory.replay.engine import PlayIn
from gloveport.trajectory.replay.facts import Facts
from gloveport.trajectory.replay.regrade import Recorded, regrade

__all__ = ["command"]

_DIVERGED = 1
_MOST_TIMES = 64
_ACCEPTED_FORMAT = "knowlyr"
_DIGEST = "sha256:"
_LEVELS = ("R1", "R2", "R3")


def command(
    what: Annotated[
        str | None, typer.Argument(metavar="RUN|FILE", help="A run (`last` is the newest), or a trajectory file.")
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="R1: judge what the run left. R2: its tool calls again. R3: its agent again.",
        ),
    ] = "R2",
    start: Annotated[
        int, typer.Option("--from", metavar="K", help="Compare from step K on; those before are only carried out.")
    ] = 0,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="ID|SNAPSHOT", help="In this sandbox as it is, or in a fresh one of this snapshot."
        ),
    ] = None,
    repo: Annotated[
        str | None, typer.Option(metavar="PATH|URL", help="For a file: what it worked on. [default: what it says]")
    ] = None,
    commit: Annotated[str | None, typer.Option(metavar="SHA", help="A commit, tag or branch of it.")] = None,
    times: Annotated[int, typer.Option(metavar="N", help="So often, side by side, on forks of one state.")] = 1,
    network: Annotated[
        bool, typer.Option("--network", help="Let out what the run's policy lets out. [default: nothing]")
    ] = False,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Fix seeds, locale and time zone of the guest's programs.")
    ] = False,
    without: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Leave out this normaliser. Repeatable.")
    ] = None,
    update: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the trajectory with what came of it now.")
    ] = None,
    list_normalisers: Annotated[
        bool, typer.Option("--normalisers", help="Print what is taken for varying by itself, and why.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Replay tool calls in a fresh sandbox and compare exit status, output and changes of files, step by step.

    Exits with 1 when a step came out another way.
    """
    if list_normalisers:
        _print_normalisers(as_json=as_json)
        return 0
    if what is None:
        raise InvalidRequest("nothing to replay", hint="name a run, or a trajectory file: gloveport replay last")
    if not 1 <= times <= _MOST_TIMES:
        raise InvalidRequest(f"--times {times}", hint=f"1 to {_MOST_TIMES}")
    level = level.upper()
    _check_level(level, start=start, on=on, update=update)
    settings = Settings.load()
    asked = _Asked(
        start=start,
        on=on,
        source=None if repo is None else Source(repo=repo, commit=commit),
        times=times,
        network=network,
        env=dict(FIXED) if fixed else {},
        rules=_rules(without or []),
    )
    subject = _subject(settings, what)
    if not 0 <= start <= len(subject.trajectory.steps):
        raise InvalidRequest(f"no step {start}", hint=f"it has {len(subject.trajectory.steps)}, counted from 0")
    results = anyio.run(_replay, settings, subject, asked, level)
    if update is not None:
        with whole_file(update) as file:
            file.write(write_trajectory(accept(subject.trajectory, results[0]), _ACCEPTED_FORMAT))
    if as_json:
        print_json(results[0].to_json() if times == 1 else {"replays": [result.to_json() for result in results]})
    else:
        for result in results:
            _print_result(result)
    return 0 if all(result.success for result in results) else _DIVERGED


def _check_level(level: str, *, start: int, on: str | None, update: Path | None) -> None:
    if level not in _LEVELS:
        raise InvalidRequest(f"no level {level!r}", hint=f"one of: {', '.join(_LEVELS)}")
    if update is not None and level != "R2":
        raise InvalidRequest(f"nothing is accepted at {level}", hint="leave out --update, or --level")
    if level == "R3" and (start or on is not None):
        raise InvalidRequest("at R3 the agent begins at its beginning", hint="leave out --from and --on, or --level")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    start: int
    on: str | None
    source: Source | None
    times: int
    network: bool
    env: dict[str, str]
    rules: tuple[Normaliser, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is replayed."""

    trajectory: Trajectory
    run: RunDirectory | None = None
    summary: RunSummary | None = None
    base: RecordedBase | None = None


def _subject(settings: Settings, name: str) -> _Subject:
    path = Path(name)
    if path.is_file():
        return _Subject(trajectory=read_trajectory(path))
    try:
        run = find_run(settings.data, name)
    except NotFound as error:
        raise NotFound(error.message, hint="name a run (gloveport runs), or a file that exists", id=name) from error
    summary = run.summary()
    verify_trail(run.trajectory)
    trajectory = from_events(read_trail(run.trajectory), partial=True)
    facts = {**trajectory.metadata, "run": run.id, "sandbox": summary.sandbox, "started_at": _time(summary.started_at)}
    source = Source(repo=summary.repo, commit=summary.commit)
    base = recorded_base(
        read_trail(run.trajectory), sandbox=summary.sandbox, source=source, started_at=summary.started_at
    )
    return _Subject(trajectory=replace(trajectory, metadata=facts), run=run, summary=summary, base=base)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _rules(without: list[str]) -> tuple[Normaliser, ...]:
    known = {rule.name for rule in NORMALISERS}
    for name in without:
        if name not in known:
            raise InvalidRequest(f"no normaliser {name!r}", hint=f"one of: {', '.join(sorted(known))}")
    return tuple(rule for rule in NORMALISERS if rule.name not in without)


async def _replay(settings: Settings, subject: _Subject, asked: _Asked, level: str) -> list[ReplayResult]:
    async with ended_by(signal.SIGTERM), AsyncExitStack() as stack:
        manager = await stack.enter_async_context(Manager(settings, ask_seconds=0))
        if level == "R1":
            return [await _regrade(manager, subject, asked)]
        play = _way(manager, subject, level)
        snapshot = _snapshot(manager, subject.trajectory, asked)
        is_live = asked.on is not None and snapshot is None
        open_fresh, notes = await _opener(manager, subject, asked, snapshot)
        request = ReplayRequest(
            trajectory=subject.trajectory,
            compare_from=asked.start,
            begin_at=asked.start if snapshot is not None and asked.on is None else 0,
            normalisers=asked.rules,
            again=None if is_live else open_fresh,
            redactor=manager.redactor,
            offline=not asked.network and not is_live,
            notes=tuple(notes),
        )
        sandbox = await stack.enter_async_context(open_fresh())
        if asked.times > 1:
            return await replay_on_forks(request, sandbox, asked.times, play)
        return [await play(request, sandbox)]
    raise KeyboardInterrupt


def _way(manager: Manager, subject: _Subject, level: str) -> PlayIn:
    if level == "R2":
        return replay
    if subject.run is None:
        raise InvalidRequest("only a run has a recording of the model's traffic", hint="a file replays at --level R2")
    verify_run(subject.run)
    return session_replay(Tape.read(subject.run.tape), manager)


def _snapshot(manager: Manager, trajectory: Trajectory, asked: _Asked) -> Snapshot | None:
    """The snapshot to begin with: the one that is named, or the one that was taken before the first compared step."""
    if asked.on is not None:
        return manager.snapshots.get(asked.on) if asked.on.startswith(_DIGEST) else None
    taken = trajectory.steps[asked.start].snapshot if asked.start < len(trajectory.steps) else ""
    try:
        return manager.snapshots.get(taken) if taken and asked.start else None
    except NotFound:
        return None


async def _opener(
    manager: Manager, subject: _Subject, asked: _Asked, snapshot: Snapshot | None
) -> tuple[OpenSandbox, list[str]]:
    """What opens the sandbox to replay in, as often as one is needed, and what cannot be guaranteed about it."""
    if asked.on is not None and snapshot is None:
        if asked.times > 1:
            raise InvalidRequest("a sandbox of the runner replays once", hint="leave out --times, or --on")
        return _on(manager, asked.on), ["the sandbox was taken as it was: it may not be in the recorded first state"]
    if subject.base is not None and asked.source is None:
        plan, notes = await fresh_plan(subject.base, manager, network=asked.network, env=asked.env)
        if snapshot is not None:
            plan, notes = stand_on(plan, snapshot, manager.snapshots), [f"it begins with snapshot {snapshot.id}"]
        skills = SKILLS_HOME in json.dumps([dict(step.params) for step in subject.trajectory.steps], default=str)
        return _applied(manager, plan, with_skills=skills and snapshot is None), notes
    if snapshot is not None:
        return _created(manager, Spec(snapshot=snapshot.id, env=asked.env)), [f"it begins with snapshot {snapshot.id}"]
    spec, notes = _spec(subject.trajectory, asked)
    return _created(manager, spec), notes


def _spec(trajectory: Trajectory, asked: _Asked) -> tuple[Spec, list[str]]:
    """For a trajectory that does not say how its sandbox was made."""
    notes = ["the file does not say what the sandbox was like: it is one without policy, tools and network"]
    source = asked.source
    if source is None and isinstance(repo := trajectory.metadata.get("repo"), str) and repo:
        commit = trajectory.metadata.get("commit")
        source = Source(repo=repo, commit=commit if isinstance(commit, str) and commit else None)
        notes.append(f"it works on {repo}, which the file names")
    if source is None:
        notes.append("the file does not say what it worked on: the workspace is empty (name it with --repo)")
    elif source.commit is None:
        notes.append(f"{source.repo} is taken as it is: name a commit for an exact state")
    return Spec(source=source, env=asked.env), notes


def _created(manager: Manager, spec: Spec) -> OpenSandbox:
    return _opened(manager, lambda: manager.create(spec))


def _applied(manager: Manager, plan: Plan, *, with_skills: bool) -> OpenSandbox:
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


async def _regrade(manager: Manager, subject: _Subject, asked: _Asked) -> ReplayResult:
    if subject.run is None or subject.summary is None or subject.base is None:
        raise InvalidRequest("only a run can be judged again", hint="name a run; a file replays at --level R2")
    plan, notes = await fresh_plan(subject.base, manager, network=asked.network, env=asked.env)
    printed = subject.run.test_log.read_text("utf-8", "replace") if subject.run.test_log.is_file() else ""
    recorded = Recorded(
        patch=subject.run.patch.read_bytes() if subject.run.patch.is_file() else b"",
        test=subject.summary.test,
        status=subject.summary.test_status,
        printed=printed,
        facts=Facts(
            command=subject.summary.test or "",
            now=datetime.fromtimestamp(subject.summary.started_at, UTC),
            names=((subject.summary.sandbox, "<sandbox>"),),
        ),
    )
    async with _applied(manager, plan, with_skills=False)() as sandbox:
        return await regrade(recorded, sandbox, _grade, tuple(notes))


async def _grade(sandbox: Sandbox, test: str) -> tuple[int, bytes]:
    result = (await run_tests(sandbox, test)).result
    return result.exit.status, result.stdout + result.stderr


def _print_normalisers(*, as_json: bool) -> None:
    columns = ("name", "replaces", "by", "why", "keeps")
    rows = [{column: getattr(rule, column) for column in columns} for rule in NORMALISERS]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['name']}\n  replaces  {row['replaces']}\n  by        {row['by']}\n  because   {row['why']}")
        if row["keeps"]:
            typer.echo(f"  keeps     {row['keeps']}")


def _print_result(result: ReplayResult) -> None:
    for one in result.divergences:
        typer.echo(f"step {one.step} ({plain(one.tool)}): {one.kind}: {plain(one.reason)}")
        typer.echo("".join(f"    {line}\n" for line in plain(one.diff).splitlines()), nl=False)
    outcome = "no divergence" if result.success else f"{len(result.divergences)} diverged"
    steps = f"{result.completed_steps} of {result.total_steps} steps"
    if result.compared_steps != result.total_steps:
        steps += f", {result.compared_steps} compared,"
    typer.echo(f"{steps} in {result.duration:.1f} s: {outcome}")
    if result.normalised:
        rows = []
        for applied in result.normalised:
            before, after = applied.examples[0]
            rows.append((applied.name, str(applied.count), f"{before!r} -> {after!r}"))
        print_table(("NORMALISED", "TIMES", "SUCH AS"), rows)
    for remark in result.notes:
        note(remark)
