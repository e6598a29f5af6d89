"""One run of one task: what the run directory holds, however the run ends.

The agent is a stand-in here, a few lines that use the sandbox as an agent would; the sandbox, the tests and the patch
are real. The real agent is driven in `test_agent_service.py` and by the demo.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import anyio
import anyio.to_thread
import pytest

from gloveport.errors import BackendUnavailable, NotFound
from gloveport.jobs import Listener, MakeAgent, RunDirectory, find_run, list_runs, make_run_directory, run_task
from gloveport.model import (
    EndReason,
    Event,
    EventKind,
    Limits,
    RunState,
    SessionEnd,
    SessionEnded,
    SessionEvent,
    Source,
    Spec,
    Task,
    ToolCalled,
    ToolReturned,
    TurnTaken,
    Usage,
    new_id,
)
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.sandbox.recorded import RECORDED_TEXT
from gloveport.settings import Settings
from gloveport.store import Redactor, Trail, read_trail, verify_trail

from ..conftest import PATIENCE, Cli, files_no_larger_than  # noqa: TID252 - tests are no package of ours

pytestmark = pytest.mark.anyio

Work = Callable[[Sandbox], Awaitable[SessionEnd]]
KEY = "sk-test-not-a-real-key-0123456789"


@pytest.fixture
def repository(make_repository: Callable[[Mapping[str, str]], Path]) -> Path:
    return make_repository(
        {
            "calc.py": "def add(a, b):\n    return a - b\n",
            "test_calc.py": "import unittest, calc\nclass T(unittest.TestCase):\n    def test_add(self):\n"
            "        self.assertEqual(calc.add(2, 2), 4)\n",
        }
    )


def agent_that(work: Work):
    """An agent that does `work` with the sandbox, and says so as an agent would."""

    class StandIn:
        def __init__(self, sandbox: Sandbox) -> None:
            self.sandbox = sandbox

        async def converse(self, prompt: str) -> AsyncIterator[SessionEvent]:
            assert prompt
            yield TurnTaken(text=f"using {KEY}", tools=("Bash",), model="stand-in", input_tokens=3, output_tokens=4)
            yield ToolCalled(call="1", name="Bash", input={"command": "work"})
            end = await work(self.sandbox)
            yield ToolReturned(call="1", name="Bash", text="done", duration=0.1)
            usage = Usage(turns=1, input_tokens=3, output_tokens=4, cost=0.01)
            yield SessionEnded(end=end, session="s", answer="I fixed it.", usage=usage, message="")

    @asynccontextmanager
    async def make(task: Task, sandbox: Sandbox, trail: Trail) -> AsyncIterator[StandIn]:
        yield StandIn(sandbox)

    return make


async def fix(sandbox: Sandbox) -> SessionEnd:
    await sandbox.files.write("calc.py", "def add(a, b):\n    return a + b\n")
    return SessionEnd.DONE


async def do_nothing(sandbox: Sandbox) -> SessionEnd:
    return SessionEnd.DONE


async def carry_out(
    manager: Manager, settings: Settings, repository: Path, work: Work, **fields: object
) -> tuple[RunDirectory, list[Event]]:
    events: list[Event] = []
    directory = await run_with(agent_that(work), manager, settings, repository, events.append, **fields)
    return directory, events


async def run_with(
    make_agent: MakeAgent,
    manager: Manager,
    settings: Settings,
    repository: Path,
    listener: Listener = lambda event: None,
    receipt: Mapping[str, object] | None = None,
    **fields: object,
) -> RunDirectory:
    spec = Spec(source=Source(repo=str(repository)))
    asked = {"prompt": "Fix add", "spec": spec, "test": "python3 -m unittest", **fields}
    directory = make_run_directory(settings.data, new_id())
    await run_task(
        Task(**asked),  # type: ignore[arg-type]
        manager=manager,
        make_agent=make_agent,
        directory=directory,
        listener=listener,
        redactor=Redactor([KEY]),
        receipt=receipt,
    )
    return directory


def agent_that_says(*events: SessionEvent) -> MakeAgent:
    """An agent that does nothing in the sandbox and says what it is told to."""

    class StandIn:
        async def converse(self, prompt: str) -> AsyncIterator[SessionEvent]:
            for event in events:
                yield event

    @asynccontextmanager
    async def make(task: Task, sandbox: Sandbox, trail: Trail) -> AsyncIterator[StandIn]:
        yield StandIn()

    return make


def newest(settings: Settings) -> RunDirectory:
    """The newest run, whose trails are whole."""
    directory = find_run(settings.data, "last")
    for trail in (directory.trajectory, directory.audit):
        assert verify_trail(trail, ends=[EventKind.RUN_ENDED]) > 0
    return directory


async def test_a_successful_run_leaves_patch_report_log_and_two_unbroken_trails(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    directory, events = await carry_out(manager, settings, repository, fix)
    summary = directory.summary()
    assert (summary.state, summary.reason, summary.test_status) == (RunState.SUCCEEDED, None, 0)
    assert summary.changed == ("calc.py",)
    assert summary.usage.cost == 0.01
    assert summary.answer == "I fixed it."
    assert b"+    return a + b" in directory.patch.read_bytes()
    subprocess.run(["git", "apply", "--check", directory.patch], cwd=repository, check=True)
    assert "OK" in directory.test_log.read_text()
    assert ET.parse(directory.report).getroot().get("failures") == "0"
    assert verify_trail(directory.trajectory) == len(events)
    assert verify_trail(directory.audit) > 5
    kinds = [event.kind for event in events]
    assert kinds[0] is EventKind.RUN_STARTED
    assert kinds[-1] is EventKind.RUN_ENDED
    assert {EventKind.PROMPT, EventKind.TURN, EventKind.TOOL_CALLED, EventKind.FILE_WRITTEN, EventKind.CHANGES} <= set(
        kinds
    )
    assert len({event.trace for event in events}) == 1
    assert not manager.held


async def test_the_repository_is_never_written(manager: Manager, settings: Settings, repository: Path) -> None:
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    await carry_out(manager, settings, repository, fix)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


async def test_secrets_are_in_no_file_of_the_run(manager: Manager, settings: Settings, repository: Path) -> None:
    """Nor is the beginning of one, where a long text is cut."""
    long = "x" * (RECORDED_TEXT - 15) + KEY
    agent = agent_that_says(
        TurnTaken(text=f"it is {KEY}", tools=(KEY,), model=KEY),
        ToolCalled(call="1", name=KEY, input={"command": KEY, KEY: {"deep": [KEY]}}, refused=f"no {KEY}"),
        ToolReturned(call="1", name=KEY, text=KEY, is_error=True),
        TurnTaken(text=long),
        ToolCalled(call="2", name="Bash", input={"command": [long]}),
        ToolReturned(call="2", name="Bash", text=long),
        SessionEnded(end=SessionEnd.MODEL_ERROR, session="s", answer=KEY, message=f"refused {KEY}"),
    )
    directory = await run_with(agent, manager, settings, repository, prompt=f"use {KEY}", test="true")
    files = {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}
    assert directory.path / "run.json" in files
    assert not [path for path, data in files.items() if KEY[:12].encode() in data]


async def test_what_an_agent_says_is_recorded_short_however_much_it_is(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    large = "y" * (50 * RECORDED_TEXT)
    inputs = (
        {"a": {"b": [large]}},
        {large: 1},
        {"many": [1] * len(large)},
        dict.fromkeys(map(str, range(9**5)), "y" * 99),
    )
    agent = agent_that_says(
        TurnTaken(text=large, tools=(large,), model=large),
        *(ToolCalled(call=large, name=large, input=asked, refused=large) for asked in (*inputs, {"deep": deep})),
        ToolReturned(call=large, name=large, text=large),
        SessionEnded(end=SessionEnd.DONE, session=large, answer=large),
    )
    directory = await run_with(agent, manager, settings, repository, test=None)
    assert newest(settings).summary().state is RunState.SUCCEEDED
    assert max(map(len, directory.trajectory.read_bytes().splitlines())) < 10 * RECORDED_TEXT
    assert (directory.path / "run.json").stat().st_size < 10 * RECORDED_TEXT
    called = [event.data["input"] for event in read_trail(directory.trajectory) if event.kind is EventKind.TOOL_CALLED]
    assert [next(iter(asked))[:5] for asked in called] == ["a", "yyyyy", "many", "0", "deep"]


async def test_the_audit_trail_holds_what_was_done_and_not_what_was_said(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    directory, _ = await carry_out(manager, settings, repository, fix)
    kinds = {event.kind for event in read_trail(directory.audit)}
    assert EventKind.EXEC_ENDED in kinds
    assert EventKind.FILE_WRITTEN in kinds
    assert not kinds & {EventKind.PROMPT, EventKind.TURN}


async def test_a_doctors_receipt_is_in_the_audit_trail_from_the_beginning(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    receipt = {"backend": "bubblewrap", "counts": {"held": 200}}
    directory = await run_with(agent_that(fix), manager, settings, repository, receipt=receipt)
    first = next(iter(read_trail(directory.audit)))
    assert (first.kind, first.data["receipt"]) == (EventKind.RUN_STARTED, receipt)


async def test_failing_tests_fail_the_run_and_keep_the_patch(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    async def break_more(sandbox: Sandbox) -> SessionEnd:
        await sandbox.files.write("calc.py", "def add(a, b):\n    return 0\n")
        return SessionEnd.DONE

    directory, _ = await carry_out(manager, settings, repository, break_more)
    summary = directory.summary()
    assert (summary.state, summary.reason, summary.test_status) == (RunState.FAILED, EndReason.TASK, 1)
    assert directory.patch.read_bytes()
    case = ET.parse(directory.report).getroot().find("./testsuite/testcase/failure")
    assert case is not None


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (SessionEnd.MAX_TURNS, EndReason.BUDGET),
        (SessionEnd.MAX_COST, EndReason.BUDGET),
        (SessionEnd.MODEL_ERROR, EndReason.BACKEND),
    ],
)
async def test_a_session_cut_short_fails_the_run_with_its_reason(
    manager: Manager, settings: Settings, repository: Path, end: SessionEnd, reason: EndReason
) -> None:
    async def cut(sandbox: Sandbox) -> SessionEnd:
        await fix(sandbox)
        return end

    directory, _ = await carry_out(manager, settings, repository, cut)
    assert (directory.summary().state, directory.summary().reason) == (RunState.FAILED, reason)
    assert directory.patch.read_bytes()


async def test_a_run_out_of_time_keeps_what_it_had(manager: Manager, settings: Settings, repository: Path) -> None:
    async def dawdle(sandbox: Sandbox) -> SessionEnd:
        await fix(sandbox)
        await sandbox.exec(shell_request("sleep 1000", timeout=4.9))
        await sandbox.exec(shell_request("sleep 1000", timeout=4.9))
        return SessionEnd.DONE

    spec = Spec(source=Source(repo=str(repository)), limits=Limits(sandbox_seconds=5, exec_seconds=5))
    directory, _ = await carry_out(manager, settings, repository, dawdle, spec=spec)
    assert (directory.summary().state, directory.summary().reason) == (RunState.FAILED, EndReason.TIMEOUT)
    assert b"a + b" in directory.patch.read_bytes()


async def test_cancelling_a_run_keeps_what_it_had(manager: Manager, settings: Settings, repository: Path) -> None:
    at_work = anyio.Event()

    async def never_end(sandbox: Sandbox) -> SessionEnd:
        await fix(sandbox)
        at_work.set()
        await anyio.sleep_forever()
        return SessionEnd.DONE

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(carry_out, manager, settings, repository, never_end)
            await at_work.wait()
            tasks.cancel_scope.cancel()
    directory = find_run(settings.data, "last")
    assert (directory.summary().state, directory.summary().reason) == (RunState.CANCELLED, EndReason.OPERATOR)
    assert b"a + b" in directory.patch.read_bytes()
    assert verify_trail(directory.trajectory) > 0
    assert not manager.held


async def test_a_repository_that_cannot_be_used_fails_the_run_before_anything_is_made(
    manager: Manager, settings: Settings, place: Path
) -> None:
    directory, _ = await carry_out(manager, settings, place / "none", do_nothing)
    summary = directory.summary()
    assert (summary.state, summary.reason) == (RunState.FAILED, EndReason.BACKEND)
    assert "none" in summary.message
    assert await manager.statuses() == []


async def test_an_agent_that_breaks_fails_the_run(manager: Manager, settings: Settings, repository: Path) -> None:
    async def break_down(sandbox: Sandbox) -> SessionEnd:
        raise BackendUnavailable("the model is gone", hint="try again")

    directory, _ = await carry_out(manager, settings, repository, break_down)
    assert (directory.summary().state, directory.summary().message) == (RunState.FAILED, "the model is gone")


async def test_a_defect_fails_the_run_and_is_not_hidden(manager: Manager, settings: Settings, repository: Path) -> None:
    async def fall_over(sandbox: Sandbox) -> SessionEnd:
        await fix(sandbox)
        raise AttributeError("'str' object has no attribute 'items'")

    with pytest.raises(AttributeError):
        await carry_out(manager, settings, repository, fall_over)
    directory = newest(settings)
    summary = directory.summary()
    assert (summary.state, summary.reason) == (RunState.FAILED, EndReason.BACKEND)
    assert "AttributeError" in summary.message
    assert b"a + b" in directory.patch.read_bytes()
    assert not manager.held


async def test_a_session_that_never_says_how_it_ended_fails_the_run(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    directory = await run_with(agent_that_says(TurnTaken(text="I am")), manager, settings, repository, test=None)
    assert (directory.summary().state, directory.summary().reason) == (RunState.FAILED, EndReason.BACKEND)


async def test_a_listener_that_fails_ends_the_run_and_everything_is_recorded(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    def refuse(event: Event) -> None:
        if event.kind is EventKind.TOOL_CALLED:
            raise BrokenPipeError("nobody reads this")

    with pytest.raises(BrokenPipeError):
        await run_with(agent_that(fix), manager, settings, repository, refuse)
    directory = newest(settings)
    assert directory.summary().state is RunState.FAILED
    assert EventKind.SANDBOX_DELETED in {event.kind for event in read_trail(directory.audit)}
    assert not manager.held


async def test_a_full_disk_ends_the_run_with_its_reason(manager: Manager, settings: Settings, repository: Path) -> None:
    async def fill(sandbox: Sandbox) -> SessionEnd:
        with files_no_larger_than(find_run(settings.data, "last").trajectory.stat().st_size + 50):
            await sandbox.exec(shell_request("true"))
        return SessionEnd.DONE

    directory, _ = await carry_out(manager, settings, repository, fill)
    assert newest(settings).path == directory.path
    assert (directory.summary().state, directory.summary().reason) == (RunState.FAILED, EndReason.BUDGET)
    assert "no space" in directory.summary().message


async def test_a_patch_that_cannot_be_written_whole_is_not_there(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    async def write_much(sandbox: Sandbox) -> SessionEnd:
        await sandbox.files.write("much", b"a line of text\n" * 200_000)
        limits.enter_context(files_no_larger_than(2**20))
        return SessionEnd.DONE

    with ExitStack() as limits:
        directory, _ = await carry_out(manager, settings, repository, write_much, test=None)
    summary = newest(settings).summary()
    assert (summary.state, summary.reason) == (RunState.FAILED, EndReason.BACKEND)
    assert "patch could not be collected" in summary.message
    assert not [path.name for path in directory.path.iterdir() if "patch" in path.name]


async def test_a_run_whose_sandbox_is_taken_away_ends_as_failed(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    async def take_away(sandbox: Sandbox) -> SessionEnd:
        await manager.delete(sandbox.id)
        return SessionEnd.DONE

    await carry_out(manager, settings, repository, take_away, test=None)
    assert (newest(settings).summary().state, newest(settings).summary().reason) == (
        RunState.FAILED,
        EndReason.BACKEND,
    )


async def test_a_guest_cannot_hold_up_the_end_of_a_run(manager: Manager, settings: Settings, repository: Path) -> None:
    """Git in the guest reads a pipe that nobody writes to; then nothing counts as ignored."""

    async def lay_a_trap(sandbox: Sandbox) -> SessionEnd:
        trap = "mkfifo /tmp/trap && git config core.excludesFile /tmp/trap && echo kept > kept"
        assert (await sandbox.exec(shell_request(trap))).ok
        return SessionEnd.DONE

    with anyio.fail_after(2 * PATIENCE):
        directory, _ = await carry_out(manager, settings, repository, lay_a_trap, test=None)
    assert directory.summary().state is RunState.SUCCEEDED
    assert "kept" in directory.summary().changed


async def test_applying_a_run_prints_no_name_that_steers_the_terminal(
    manager: Manager, settings: Settings, repository: Path
) -> None:
    async def name_it(sandbox: Sandbox) -> SessionEnd:
        await sandbox.files.write("a\x1b[2J\nb", "hello\n")
        return SessionEnd.DONE

    await carry_out(manager, settings, repository, name_it, test=None)
    done = await anyio.to_thread.run_sync(Cli(settings=settings), "apply", "last")
    assert done.returncode == 0, done
    assert b"a\\x1b[2J\\x0ab" in done.stderr
    assert b"\x1b" not in done.stderr
    assert (repository / "a\x1b[2J\nb").read_text() == "hello\n"


async def test_runs_are_listed_and_found_by_prefix(manager: Manager, settings: Settings, repository: Path) -> None:
    one, _ = await carry_out(manager, settings, repository, fix)
    two, _ = await carry_out(manager, settings, repository, do_nothing)
    assert [run.id for run in list_runs(settings.data)] == [one.id, two.id]
    assert find_run(settings.data, "last").id == two.id
    assert find_run(settings.data, one.id[:-2]).id == one.id
    with pytest.raises(NotFound):
        find_run(settings.data, "nonsense")
    assert json.loads((one.path / "run.json").read_text())["id"] == one.id
