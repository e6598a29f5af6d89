"""Replays: a trajectory recorded in one sandbox, carried out again in another, and what is found to differ."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from gloveport.model import Limits, Source, Spec
from gloveport.sandbox import Manager, Sandbox
from gloveport.store import read_trail
from gloveport.tools.claude import open_claude_tools
from gloveport.tools.standard import TOOLS, call_tool
from gloveport.trajectory import Outcome, Step, Trajectory, Turn, from_events
from gloveport.trajectory.replay import (
    NORMALISERS,
    Aspect,
    DivergenceKind,
    ReplayRequest,
    ReplayResult,
    Verdict,
    accept,
    recording,
    replay,
    replay_on_forks,
)

from ..conftest import PATIENCE  # noqa: TID252 - tests are no package of ours

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

Open = Callable[..., AbstractAsyncContextManager[Sandbox]]
BEHAVIOUR, CHANCE, AROUND = DivergenceKind.BEHAVIOUR, DivergenceKind.NONDETERMINISTIC, DivergenceKind.ENVIRONMENT


@pytest.fixture
def open_sandbox(manager: Manager, place: Path) -> Open:
    """Fresh sandboxes on given files."""
    count = iter(range(1000))

    @asynccontextmanager
    async def opened(files: Mapping[str, str] | None = None, **spec: Any) -> AsyncIterator[Sandbox]:
        source = place / f"source-{next(count)}"
        source.mkdir()
        for name, text in (files or {}).items():
            (source / name).write_text(text)
        with anyio.fail_after(PATIENCE):
            held = await manager.create(Spec(source=Source(repo=str(source)), **spec))
        yield Sandbox(held)
        await manager.delete(held.ref.id)

    return opened


async def record(
    open_sandbox: Open, *calls: tuple[str, dict[str, Any]], files: Mapping[str, str] | None = None
) -> Trajectory:
    async with open_sandbox(files) as sandbox, recording(sandbox) as live:
        for name, params in calls:
            await live.call(name, params)
        return live.trajectory


def shell(command: str) -> tuple[str, dict[str, Any]]:
    return "shell", {"command": command}


def bash(command: str) -> tuple[str, dict[str, Any]]:
    return "Bash", {"command": command}


def steps(*given: Step) -> Trajectory:
    return Trajectory(turns=(Turn(steps=given),))


def said(tool: str, params: Mapping[str, Any], text: str | None, **outcome: Any) -> Step:
    return Step(tool=tool, params=params, outcome=Outcome(text=text, **outcome))


async def again(
    open_sandbox: Open, trajectory: Trajectory, files: Mapping[str, str] | None = None, **request: Any
) -> ReplayResult:
    fresh = partial(open_sandbox, files)
    async with fresh() as sandbox:
        with anyio.fail_after(PATIENCE * 2):
            return await replay(ReplayRequest(trajectory=trajectory, again=fresh, **request), sandbox)


def found(result: ReplayResult) -> list[tuple[int, DivergenceKind]]:
    return [(one.step, one.kind) for one in result.divergences]


async def test_both_sets_of_tools_replay_with_what_they_remember(open_sandbox: Open) -> None:
    files = {"calc.py": "def add(a, b):\n    return a - b\n"}
    trajectory = await record(
        open_sandbox,
        ("Read", {"file_path": "calc.py"}),
        ("Edit", {"file_path": "calc.py", "old_string": "a - b", "new_string": "a + b"}),
        bash("mkdir sub && cd sub && date +%FT%T.%N"),
        ("Write", {"file_path": "new.txt", "content": "one\n"}),
        ("Glob", {"pattern": "**/*.txt"}),
        ("Grep", {"pattern": "return", "output_mode": "content"}),
        shell("cat sub/new.txt; python3 -c 'import calc; print(calc.add(2, 2))'"),
        ("file_write", {"path": "notes.txt", "content": "kept"}),
        ("file_read", {"path": "notes.txt"}),
        ("search", {"pattern": "kept"}),
        ("git", {"subcommand": "status"}),
        files=files,
    )
    result = await again(open_sandbox, trajectory, files)
    assert (result.success, result.divergence_step, result.completed_steps, result.total_steps) == (True, -1, 11, 11)
    assert {step.verdict for step in result.steps} == {Verdict.SAME}
    assert "times" in {one.name for one in result.normalised}


async def test_what_the_trail_of_a_sandbox_has_of_its_tool_calls_replays(manager: Manager, open_sandbox: Open) -> None:
    calls = [
        ("file_write", {"path": "a/b.txt", "content": "one\ntwo\n"}),
        ("file_read", {"path": "a/b.txt", "start_line": 2}),
        ("file_read", {"path": "none"}),
        ("search", {"pattern": "two"}),
        ("search", {"pattern": "three"}),
        ("git", {"subcommand": "status"}),
        ("shell", {"command": "echo out; echo err >&2; date > stamp.txt; exit 3"}),
        ("shell", {"command": "sleep 30", "timeout": 0.2}),
        ("Read", {"file_path": "a/b.txt"}),
        ("Edit", {"file_path": "a/b.txt", "old_string": "one", "new_string": "three"}),
        ("Edit", {"file_path": "a/b.txt", "old_string": "absent", "new_string": "x"}),
        ("Bash", {"command": "cd a && cat b.txt && kill -9 $$"}),
        ("Bash", {"command": "sleep 30", "timeout": 200}),
        ("Bash", {"command": "chmod +x b.txt; ls; false"}),
        ("Glob", {"pattern": "**/*.txt"}),
        ("Grep", {"pattern": "three", "output_mode": "count"}),
        ("Bash", {"command": "sleep 60", "run_in_background": True}),
    ]
    held = await manager.create(Spec())
    sandbox = Sandbox(held)
    async with open_claude_tools(sandbox) as claude:
        for name, params in calls:
            if name in TOOLS:
                await call_tool(sandbox, name, params)
            else:
                await claude.call(name, params)
    assert held.trail is not None
    trajectory = from_events(read_trail(held.trail.path))
    assert [step.tool for step in trajectory.steps] == [name for name, _ in calls]
    result = await again(open_sandbox, trajectory)
    assert result.success, [(one.step, one.tool, one.diff) for one in result.divergences]
    assert {step.verdict for step in result.steps} == {Verdict.SAME}


async def test_a_step_that_was_to_fail_and_fails_the_same_way_is_the_same(open_sandbox: Open) -> None:
    trajectory = await record(
        open_sandbox,
        shell("echo no >&2; exit 3"),
        bash("exit 4"),
        ("Read", {"file_path": "none"}),
        ("file_read", {"path": "none"}),
    )
    assert [step.outcome.status for step in trajectory.steps if step.outcome] == [3, 4, None, None]
    assert (await again(open_sandbox, trajectory)).success


async def test_it_goes_on_after_a_divergence_and_names_the_first(open_sandbox: Open) -> None:
    trajectory = steps(
        said("shell", {"command": "echo one"}, "one"),
        said("shell", {"command": "echo two"}, "TWO"),
        said("shell", {"command": "echo three"}, "three\n"),
        said("shell", {"command": "echo four"}, "FOUR", status=1),
    )
    result = await again(open_sandbox, trajectory)
    assert (result.success, result.divergence_step, result.completed_steps) == (False, 1, 4)
    assert found(result) == [(1, BEHAVIOUR), (3, BEHAVIOUR)]
    assert "-TWO\n+two\n" in result.divergences[0].diff
    assert [one.aspect for one in result.divergences[1].differences] == [Aspect.STATUS, Aspect.OUTPUT]


async def test_what_cannot_be_called_is_located_and_no_crash(open_sandbox: Open) -> None:
    trajectory = steps(
        said("WebFetch", {"url": "http://example.org"}, "a page"),
        said("Bash", {}, "ok"),
        said("shell", {"comand": "ls"}, "ok", status=0),
        replace(said("Write", {"file_path": "a"}, "ok"), cut=True),
        said("shell", {"command": "echo here"}, "here"),
        Step(tool="Bash", params={"command": "rm -rf /"}, refused="the policy"),
        said("Skill", {"skill": "coding"}, "loaded"),
        Step(tool="Bash", params={"command": "echo unheard"}),
    )
    result = await again(open_sandbox, trajectory)
    assert found(result) == [(0, AROUND), (1, AROUND), (2, BEHAVIOUR), (3, AROUND)]
    assert "no tool 'WebFetch'" in result.divergences[0].reason
    assert "without parameters" in result.divergences[1].reason
    assert "# error here: shell: an unexpected parameter `comand` was provided" in result.divergences[2].diff
    assert [step.verdict for step in result.steps[4:]] == [
        Verdict.SAME,
        Verdict.SKIPPED,
        Verdict.SKIPPED,
        Verdict.UNCOMPARED,
    ]
    assert result.completed_steps == 8


async def test_names_of_one_execution_are_carried_to_the_calls_that_name_them_again(open_sandbox: Open) -> None:
    async with open_sandbox() as sandbox, recording(sandbox) as live:
        made = await live.call(*shell("mktemp -d"))
        directory = (made.text or "").strip()
        await live.call(*shell(f"echo kept > {directory}/note"))
        await live.call("Read", {"file_path": f"{directory}/note"})
        trajectory = live.trajectory
    result = await again(open_sandbox, trajectory)
    assert result.success
    old, new = result.steps[1].carried[0]
    assert old in directory
    assert new != old


@pytest.mark.needs("git")
async def test_commits_of_the_run_are_known_by_other_ids_here(open_sandbox: Open) -> None:
    async with open_sandbox() as sandbox, recording(sandbox) as live:
        commit = "git -c user.name=t -c user.email=t@t commit -m first"
        made = await live.call(*bash(f"git init -q -b main && date +%FT%T.%N > a && git add a && {commit}"))
        name = (made.text or "").split("]")[0].split()[-1]
        await live.call(*bash("git log -1; git rev-parse HEAD; git status --short --branch"))
        await live.call(*bash(f"git show --format=%s {name} -- none"))
        trajectory = live.trajectory
    result = await again(open_sandbox, trajectory)
    assert result.success, result.divergences
    assert dict(result.steps[2].carried)[name] != name


async def test_what_is_around_a_command_is_told_from_what_it_does(open_sandbox: Open) -> None:
    trajectory = steps(
        said("shell", {"command": "frobnicate"}, "2.1", status=0),
        said("shell", {"command": "cat /opt/none/x"}, "x", status=0),
        said("shell", {"command": "cat ./none.txt"}, "x", status=0),
        said("shell", {"command": "touch /usr/x"}, "", status=0),
        said("shell", {"command": "sleep 30", "timeout": 0.3}, "", status=0),
        said("shell", {"command": "python3 -m no_such_module"}, "", status=0),
        said(
            "shell",
            {"command": "python3 -c 'import socket; socket.create_connection((\"192.0.2.1\", 80), 1)'"},
            "",
            status=0,
        ),
        said("git", {"subcommand": "push"}, "pushed", status=0),
    )
    result = await again(open_sandbox, trajectory)
    assert found(result) == [(number, BEHAVIOUR if number == 2 else AROUND) for number in range(8)]
    reasons = [one.reason for one in result.divergences]
    assert "program frobnicate" in reasons[0]
    assert "path /opt/none/x" in reasons[1]
    assert "permission /usr/x" in reasons[3]
    assert "limit time" in reasons[4]


async def test_chance_that_no_rule_knows_is_told_by_executing_it_again(open_sandbox: Open) -> None:
    trajectory = await record(open_sandbox, shell("echo steady"), shell("shuf -i 1-1000000000 -n 3"))
    result = await again(open_sandbox, trajectory)
    assert found(result) == [(1, CHANCE)]
    assert "twice" in result.divergences[0].reason


async def test_a_difference_that_another_normaliser_explains_is_chance(open_sandbox: Open) -> None:
    trajectory = await record(open_sandbox, shell("date +%s%N"))
    rules = tuple(rule for rule in NORMALISERS if rule.name != "times")
    async with open_sandbox() as sandbox:
        result = await replay(ReplayRequest(trajectory=trajectory, normalisers=rules), sandbox)
    assert found(result) == [(0, CHANCE)]
    assert "known to vary" in result.divergences[0].reason


async def test_what_a_step_leaves_is_compared_and_shown(open_sandbox: Open) -> None:
    before, after = (
        {"make.py": f'import datetime\nopen("out.txt", "w").write(f"{{datetime.datetime.now()}}\\n{word}\\n")\n'}
        for word in ("one", "two")
    )
    trajectory = await record(open_sandbox, shell("python3 make.py"), shell("chmod +x make.py"), files=before)
    assert (await again(open_sandbox, trajectory, before)).success
    result = await again(open_sandbox, trajectory, after)
    assert found(result)[0] == (0, BEHAVIOUR)
    assert "-one\n+two\n" in result.divergences[0].diff
    assert "<time>" in result.divergences[0].diff


async def test_a_file_that_holds_a_time_and_was_not_kept_is_no_change_of_behaviour(open_sandbox: Open) -> None:
    trajectory = await record(open_sandbox, shell("date +%FT%T.%N > stamp.txt"), shell("echo $RANDOM > other.txt"))
    forgotten = tuple(
        replace(turn, steps=tuple(replace(step, outcome=replace(step.outcome, contents={})) for step in turn.steps))
        for turn in trajectory.turns
    )
    result = await again(open_sandbox, replace(trajectory, turns=forgotten))
    assert found(result) == [(0, CHANCE), (1, CHANCE)]
    assert "known to vary" in result.divergences[0].reason
    assert "twice" in result.divergences[1].reason


async def test_steps_before_the_first_compared_one_are_carried_out_for_their_effect(open_sandbox: Open) -> None:
    trajectory = steps(
        said("shell", {"command": "echo made > a; echo x"}, "y"),
        said("shell", {"command": "cat a"}, "made"),
    )
    result = await again(open_sandbox, trajectory, compare_from=1)
    assert (result.success, result.steps[0].verdict) == (True, Verdict.UNCOMPARED)


async def test_a_step_that_used_the_network_is_not_compared_where_there_is_none_on_purpose(open_sandbox: Open) -> None:
    reached = ({"host": "example.org", "allowed": True},)
    trajectory = steps(
        said("shell", {"command": "curl -s http://example.org || echo unreachable"}, "a page", egress=reached),
        said("shell", {"command": "echo here"}, "here"),
    )
    result = await again(open_sandbox, trajectory, offline=True)
    assert (result.success, [step.verdict for step in result.steps]) == (True, [Verdict.UNCOMPARED, Verdict.SAME])
    assert (result.completed_steps, result.compared_steps) == (2, 1)
    assert "step 0 is not compared" in result.notes[0]
    assert not (await again(open_sandbox, trajectory)).success


async def test_a_sandbox_that_ends_in_the_middle_leaves_the_rest_missing(open_sandbox: Open) -> None:
    trajectory = steps(*(said("shell", {"command": f"echo {number}"}, str(number)) for number in range(3)))
    async with open_sandbox() as sandbox:
        await sandbox._held.backend.delete(sandbox.ref)
        result = await replay(ReplayRequest(trajectory=trajectory), sandbox)
    assert (result.success, result.completed_steps, result.divergence_step) == (False, 0, 0)
    assert found(result) == [(0, AROUND)]
    assert {step.verdict for step in result.steps} == {Verdict.MISSING}


async def test_a_limit_that_is_smaller_here_is_something_around_it(open_sandbox: Open) -> None:
    trajectory = await record(open_sandbox, shell("head -c 20M /dev/zero | tr '\\0' x > big && echo done"))
    async with open_sandbox(limits=Limits(disk_bytes=4 * 2**20)) as sandbox:
        result = await replay(ReplayRequest(trajectory=trajectory), sandbox)
    assert found(result) == [(0, AROUND)], result.divergences


async def test_what_came_instead_can_be_accepted(open_sandbox: Open) -> None:
    trajectory = steps(
        said("shell", {"command": "echo one"}, "one"), said("shell", {"command": "echo two; exit 2"}, "TWO", status=0)
    )
    accepted = accept(trajectory, await again(open_sandbox, trajectory))
    assert accepted.steps[0] == trajectory.steps[0]
    assert (accepted.steps[1].outcome or Outcome()).status == 2
    assert (await again(open_sandbox, accepted)).success


async def test_a_recording_of_another_place_is_replayed_at_ours(open_sandbox: Open) -> None:
    trajectory = Trajectory(
        turns=(Turn(steps=(said("shell", {"command": "cat /testbed/a.txt; pwd"}, "one\n/testbed\n"),)),),
        metadata={"workspace": "/testbed"},
    )
    assert (await again(open_sandbox, trajectory, {"a.txt": "one\n"})).success


async def test_replays_run_side_by_side_on_forks_of_one_state(open_sandbox: Open) -> None:
    trajectory = steps(
        said("shell", {"command": "cat a.txt b.txt; echo more >> a.txt"}, "one\ntwo\n"),
        said("shell", {"command": "cat a.txt"}, "one\nmore\n"),
    )
    async with open_sandbox({"a.txt": "one\n"}) as sandbox:
        await sandbox.files.write("b.txt", b"two\n")
        with anyio.fail_after(PATIENCE * 2):
            results = await replay_on_forks(ReplayRequest(trajectory=trajectory), sandbox, 3)
        assert [result.success for result in results] == [True] * 3
        assert await sandbox.files.read("a.txt") == b"one\n"


async def test_the_result_is_json(open_sandbox: Open) -> None:
    result = await again(open_sandbox, steps(said("shell", {"command": "echo one"}, "two")))
    document = json.loads(json.dumps(result.to_json()))
    assert [document[key] for key in ("success", "divergence_step", "total_steps", "completed_steps")] == [
        False,
        0,
        1,
        1,
    ]
    assert document["divergences"][0]["kind"] == "behaviour"
    assert [(one["step"], one["tool_name"], one["exit_code"], one["diverged"]) for one in result.details] == [
        (0, "shell", 0, True)
    ]
    assert document["divergences"][0]["diff"].startswith("--- recorded step 0 output")
