"""Each tool call of a live session is recorded whole: what it ran, read and wrote, what it left, what it answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import atif
import pytest

from gloveport.agents.model_proxy import Credential, ModelProxySpec
from gloveport.agents.task_agents import ClaudeAgents
from gloveport.errors import InvalidRequest
from gloveport.jobs import RunDirectory, make_run_directory, run_task
from gloveport.model import Event, EventKind, Source, Spec, Task, new_id
from gloveport.policy.reading.document import parse_document as parse_policy
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Manager, Sandbox, shell_request, workspace_digest
from gloveport.sandbox.recorded import RECORDED_ANSWER
from gloveport.settings import Settings
from gloveport.store import Redactor, Trail, read_trail
from gloveport.testing import ScriptedModel, Text, ToolUse, serve
from gloveport.tools.claude import open_claude_tools
from gloveport.tools.standard import call_tool
from gloveport.trajectory import Outcome, Step, Trajectory, from_trail
from gloveport.trajectory.formats import read_trajectory, write_trajectory

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

PATIENCE = 120
NOTHING = hashlib.sha256().hexdigest()


class Place:
    """A sandbox and its trail."""

    def __init__(self, sandbox: Sandbox, trail: Trail) -> None:
        self.sandbox, self.trail = sandbox, trail

    @property
    def trajectory(self) -> Trajectory:
        return from_trail(self.trail.path)

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.trajectory.steps

    def events(self, *kinds: EventKind) -> list[Event]:
        return [event for event in read_trail(self.trail.path) if event.kind in kinds]


async def make_place(manager: Manager, place: Path, name: str, spec: Spec | None = None) -> Place:
    trail = Trail(place / f"{name}.jsonl", redactor=Redactor(["hunter2hunter2"]))
    with anyio.fail_after(PATIENCE):
        return Place(Sandbox(await manager.create(spec or Spec(), trail=trail)), trail)


@pytest.fixture
async def here(manager: Manager, place: Path) -> Place:
    return await make_place(manager, place, "here")


def outcome(step: Step) -> Outcome:
    assert step.outcome is not None
    return step.outcome


async def test_a_call_is_recorded_with_status_output_and_what_it_left(here: Place) -> None:
    async with open_claude_tools(here.sandbox) as tools:
        answer = await tools.call("Bash", {"command": "echo out; echo err >&2; echo x > new; exit 3"})
        await tools.call("Read", {"file_path": "/workspace/new"})
        await tools.call("Edit", {"file_path": "/workspace/new", "old_string": "x", "new_string": "y"})
    bash, read, edit = here.steps
    assert (bash.tool, bash.params) == ("Bash", {"command": "echo out; echo err >&2; echo x > new; exit 3"})
    left = outcome(bash)
    assert (left.text, left.is_error, left.status) == (answer.text, True, 3)
    assert left.body is not None
    assert left.body.startswith("out\nerr\n")
    assert left.stdout == hashlib.sha256(left.body.encode()).hexdigest()
    assert (left.stderr, left.changed) == (NOTHING, {"new": hashlib.sha256(b"x\n").hexdigest()})
    assert left.contents == {"new": "x\n"}
    assert left.duration is not None
    assert 0 < left.duration < PATIENCE
    assert (outcome(read).changes, outcome(read).text) == ("", "1\tx\n2\t")
    assert outcome(edit).changed == {"new": hashlib.sha256(b"y\n").hexdigest()}
    assert len({left.changes, outcome(edit).changes}) == 2


async def test_the_same_calls_leave_the_same_digests_in_another_sandbox(manager: Manager, place: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Bash", {"command": "mkdir -p a/b && echo 1 > a/b/c && chmod +x a/b/c && ln -s c a/b/l; cd a; ls b"}),
        ("Write", {"file_path": "/workspace/d", "content": "one"}),
        ("Bash", {"command": "rm -r b; pwd"}),
    ]
    found = []
    for name in ("one", "two"):
        other = await make_place(manager, place, name)
        async with open_claude_tools(other.sandbox) as tools:
            for tool, params in calls:
                await tools.call(tool, params)
        found.append(
            [
                (step.outcome.text, step.outcome.stdout, step.outcome.changes, step.outcome.status)
                for step in other.steps
                if step.outcome
            ]
        )
    assert found[0] == found[1]
    assert len({changes for _, _, changes, _ in found[0]}) == 3


async def test_calls_that_overlap_own_what_they_run_read_and_write(here: Place) -> None:
    async with open_claude_tools(here.sandbox) as tools, anyio.create_task_group() as tasks:
        # Each waits for what the other one does: neither can end before both have begun.
        for own, other in (("a", "b"), ("b", "a")):
            script = f"touch {own}; until [ -e {other} ]; do sleep 0.01; done; echo {own}"
            tasks.start_soon(tools.call, "Bash", {"command": script})
    one, two = sorted(here.steps, key=lambda step: str(step.params))
    assert [outcome(step).text for step in (one, two)] == ["a", "b"]
    assert [outcome(step).changes for step in (one, two)] == ["", ""]
    execs = here.events(EventKind.EXEC_STARTED)
    assert {event.data["call"]: event.data["shown_as"] for event in execs} == {
        one.call: one.params["command"],
        two.call: two.params["command"],
    }
    assert {event.data["call"] for event in here.events(EventKind.EXEC_ENDED)} == {one.call, two.call}


async def test_what_is_no_tool_call_is_recorded_as_before(here: Place) -> None:
    await here.sandbox.exec(shell_request("echo > x"))
    await here.sandbox.files.read("x")
    kinds = (EventKind.EXEC_STARTED, EventKind.EXEC_ENDED, EventKind.FILE_READ, EventKind.TOOL_DONE)
    assert [(event.kind, "call" in event.data) for event in here.events(*kinds)] == [
        (kind, False) for kind in kinds[:3]
    ]
    assert here.steps == ()


async def test_files_and_refusals_name_their_call(here: Place) -> None:
    async with open_claude_tools(here.sandbox) as tools:
        await tools.call("Write", {"file_path": "/workspace/a", "content": "x"})
        await tools.call("Write", {"file_path": "/etc/passwd", "content": "x"})
        await tools.call("Write", {"file_path": 7})
    written, refused, wrong = here.steps
    assert [event.data["call"] for event in here.events(EventKind.FILE_WRITTEN)] == [written.call]
    assert (written.refused, bool(refused.refused), wrong.refused) == ("", True, "")
    assert outcome(wrong).is_error


async def test_a_standard_tool_tells_output_and_error_apart(here: Place) -> None:
    result = await call_tool(here.sandbox, "shell", {"command": "echo out; echo err >&2; exit 4"})
    await call_tool(here.sandbox, "file_read", {"path": "none"})
    with pytest.raises(InvalidRequest):
        await call_tool(here.sandbox, "shell", {})
    shell, missing = here.steps
    assert (outcome(shell).text, outcome(shell).error, outcome(shell).status) == ("out\n", "err\n", result.exit_code)
    assert (outcome(missing).text, outcome(missing).is_error) == ("", True)
    assert "none" in outcome(missing).error


async def test_a_call_that_is_told_of_elsewhere_is_not_told_twice(here: Place) -> None:
    async with open_claude_tools(here.sandbox) as tools:
        await tools.call("Bash", {"command": "true"}, call="toolu_1")
        await tools.call("Bash", {"command": "true"}, call="")
    kinds = (EventKind.TOOL_CALLED, EventKind.TOOL_DONE, EventKind.TOOL_RETURNED)
    assert [(event.kind, event.data["call"]) for event in here.events(*kinds)] == [(EventKind.TOOL_DONE, "toolu_1")]


async def test_a_cancelled_call_says_so(here: Place) -> None:
    async with open_claude_tools(here.sandbox) as tools:
        with anyio.move_on_after(PATIENCE) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tools.call, "Bash", {"command": "touch begun; sleep 98765"})
                while not await here.sandbox.files.exists("begun"):
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
        assert not scope.cancelled_caught
    (done,) = here.events(EventKind.TOOL_DONE)
    assert done.data["error"] == "cancelled"
    (step,) = here.steps
    assert outcome(step).text is None


async def test_a_workspace_that_cannot_be_looked_at_costs_the_digest_and_nothing_else(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_digest, "MOST_PATHS", 2)
    async with open_claude_tools(here.sandbox) as tools:
        for number in range(2):
            answer = await tools.call("Bash", {"command": f"touch {number}a {number}b; echo fine"})
            assert answer.text == "fine"
    assert [bool(outcome(step).changes) for step in here.steps] == [True, False]
    assert "more than 2 paths" in here.events(EventKind.TOOL_DONE)[1].data["lost"]


async def test_no_secret_is_in_the_record_of_a_call(here: Place) -> None:
    async with open_claude_tools(here.sandbox) as tools:
        await tools.call("Bash", {"command": "echo hunter2hunter2 | tee hunter2hunter2"})
    assert b"hunter2hunter2" not in here.trail.path.read_bytes()
    assert len(here.steps) == 1


async def test_a_large_input_is_kept_whole_and_a_huge_answer_is_cut(here: Place) -> None:
    content = "x" * 200_000
    async with open_claude_tools(here.sandbox) as tools:
        await tools.call("Write", {"file_path": "/workspace/a", "content": content})
        await tools.call("Write", {"file_path": "/workspace/b", "content": content * 6})
    await call_tool(here.sandbox, "file_read", {"path": "a"})
    whole, cut, read = here.steps
    assert (whole.params["content"], whole.cut, cut.cut) == (content, False, True)
    assert outcome(read).cut
    assert len(outcome(read).text or "") < RECORDED_ANSWER + 100


async def test_connections_are_those_of_the_call_that_made_them(manager: Manager, place: Path) -> None:
    layer = compile_layer(parse_policy(b'[egress]\nallow = ["api.example"]', "p.toml"), "project")
    there = await make_place(manager, place, "there", Spec(policy=merge_layers([layer])))
    fetch = "curl -sS -o /dev/null http://{}.test/"
    async with open_claude_tools(there.sandbox) as tools:
        with anyio.fail_after(PATIENCE):
            for host in ("one", "two"):
                await tools.call("Bash", {"command": fetch.format(host)})
    hosts = [[record["host"] for record in outcome(step).egress] for step in there.steps]
    assert hosts == [["one.test"], ["two.test"]]


@pytest.mark.needs("agent")
class TestARun:
    """Of the real agent, whose model is a script."""

    @pytest.fixture
    async def run(
        self, manager: Manager, settings: Settings, make_repository: Callable[[Mapping[str, str]], Path]
    ) -> RunDirectory:
        path = "/workspace/calc.py"
        model = ScriptedModel.of(
            (ToolUse("Read", {"file_path": path}), ToolUse("Grep", {"pattern": "return"})),
            (ToolUse("Edit", {"file_path": path, "old_string": "a - b", "new_string": "a + b"}),),
            (ToolUse("Bash", {"command": "python3 -B -c 'import calc; print(calc.add(1, 2))'; exit 5"}),),
            (ToolUse("WebFetch", {"url": "http://x.test", "prompt": "x"}),),
            (Text("I fixed it."),),
        )
        repository = make_repository({"calc.py": "def add(a, b):\n    return a - b\n"})
        directory = make_run_directory(settings.data, new_id())
        async with serve(model) as endpoint:
            upstream = ModelProxySpec(upstream=endpoint.url, credential=Credential.api_key("sk-not-a-key"))
            with anyio.fail_after(PATIENCE):
                await run_task(
                    Task(prompt="Fix add", spec=Spec(source=Source(repo=str(repository))), test="true"),
                    manager=manager,
                    make_agent=ClaudeAgents(manager, directory.path / "session", upstream),
                    directory=directory,
                    listener=lambda event: None,
                    redactor=Redactor(),
                )
        return directory

    async def test_each_tool_call_of_the_agent_is_in_the_trajectory_with_what_came_of_it(
        self, run: RunDirectory
    ) -> None:
        trajectory = from_trail(run.trajectory)
        assert [turn.source for turn in trajectory.turns] == ["user", *["agent"] * 5]
        read, grep, edit, bash, fetch = trajectory.steps
        assert [step.tool for step in trajectory.steps] == ["Read", "Grep", "Edit", "Bash", "WebFetch"]
        assert outcome(read).text == "1\tdef add(a, b):\n2\t    return a - b\n3\t"
        assert "calc.py" in (outcome(grep).text or "")
        assert outcome(edit).contents == {"calc.py": "def add(a, b):\n    return a + b\n"}
        assert (outcome(bash).status, outcome(bash).changes) == (5, outcome(edit).changes)
        assert (outcome(bash).body or "").startswith("3\n")
        assert fetch.refused
        assert trajectory.metadata["run"] == run.id
        assert trajectory.metadata["answer"] == "I fixed it."

    async def test_it_is_exported_as_atif_and_comes_back_to_the_byte(self, run: RunDirectory) -> None:
        trajectory = from_trail(run.trajectory)
        data = write_trajectory(trajectory, "atif")
        atif.Trajectory.model_validate(json.loads(data))
        path = run.path.parent / "exported.json"
        path.write_bytes(data)
        assert read_trajectory(path) == trajectory
        assert write_trajectory(read_trajectory(path), "atif") == data

    async def test_the_command_lines_own_session_says_the_same_and_comes_back_whole(self, run: RunDirectory) -> None:
        (path,) = (run.path / "session").glob("*.jsonl")
        session, own = read_trajectory(path), from_trail(run.trajectory)
        assert [(step.tool, step.call) for step in session.steps] == [(step.tool, step.call) for step in own.steps]
        # The command line fills in what it takes for defaults; what the model said is in our own record.
        assert all(
            theirs.params.items() >= ours.params.items() for theirs, ours in zip(session.steps, own.steps, strict=True)
        )
        assert [step.outcome and step.outcome.text for step in session.steps[:4]] == [
            outcome(step).text for step in own.steps[:4]
        ]
        assert [turn.text for turn in session.turns if turn.source == "agent"] == [
            turn.text for turn in own.turns if turn.source == "agent"
        ]
        written = write_trajectory(session, "claude")
        assert list(map(json.loads, written.splitlines())) == list(map(json.loads, path.read_bytes().splitlines()))
