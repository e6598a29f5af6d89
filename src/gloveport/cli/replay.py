"""`gloveport replay`: carry out the tool calls of a run, or of a trajectory file, again, and compare."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from gloveport import compose_replay
from gloveport.agents.model_tape import Tape
from gloveport.cli.following import follow
from gloveport.cli.interruption import ended_by
from gloveport.cli.options import JsonOption
from gloveport.cli.output import note, plain, print_json, print_table
from gloveport.compose_replay.places import ReplayAsked, ReplaySubject, applied, opener, snapshot_before
from gloveport.egress import TapeOfEgress
from gloveport.errors import InvalidRequest, NotFound
from gloveport.jobs import RunDirectory, find_run, run_tests, verify_run
from gloveport.model import Source
from gloveport.sandbox import Manager, Sandbox
from gloveport.sandbox.egress import MakeGate, make_gate, playing
from gloveport.settings import Settings
from gloveport.store import read_trail, verify_trail, whole_file
from gloveport.trajectory import Trajectory, from_events
from gloveport.trajectory.formats.registry import read_trajectory, write_trajectory
from gloveport.trajectory.replay import (
    NORMALISERS,
    Normaliser,
    ReplayRequest,
    ReplayResult,
    accept,
    replay,
    replay_on_forks,
)
from gloveport.trajectory.replay.base import FIXED, fresh_plan, recorded_base
from gloveport.trajectory.replay.engine import PlayIn
from gloveport.trajectory.replay.facts import Facts
from gloveport.trajectory.replay.regrade import Recorded, regrade

__all__ = ["command"]

_DIVERGED = 1
_MOST_TIMES = 64
_ACCEPTED_FORMAT = "knowlyr"
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
    fork: Annotated[
        int | None, typer.Option(metavar="K", help="A new run: steps before K from the record, then the model itself.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="With --fork: the model asked from there.")] = None,
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
    if commit is not None and repo is None:
        raise InvalidRequest("a commit of nothing", hint="name its repository with --repo")
    if model is not None and fork is None:
        raise InvalidRequest("a replay asks no model", hint="leave out --model, or name a step with --fork")
    settings = Settings.load()
    if fork is not None:
        others = (start, on, repo, update, without, times != 1, network, fixed, level != "R2")
        if any(others):
            raise InvalidRequest(
                "a fork is a run of its own: it takes --model and --json", hint="leave out the other options"
            )
        return _fork(settings, _subject(settings, what), fork, model, as_json=as_json)
    level = level.upper()
    _check_level(level, start=start, on=on, update=update)
    asked = ReplayAsked(
        start=start,
        on=on,
        source=None if repo is None else Source(repo=repo, commit=commit),
        times=times,
        network=network,
        env=dict(FIXED) if fixed else {},
        rules=_rules(without or []),
    )
    subject = _subject(settings, what)
    _check_step(start, subject.trajectory)
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
    if level != "R2" and (start or on is not None):
        raise InvalidRequest(f"at {level} it begins at its beginning", hint="leave out --from and --on, or --level")


def _subject(settings: Settings, name: str) -> ReplaySubject:
    path = Path(name)
    if path.is_file():
        return ReplaySubject(trajectory=read_trajectory(path))
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
    return ReplaySubject(
        trajectory=replace(trajectory, metadata=facts), run=run, summary=summary, base=base, fetched=_fetched(run)
    )


def _fetched(run: RunDirectory) -> TapeOfEgress | None:
    """What it fetched, if it is still what was recorded."""
    if not run.fetched.is_file():
        return None
    try:
        verify_run(run)
    except InvalidRequest as error:
        note(f"what the run fetched is not served again: {error.message}")
        return None
    return TapeOfEgress.read(run.fetched)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _rules(without: list[str]) -> tuple[Normaliser, ...]:
    known = {rule.name for rule in NORMALISERS}
    for name in without:
        if name not in known:
            raise InvalidRequest(f"no normaliser {name!r}", hint=f"one of: {', '.join(sorted(known))}")
    return tuple(rule for rule in NORMALISERS if rule.name not in without)


async def _replay(settings: Settings, subject: ReplaySubject, asked: ReplayAsked, level: str) -> list[ReplayResult]:
    async with ended_by(signal.SIGTERM), AsyncExitStack() as stack:
        manager = await stack.enter_async_context(Manager(settings, ask_seconds=0, make_gate=_gates(subject, asked)))
        if level == "R1":
            return [await _regrade(manager, subject, asked)]
        play = _way(manager, subject, level)
        snapshot = snapshot_before(manager, subject.trajectory, asked)
        is_live = asked.on is not None and snapshot is None
        open_fresh, notes = await opener(manager, subject, asked, snapshot)
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


def _fork(settings: Settings, subject: ReplaySubject, step: int, model: str | None, *, as_json: bool) -> int:
    if subject.run is None or subject.summary is None or subject.base is None:
        raise InvalidRequest("only a run can be forked", hint="name a run: gloveport runs")
    _check_step(step, subject.trajectory)
    verify_run(subject.run)
    point = compose_replay.ForkPoint(
        summary=subject.summary,
        trajectory=subject.trajectory,
        base=subject.base,
        tape=Tape.read(subject.run.tape),
        step=step,
        model=model,
    )

    return follow(partial(compose_replay.fork_run, point, settings), settings, as_json=as_json)


def _check_step(step: int, trajectory: Trajectory) -> None:
    if not 0 <= step <= len(trajectory.steps):
        raise InvalidRequest(f"no step {step}", hint=f"it has {len(trajectory.steps)}, counted from 0")


def _gates(subject: ReplaySubject, asked: ReplayAsked) -> MakeGate:
    """Behind a replay's way out is what the run fetched, unless it is to be let out."""
    return playing(subject.fetched) if subject.fetched is not None and not asked.network else make_gate


def _way(manager: Manager, subject: ReplaySubject, level: str) -> PlayIn:
    if level == "R2":
        return replay
    if subject.run is None:
        raise InvalidRequest("only a run has a recording of the model's traffic", hint="a file replays at --level R2")
    verify_run(subject.run)
    return compose_replay.session_replay(Tape.read(subject.run.tape), manager)


async def _regrade(manager: Manager, subject: ReplaySubject, asked: ReplayAsked) -> ReplayResult:
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
    async with applied(manager, plan, with_skills=False)() as sandbox:
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
