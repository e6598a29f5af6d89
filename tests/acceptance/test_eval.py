"""`gloveport eval` with the real agent kit and sandboxes: scripts play the model, everything else is real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gloveport.cli.main import main
from gloveport.compose_evaluation import Attempts, Watch, attempts, carry_on, replay_request, request_for
from gloveport.evaluate import (
    Attempt,
    Book,
    Cause,
    Request,
    Result,
    Verdict,
    evaluate,
    load_suite,
    open_book,
)
from gloveport.evaluate.compare import Change, compare
from gloveport.evaluate.judge import Question, judge
from gloveport.evaluate.prepare import prepare
from gloveport.evaluate.suite import SuiteTask
from gloveport.model import AnswerKind, Event, EventKind, Spec
from gloveport.sandbox import Manager
from gloveport.settings import Settings
from gloveport.store import verify_trail

from ..conftest import PATIENCE, Cli  # noqa: TID252 - tests are no package of ours
from .conftest import in_thread

pytestmark = [pytest.mark.anyio, pytest.mark.needs("agent", "git")]

SHIPPED = Path(__file__).resolve().parents[2] / "examples" / "suite"
HEAD = 'prompt = "Make made.txt"\ncheck = "{check}"\n[repository]\npath = "repository"\n[hidden]\npath = "hidden"\n'
CALL = 'calls = [{{ tool = "Bash", input = {{ command = "{command}", description = "Work" }} }}]\n'
SLEEP = "sleep 76543"


def script(command: str, expect: str, name: str = "one") -> str:
    turns = f"[[scripts.{name}.turns]]\n"
    return f'[scripts.{name}]\nexpect = "{expect}"\n{turns}{CALL.format(command=command)}{turns}say = "Done."\n'


@pytest.fixture
def suite(place: Path) -> Callable[[Mapping[str, str]], Path]:
    """A suite of tasks on small repositories of its own; each hides a file that no agent may see."""

    def make(tasks: Mapping[str, str]) -> Path:
        for name, text in tasks.items():
            for directory, file in (("repository", "README"), ("hidden", "hidden-from-agents")):
                (place / "suite" / name / directory).mkdir(parents=True)
                (place / "suite" / name / directory / file).write_text(name)
            (place / "suite" / name / "task.toml").write_text(text)
        return place / "suite"

    return make


async def attempted(
    manager: Manager, suite: Path, place: Path, watch: Watch, *read_only: Path
) -> tuple[Book, list[Result]]:
    """All scripts of a suite, once."""
    loaded = load_suite(suite)
    book = open_book(place, request_for(loaded, scripted=True, read_only=[str(path) for path in read_only]))
    carry_out = Attempts(manager, book.request(), watch).carry_out
    with anyio.fail_after(4 * PATIENCE):
        results = await evaluate(book, loaded, carry_out, cache=manager.settings.data / "repositories" / "suites")
    assert not manager.held
    return book, results


@pytest.mark.needs("index")
async def test_the_shipped_suite_judges_right_and_wrong_agents_right(cli: Cli, settings: Settings) -> None:
    """Tasks of real releases: the right fix passes the later release's tests, and what was there before does not."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "CLAUDE"))}
    command = replace(cli, env=environment)
    done = await anyio.to_thread.run_sync(
        lambda: command("eval", str(SHIPPED), "--self-test", "--at-a-time", "3", "--json", patience=600)
    )
    assert done.returncode == 0, done.stderr.decode()
    *lines, last = [json.loads(line) for line in done.stdout.splitlines()]
    ended = {f"{each['task']}/{each['script']}": each["cause"] or each["verdict"] for each in lines}
    expected = {
        f"{task.name}/{name}": each.expect
        for task in load_suite(SHIPPED).tasks
        for name, each in task.document.scripts.items()
    }
    assert ended == expected
    assert len({each["task"] for each in lines if each["verdict"] == "solved"}) >= 8
    assert {"wrong", "gave_up", "looped", "turns", "budget", "model"} <= set(ended.values())
    rows = {row["case"]: row for row in last["rows"]}
    right, refused = rows["semantic-version-wildcard/right"], rows["xmltodict-whitespace/no-model"]
    assert (right["solved"], right["judged"], right["tool_calls"], right["turns"]) == (1, 1, 3, 3)
    assert right["cost"] > 0
    assert right["tokens"] > 0
    assert (refused["judged"], refused["rate"], refused["infrastructure"]) == (0, None, {"model": 1})
    assert last["total"]["attempts"] == len(expected)
    for each in lines:
        assert each["limits"]["turns"] > 0
        assert each["limits"]["memory_bytes"] == 2**30
    assert b"<svg" in Path(last["report"]).read_bytes()
    async with Manager(settings) as manager:
        untouched = {task.name: await judge_untouched(task, manager) for task in load_suite(SHIPPED).tasks}
    assert set(untouched.values()) == {1}, untouched


async def judge_untouched(task: SuiteTask, manager: Manager) -> int | None:
    """The status of a task's check where nobody has changed anything."""
    prepared = await prepare(task, cache=manager.settings.data / "repositories" / "suites")
    question = Question(
        spec=Spec(source=prepared.source, limits=task.limits),
        patch=b"",
        hidden=prepared.hidden,
        keep=(),
        check=task.document.check,
        seconds=task.document.limits.check_seconds,
    )
    return (await judge(question, manager)).status


class Killer(Watch):
    """Kills the sandbox of whoever sleeps."""

    def __init__(self) -> None:
        self.sleeps = anyio.Event()

    def event(self, attempt: Attempt, event: Event) -> None:
        if event.kind is EventKind.EXEC_STARTED and SLEEP in str(event.data.get("shown_as")):
            self.sleeps.set()

    async def kill(self) -> None:
        await self.sleeps.wait()
        while not (ancestors := [pid for sleeper in processes(SLEEP) for pid in ancestors_of(sleeper)]):
            await anyio.lowlevel.checkpoint()
        guest = next(pid for pid in ancestors if name_of(pid) == "guestd")
        os.kill(guest, signal.SIGKILL)


def processes(words: str) -> Iterator[int]:
    """Those of this host whose whole command line this is."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if place.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode().strip() == words:
                yield int(place.name)


def ancestors_of(pid: int) -> Iterator[int]:
    while pid > 1:
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            pid = int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))
            yield pid
            continue
        return


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


async def test_a_sandbox_that_is_killed_in_the_middle_is_no_failure_of_the_agent(
    manager: Manager, suite: Callable[[Mapping[str, str]], Path], place: Path
) -> None:
    head = HEAD.format(check="test -f made.txt")
    tasks = {
        "killed": head + script(f"touch made.txt; {SLEEP}; true", "sandbox"),
        "left-alone": head + script("touch made.txt", "solved"),
    }
    killer = Killer()
    async with anyio.create_task_group() as group:
        group.start_soon(killer.kill)
        _, (killed, other) = await attempted(manager, suite(tasks), place / "book", killer)
    assert (killed.verdict, killed.cause) == (Verdict.INFRASTRUCTURE, Cause.SANDBOX)
    assert (killed.turns, killed.tool_calls) == (1, 1)
    assert killed.cost > 0, "what it cost until then"
    assert killed.as_expected
    assert other.verdict is Verdict.SOLVED


async def test_an_agent_sees_nothing_of_what_is_hidden_and_the_judge_does(
    manager: Manager,
    suite: Callable[[Mapping[str, str]], Path],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = "find / -name 'hidden-from*' 2>/dev/null > found; mount | grep hidden >> found; wc -c < found > made.txt"
    check = "test -f hidden-from-agents && grep -qx 0 made.txt"
    tasks = {"looks": HEAD.format(check=check) + script(look, "solved")}
    path = suite(tasks)
    _, (result,) = await attempted(manager, path, place / "book", Watch())
    assert result.verdict is Verdict.SOLVED, result
    assert result.changed == ("found", "made.txt")
    run = manager.settings.data / "runs" / result.run
    assert verify_trail(run / "trajectory.jsonl", ends=[EventKind.RUN_ENDED]) > 0
    shown = path / "looks" / "hidden"
    _, (refused,) = await attempted(manager, path, place / "refused", Watch(), shown)
    assert refused.cause is Cause.SETUP
    assert "the agent would see" in refused.message
    monkeypatch.setattr(attempts, "check_hidden", lambda plan, hidden: None)
    _, (unguarded,) = await attempted(manager, path, place / "unguarded", Watch(), shown)
    assert unguarded.cause is Cause.WRONG, "without the guard the agent finds it"


class Person(Watch):
    """Answers the first question, and no other."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.answered = 0

    def event(self, attempt: Attempt, event: Event) -> None:
        if event.kind is EventKind.APPROVAL_ASKED:
            kind = AnswerKind.DENY if self.answered else AnswerKind.ONCE
            self.answered += 1
            loop = asyncio.get_running_loop()
            loop.call_soon(self.manager.approvals.answer, event.data["approval"], kind, "a person")


async def test_what_people_were_asked_is_counted(
    manager: Manager, suite: Callable[[Mapping[str, str]], Path], place: Path
) -> None:
    head = 'policy = ["policy.toml"]\n' + HEAD.format(check="test -f made.txt && test ! -e other")
    again = f"[[scripts.one.turns]]\n{CALL.format(command='touch other')}"
    one, done = script("touch made.txt", "solved").rsplit("[[", 1)
    path = suite({"asks": f"{head}{one}{again}[[{done}"})
    (path / "asks" / "policy.toml").write_text('[exec]\nask = ["touch **"]\n')
    _, (result,) = await attempted(manager, path, place / "book", Person(manager))
    assert (result.asked, result.answered, result.tool_calls) == (2, 2, 2)
    assert result.verdict is Verdict.SOLVED, "the judge asks nobody"


async def test_recorded_attempts_are_replayed_without_a_model_and_what_diverges_is_named(
    manager: Manager, suite: Callable[[Mapping[str, str]], Path], place: Path
) -> None:
    head = HEAD.format(check="test -f made.txt")
    tasks = {
        "same": head + script("touch made.txt; echo made", "solved"),
        "varies": head + script("touch made.txt; od -An -N9 -tx1 /dev/urandom", "solved"),
    }
    recorded, (same, varies) = await attempted(manager, suite(tasks), place / "recorded", Watch())
    assert (same.verdict, varies.verdict) == (Verdict.SOLVED, Verdict.SOLVED)
    settings = replace(manager.settings, state=place / "state-of-replays")
    results = await carry_on(open_book(place / "replayed", replay_request(recorded)), settings)
    again, diverged = results
    assert (again.verdict, again.run, again.tool_calls) == (Verdict.SOLVED, same.run, 1)
    assert (again.turns, again.cost, again.check_status) == (0, 0, 0)
    assert (diverged.cause, diverged.check_status) == (Cause.DIVERGED, None)
    assert diverged.message.startswith("step 0 (Bash) diverged: ")
    results = await carry_on(open_book(place / "whole", replay_request(recorded, "R3")), settings)
    again, diverged = results
    assert (again.verdict, again.tool_calls, again.check_status) == (Verdict.SOLVED, 1, 0)
    assert (diverged.cause, diverged.check_status) == (Cause.DIVERGED, None)


async def test_an_evaluation_that_is_killed_goes_on_to_the_same_table(
    cli: Cli, suite: Callable[[Mapping[str, str]], Path], place: Path
) -> None:
    head = HEAD.format(check="test -f made.txt")
    path = suite(
        {
            "a": head + script("touch made.txt", "solved"),
            "b": head + script("touch other.txt", "wrong"),
        }
    )
    words = ("eval", str(path), "--self-test", "--at-a-time", "1", "--json")
    killed = cli.start(*words, "--output", str(place / "killed"))

    def until_one_has_ended() -> bytes:
        return bytes(killed.stdout.readline())

    with anyio.fail_after(2 * PATIENCE):
        first = json.loads(await anyio.to_thread.run_sync(until_one_has_ended, abandon_on_cancel=True))
        killed.kill()
        await anyio.to_thread.run_sync(killed.communicate, abandon_on_cancel=True)
    assert (first["task"], killed.returncode) == ("a", -signal.SIGKILL)
    file = place / "killed" / "attempts" / "a" / "one" / "1.json"
    kept = file.read_bytes()
    resumed = await in_thread(cli.ok, "eval", "resume", str(place / "killed"), "--at-a-time", "1", "--json")
    assert file.read_bytes() == kept
    assert [json.loads(line).get("task") for line in resumed.splitlines()] == ["b", None]
    whole = await in_thread(cli.ok, *words, "--output", str(place / "whole"))
    assert table(resumed) == table(whole)
    assert compare(Book(place / "whole"), Book(place / "killed")).count(Change.SAME) == 2


def table(said: str) -> Any:
    """All that a table has but for the time, which no two attempts take alike."""
    found = json.loads(said.splitlines()[-1])
    for row in (*found["rows"], found["total"]):
        assert row.pop("seconds") > 0
    return found["rows"], found["total"]


Said = tuple[int, str, str]


@pytest.fixture
def said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """The command line in this process, where no attempt is made: status, stdout, stderr."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GLOVEPORT_STATE", str(settings.state))
    monkeypatch.setenv("GLOVEPORT_DATA", str(settings.data))

    def say(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["gloveport", "eval", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return (int(caught.value.code or 0), *capsys.readouterr())

    return say


def test_a_comparison_exits_by_what_it_finds(said: Callable[..., Said], settings: Settings, place: Path) -> None:
    def keep(name: str, *causes: Cause | None) -> None:
        tasks = {f"t{number}": "digest" for number in range(len(causes))}
        book = open_book(settings.data / "evaluations" / name, Request(suite=str(place), tasks=tasks))
        for task, cause in zip(tasks, causes, strict=True):
            verdict = Verdict.SOLVED if cause is None else cause.verdict
            book.save(Result(task=task, number=1, verdict=verdict, cause=cause))

    keep("good", None, None)
    keep("worse", None, Cause.WRONG)
    keep("unknown", None, Cause.SANDBOX)
    statuses = {
        ("good", "good"): 0,
        ("good", "worse"): 1,
        ("worse", "good"): 0,
        ("good", "unknown"): 69,  # an evaluation that says nothing does not pass
    }
    assert {names: said("diff", *names)[0] for names in statuses} == statuses
    status, out, _ = said("diff", "good", "worse", "--significant", "0.05", "--json")
    assert (status, json.loads(out)["regressed"]) == (0, True)


def test_a_table_is_shown_again_and_says_what_the_infrastructure_did(
    said: Callable[..., Said], settings: Settings, place: Path
) -> None:
    evil = "gone\x1b[2J\nnot a line of ours"
    book = open_book(
        settings.data / "evaluations" / "one", Request(suite=str(place), tasks={"t": "digest"}, attempts=2)
    )
    book.save(Result(task="t", number=1, verdict=Verdict.SOLVED, turns=3))
    book.save(Result(task="t", number=2, verdict=Verdict.INFRASTRUCTURE, cause=Cause.SANDBOX, message=evil))
    status, out, _ = said("show", "last")
    assert status == 69
    row, total, failure = (line for line in out.splitlines() if line.startswith(("t ", "all", "t #2")))
    assert row.split()[:3] == ["t", "1/1", "100%"]
    assert total.split()[:4] == ["all", "(pass@1)", "1/1", "100%"]
    assert failure == "t #2: sandbox: gone\\x1b[2J not a line of ours"
    assert book.page.read_bytes().startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["{suite}"], 77, "--self-test"),
        (["{suite}/none", "--self-test"], 4, "task"),
        (["{suite}", "--self-test", "--task", "none"], 4, "one of: one"),
        (["{suite}", "--self-test"], 4, "[scripts.NAME]"),
        (["diff", "one"], 2, "eval diff A B"),
        (["diff", "one", "two"], 4, "evaluation"),
        (["resume", "last"], 4, "evaluation"),
        (["show", "{suite}"], 4, "holds no evaluation"),
    ],
)
def test_bad_input_says_what_to_do(
    said: Callable[..., Said],
    suite: Callable[[Mapping[str, str]], Path],
    words: list[str],
    status: int,
    expected: str,
) -> None:
    path = suite({"one": HEAD.format(check="true")})
    found, _, err = said(*[word.format(suite=path) for word in words])
    assert found == status
    assert expected in err
    assert "next:" in err
