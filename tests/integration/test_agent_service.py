"""The agent service with the real Agent SDK and command line, a real jail and sandbox; a script plays the model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from claude_agent_sdk import SessionKey
from claude_agent_sdk._internal.transport.subprocess_cli import SubprocessCLITransport

from gloveport.agents.bounds import Breach
from gloveport.agents.guard import Guard
from gloveport.agents.jail import JAILED_CLI
from gloveport.agents.model_api import TokenUsage
from gloveport.agents.model_prices import load_prices
from gloveport.agents.model_proxy import Credential, ModelProxySpec
from gloveport.agents.recipe import build_recipe, cli_arguments
from gloveport.agents.service import AgentSpec, ClaudeAgent, open_claude_agent
from gloveport.agents.session_files import SessionFiles
from gloveport.agents.skillset import SKILLS_HOME
from gloveport.agents.task_agents import ClaudeAgents
from gloveport.errors import BackendUnavailable, InvalidRequest, NotFound, Unauthenticated
from gloveport.jobs import make_run_directory, run_task
from gloveport.model import (
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
    new_id,
)
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.settings import Settings
from gloveport.store import Redactor, Trail, read_trail
from gloveport.testing import Endpoint, Fail, Gate, ScriptedModel, Text, ToolUse, serve
from gloveport.tools.claude import Answer

pytestmark = pytest.mark.anyio

PATIENCE = 120
KEY = "sk-real-key-of-the-operator"
OFFERED = ["Bash", "Edit", "Glob", "Grep", "Read", "Skill", "Write"]


@pytest.fixture
def repository(make_repository: Callable[[Mapping[str, str]], Path]) -> Path:
    return make_repository(
        {
            "calc.py": "def add(a, b):\n    return a - b\n",
            "tests/test_calc.py": "import unittest\nfrom calc import add\n\n\nclass Add(unittest.TestCase):\n"
            "    def test_adds(self):\n        self.assertEqual(add(2, 2), 4)\n",
        }
    )


@pytest.fixture
async def workplace(manager: Manager, repository: Path, trail: Trail) -> Sandbox:
    """A sandbox with the repository in it."""
    with anyio.fail_after(PATIENCE):
        spec = Spec(source=Source(repo=str(repository)))
        return Sandbox(await manager.create(spec, trail=trail))


@pytest.fixture
def trail(place: Path) -> Trail:
    return Trail(place / "trail.jsonl")


@asynccontextmanager
async def agent_at(
    sandbox: Sandbox, manager: Manager, trail: Trail, endpoint: Endpoint, spec: AgentSpec | None = None
) -> AsyncIterator[ClaudeAgent]:
    upstream = ModelProxySpec(upstream=endpoint.url, credential=Credential.api_key(KEY))
    sessions = manager.settings.data / "sessions"
    with anyio.fail_after(PATIENCE):
        async with open_claude_agent(
            spec or AgentSpec(), sandbox, trail, manager=manager, upstream=upstream, directory=sessions
        ) as agent:
            yield agent


async def all_of(agent: ClaudeAgent, prompt: str) -> list[SessionEvent]:
    return [event async for event in agent.converse(prompt)]


def returned(events: Sequence[SessionEvent]) -> list[ToolReturned]:
    return [event for event in events if isinstance(event, ToolReturned)]


def end_of(events: Sequence[SessionEvent]) -> SessionEnded:
    assert isinstance(events[-1], SessionEnded)
    return events[-1]


def flags_of(arguments: Sequence[str]) -> dict[str, str]:
    """Flag → value, however the two are joined."""
    flags: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        flag, joined, value = word.partition("=")
        switch = flag in {"--verbose", "--strict-mcp-config", "--include-partial-messages", "--session-mirror"}
        flags[flag] = value if joined or switch else next(words)
    return flags


async def test_the_command_line_gets_the_arguments_that_the_sdk_would_pass_for_the_recipe(place: Path) -> None:
    async def call(name: str, arguments: object) -> Answer:
        raise AssertionError(name)

    recipe = build_recipe(
        call,
        Guard(["coding"]),
        skills=["coding", "release"],
        model="claude-test",
        max_turns=7,
        max_cost=0.5,
        resume="00000000-0000-4000-8000-000000000000",
        sessions=SessionFiles(place / "sessions"),
    )
    sdks = SubprocessCLITransport("", recipe)._build_command()[1:]
    assert flags_of(cli_arguments(recipe)) == flags_of(sdks)


async def test_an_agent_reads_edits_and_tests_in_the_sandbox_with_the_tools_it_is_offered(
    workplace: Sandbox, manager: Manager, trail: Trail, repository: Path
) -> None:
    # -B: an edit of the same length within a second would leave the compiled file valid.
    test = "python3 -B -m unittest -q tests.test_calc"
    edit = {"file_path": "/workspace/calc.py", "old_string": "a - b", "new_string": "a + b"}
    model = ScriptedModel.of(
        (Text("I look first."), ToolUse("Read", {"file_path": "/workspace/calc.py"})),
        (ToolUse("Bash", {"command": test}),),
        (ToolUse("Edit", edit),),
        (ToolUse("Bash", {"command": test}),),
        (Text("Fixed."),),
    )
    async with serve(model) as endpoint, agent_at(workplace, manager, trail, endpoint) as agent:
        events = await all_of(agent, "Repair the addition.")

    read, failed, edited, passed = returned(events)
    assert read.text.startswith("1\tdef add(a, b):\n2\t    return a - b")
    assert (failed.is_error, "FAILED" in failed.text) == (True, True)
    assert (edited.is_error, passed.is_error) == (False, False)
    assert "OK" in passed.text
    end = end_of(events)
    assert (end.end, end.answer, end.message) == (SessionEnd.DONE, "Fixed.", "")
    assert end.usage.turns == 5
    assert min(end.usage.input_tokens, end.usage.output_tokens, end.usage.cost) > 0
    kinds = [type(event) for event in events]
    assert kinds == [*(TurnTaken, ToolCalled, ToolReturned) * 4, TurnTaken, SessionEnded]
    assert (await workplace.files.read_text("calc.py")).endswith("a + b\n")
    assert (repository / "calc.py").read_text().endswith("a - b\n")
    for request in endpoint.turns:
        assert sorted(tool["name"] for tool in request.body["tools"]) == OFFERED


async def test_the_shipped_skill_reaches_the_model_and_its_script_runs_in_the_sandbox_at_the_path_it_is_told(
    workplace: Sandbox, manager: Manager, trail: Trail
) -> None:
    model = ScriptedModel.of(
        (ToolUse("Skill", {"skill": "coding"}),),
        (ToolUse("Bash", {"command": f"bash {SKILLS_HOME}/coding/scripts/find_tests.sh calc.py"}),),
        (Text("Read."),),
    )
    async with serve(model) as endpoint, agent_at(workplace, manager, trail, endpoint) as agent:
        events = await all_of(agent, "Use the skill.")

    first, second = json.dumps(endpoint.turns[0].body), json.dumps(endpoint.turns[1].body)
    assert "- coding: When the user asks to implement, refactor, debug, or test code" in first
    assert f"Base directory for this skill: {SKILLS_HOME}/coding" in second
    assert "Make the smallest change that does the job" in second
    assert "tests/test_calc.py" in returned(events)[1].text.splitlines()[0]


async def test_an_interrupt_kills_the_running_command_and_the_session_goes_on(
    workplace: Sandbox, manager: Manager, trail: Trail
) -> None:
    model = ScriptedModel.of(
        (ToolUse("Bash", {"command": "touch started; (sleep 98765 & sleep 98765)"}),),
        (Text("Here I am."),),
        (Text("Here I am."),),
    )
    async with (
        serve(model) as endpoint,
        agent_at(workplace, manager, trail, endpoint) as agent,
        workplace.files.watch(".") as changes,
    ):
        events: list[SessionEvent] = []
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                events.extend(await all_of(agent, "Wait."))

            tasks.start_soon(work)
            async for change in changes:
                if change.path.endswith("started"):
                    break
            await agent.interrupt()
        assert end_of(events).end is SessionEnd.INTERRUPTED
        look = shell_request("ps -A -o args | grep -c '[s]leep 98765'")
        with anyio.fail_after(PATIENCE):  # what is killed takes the kernel a moment
            while (await workplace.exec(look)).text.strip() != "0":
                pass
        again = await all_of(agent, "Still there?")
    assert (end_of(again).end, end_of(again).answer) == (SessionEnd.DONE, "Here I am.")
    assert end_of(again).session == end_of(events).session


async def test_an_interrupt_drops_the_request_to_the_model(workplace: Sandbox, manager: Manager, trail: Trail) -> None:
    gate = Gate()
    model = ScriptedModel.of((Text("Let me think"), gate, Text("for ever.")))
    async with serve(model) as endpoint, agent_at(workplace, manager, trail, endpoint) as agent:
        events: list[SessionEvent] = []
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                events.extend(await all_of(agent, "Think."))

            tasks.start_soon(work)
            await gate.reached()
            await agent.interrupt()
            await gate.abandoned()
    assert end_of(events).end is SessionEnd.INTERRUPTED


async def test_leaving_the_scope_in_the_middle_kills_the_command_and_the_jail(
    workplace: Sandbox, manager: Manager, trail: Trail
) -> None:
    model = ScriptedModel.of((ToolUse("Bash", {"command": "touch started; sleep 98765"}),))
    async with serve(model) as endpoint, workplace.files.watch(".") as changes, anyio.create_task_group() as tasks:

        async def work() -> None:
            async with agent_at(workplace, manager, trail, endpoint) as agent:
                await all_of(agent, "Wait.")

        tasks.start_soon(work)
        async for change in changes:
            if change.path.endswith("started"):
                break
        tasks.cancel_scope.cancel()
    left = await workplace.exec(shell_request("ps -A -o args | grep -c '[s]leep 98765'"))
    assert left.text.strip() == "0"
    assert [status.ref.id for status in await manager.statuses()] == [workplace.id]
    assert not list((manager.settings.state / "agents").iterdir())


async def test_a_session_is_resumed_in_a_new_jail_with_all_that_was_said(
    workplace: Sandbox, manager: Manager, trail: Trail
) -> None:
    model = ScriptedModel.of((Text("The word is heron."),), (Text("It was heron."),))
    async with serve(model) as endpoint:
        async with agent_at(workplace, manager, trail, endpoint) as agent:
            first = end_of(await all_of(agent, "Name a word."))
        spec = AgentSpec(resume=first.session)
        async with agent_at(workplace, manager, trail, endpoint, spec) as agent:
            second = end_of(await all_of(agent, "Which word?"))
    assert (second.session, second.answer) == (first.session, "It was heron.")
    said = json.dumps(endpoint.turns[1].body["messages"])
    assert "Name a word." in said
    assert "The word is heron." in said


async def test_a_session_that_nobody_knows_is_not_resumed(workplace: Sandbox, manager: Manager, trail: Trail) -> None:
    async with serve(ScriptedModel.of()) as endpoint:
        with pytest.raises(NotFound, match="no session"):
            async with agent_at(
                workplace, manager, trail, endpoint, AgentSpec(resume="00000000-0000-4000-8000-000000000000")
            ):
                pass
        with pytest.raises(InvalidRequest, match="not a session id"):
            async with agent_at(workplace, manager, trail, endpoint, AgentSpec(resume="../../etc/passwd")):
                pass


async def test_the_turns_of_a_prompt_are_limited(workplace: Sandbox, manager: Manager, trail: Trail) -> None:
    model = ScriptedModel.of(*[(ToolUse("Bash", {"command": f"echo {number}"}),) for number in range(9)])
    async with (
        serve(model) as endpoint,
        agent_at(workplace, manager, trail, endpoint, AgentSpec(max_turns=3)) as agent,
    ):
        end = end_of(await all_of(agent, "Go on for ever."))
    assert end.end is SessionEnd.MAX_TURNS
    assert len(endpoint.turns) == end.usage.turns == 3
    assert "turns" in end.message


async def test_the_cost_of_a_session_is_limited(workplace: Sandbox, manager: Manager, trail: Trail) -> None:
    model = ScriptedModel.of(*[(ToolUse("Bash", {"command": f"echo {number}"}),) for number in range(9)])
    async with (
        serve(model) as endpoint,
        agent_at(workplace, manager, trail, endpoint, AgentSpec(max_cost=0.001)) as agent,
    ):
        end = end_of(await all_of(agent, "Go on for ever."))
    assert end.end is SessionEnd.MAX_COST
    assert len(endpoint.turns) < 3
    assert end.usage.cost > 0.001


async def test_an_error_of_the_model_ends_the_work_with_its_reason(
    workplace: Sandbox, manager: Manager, trail: Trail
) -> None:
    model = ScriptedModel.of(Fail(403, "permission_error", "this account is closed"))
    async with serve(model) as endpoint, agent_at(workplace, manager, trail, endpoint) as agent:
        end = end_of(await all_of(agent, "Hello."))
    assert end.end is SessionEnd.MODEL_ERROR
    assert "this account is closed" in end.message


async def test_a_budget_at_the_proxy_ends_the_work_at_once(workplace: Sandbox, manager: Manager, trail: Trail) -> None:
    model = ScriptedModel.of(*[(ToolUse("Bash", {"command": "true"}),) for _ in range(9)])
    async with serve(model) as endpoint:
        upstream = ModelProxySpec(upstream=endpoint.url, credential=Credential.api_key(KEY))
        upstream = replace(upstream, budget=replace(upstream.budget, calls=2))
        with anyio.fail_after(PATIENCE):
            async with open_claude_agent(
                AgentSpec(),
                workplace,
                trail,
                manager=manager,
                upstream=upstream,
                directory=manager.settings.data / "sessions",
            ) as agent:
                end = end_of(await all_of(agent, "Go on."))
    assert end.end is SessionEnd.MAX_TURNS
    assert "2 of 2 calls" in end.message
    assert len(endpoint.turns) == 2


@pytest.mark.parametrize("named", ["claude-sonnet-4-5-20250929", "claude-opus-4-0", "my-own-model", "opus", "opus[1m]"])
async def test_claude_code_asks_no_model_but_the_one_that_is_named(
    workplace: Sandbox, manager: Manager, trail: Trail, named: str
) -> None:
    await workplace.files.write("long.txt", "A rather long line of text.\n" * 10_000)
    model = ScriptedModel.of((ToolUse("Read", {"file_path": "long.txt", "limit": 10_000}),), (Text("Read."),))
    async with (
        serve(model) as endpoint,
        agent_at(workplace, manager, trail, endpoint, AgentSpec(model=named)) as agent,
    ):
        assert end_of(await all_of(agent, "Read it.")).end is SessionEnd.DONE
    calls = [record.data for record in read_trail(trail.path) if record.kind is EventKind.MODEL_CALLED]
    assert [call["refusal"] for call in calls] == [None] * len(calls)
    (asked,) = {request.model for request in endpoint.requests}
    assert asked == named or (named.startswith("opus") and asked.startswith("claude-opus-"))


async def test_transcripts_are_bounded_in_all_and_what_is_beyond_is_told(place: Path) -> None:
    files = SessionFiles(place / "sessions", secret=KEY, most_bytes=200)
    told: list[Breach] = []
    files.on_breach = told.append
    session = "00000000-0000-4000-8000-000000000000"
    key = SessionKey(project_key="-workspace", session_id=session)
    await files.append(key, [{"type": "user", "message": KEY}])
    assert not told
    await files.append(key, [{"type": "user", "message": "x" * 200}])
    assert "longer transcript" in told[0].message
    assert files.read(session) == b'{"type": "user", "message": "[redacted]"}\n'


async def test_prices_of_ones_own_are_read_from_a_file_and_named_when_they_are_wrong(
    settings: Settings, place: Path
) -> None:
    prices = place / "prices.json"
    own = replace(settings, api_key=KEY, prices=prices)
    async with Manager(own) as manager:
        for wrong in ("{", "[]", '{"m": {"input": 1}}', '{"m": {"input": "1", "output": 2}}'):
            prices.write_text(wrong)
            with pytest.raises(InvalidRequest, match="no prices can be read"):
                ClaudeAgents(manager, place / "sessions")
        prices.write_text('{"my-own-model": {"input": 1.0, "output": 2.0}}')
        ClaudeAgents(manager, place / "sessions")
    own_price = load_prices(prices).cost("my-own-model", TokenUsage(input=1_000_000, output=1_000_000))
    assert own_price == pytest.approx(3.0)
    assert Settings.load({"HOME": "/", "GLOVEPORT_PRICES": str(prices)}).prices == prices


async def test_the_end_of_the_sandbox_ends_the_conversation(manager: Manager, trail: Trail) -> None:
    short = Sandbox(await manager.create(Spec(limits=Limits(sandbox_seconds=5)), trail=trail))
    model = ScriptedModel.of(*[(ToolUse("Bash", {"command": "sleep 98765"}),) for _ in range(9)])
    async with serve(model) as endpoint:
        # While a command runs, or, on a busy machine, before the first one does.
        with pytest.raises(BackendUnavailable, match=r"the sandbox ended|has stopped: timeout"):
            async with agent_at(short, manager, trail, endpoint) as agent:
                await all_of(agent, "Wait.")


async def test_a_huge_result_full_of_quotes_does_not_break_the_session(
    workplace: Sandbox, manager: Manager, trail: Trail
) -> None:
    await workplace.files.write("quotes.txt", '"\\"\n' * 60_000)
    model = ScriptedModel.of(
        (ToolUse("Read", {"file_path": "quotes.txt", "limit": 60_000}), ToolUse("Bash", {"command": "cat quotes.txt"})),
        (Text("Read."),),
    )
    async with serve(model) as endpoint, agent_at(workplace, manager, trail, endpoint) as agent:
        events = await all_of(agent, "Read it.")
    assert [event.is_error for event in returned(events)] == [False, False]
    assert "Read on with offset" in returned(events)[0].text
    assert "characters left out" in returned(events)[1].text
    assert end_of(events).answer == "Read."
    assert "saved to" not in json.dumps(endpoint.turns[-1].body)


async def test_every_call_of_the_model_and_the_command_line_itself_are_in_the_trail(
    workplace: Sandbox, manager: Manager, trail: Trail
) -> None:
    async with (
        serve(ScriptedModel.of((Text("Yes."),))) as endpoint,
        agent_at(workplace, manager, trail, endpoint) as agent,
    ):
        await all_of(agent, "Hello.")
    records = list(read_trail(trail.path))
    calls = [record.data for record in records if record.kind is EventKind.MODEL_CALLED]
    assert [(call["path"], call["status"]) for call in calls] == [("/v1/messages", 200)]
    jail = next(
        record.data["sandbox"]
        for record in records
        if record.kind is EventKind.SANDBOX_CREATED and record.data["sandbox"] != workplace.id
    )
    started = [record.data for record in records if record.kind is EventKind.EXEC_STARTED]
    assert [(exec_["sandbox"], exec_["argv"][0], exec_["shown_as"]) for exec_ in started] == [(jail, JAILED_CLI, "")]
    assert KEY not in trail.path.read_text()


async def test_a_repositorys_own_skills_are_offered_only_when_trusted_and_only_as_checked_copies(
    workplace: Sandbox, manager: Manager, trail: Trail
) -> None:
    files = workplace.files
    good = "---\nname: release\ndescription: Cuts a release of this project.\n---\nTag it.\n"
    await files.write(".claude/skills/release/SKILL.md", good)
    await files.write(
        ".claude/skills/evil/SKILL.md", good.replace("release", "evil").replace("---\nTag", "hooks: {}\n---\nTag")
    )
    async with serve(ScriptedModel.of((Text("a"),), (Text("b"),))) as endpoint:
        async with agent_at(workplace, manager, trail, endpoint) as agent:
            await all_of(agent, "Without trust.")
        trusting = AgentSpec(trust_repository_skills=True)
        async with agent_at(workplace, manager, trail, endpoint, trusting) as agent:
            await all_of(agent, "With trust.")
    untrusted, trusted = (json.dumps(turn.body) for turn in endpoint.turns)
    assert "Cuts a release" not in untrusted
    assert "- release: Cuts a release of this project." in trusted
    assert "- evil:" not in trusted
    reasons = [record.data["reason"] for record in read_trail(trail.path) if record.kind is EventKind.DECISION]
    assert len(reasons) == 1
    assert "'evil'" in reasons[0]
    assert "hooks" in reasons[0]


async def test_without_a_credential_no_agent_is_made(settings: Settings, manager: Manager, place: Path) -> None:
    with pytest.raises(Unauthenticated, match="credential"):
        ClaudeAgents(manager, place / "sessions")


async def test_a_job_runs_with_the_agent_and_leaves_patch_usage_and_refusals(
    manager: Manager, repository: Path, settings: Settings
) -> None:
    edit = {"file_path": "/workspace/calc.py", "old_string": "a - b", "new_string": "a + b"}
    model = ScriptedModel.of(
        (ToolUse("Read", {"file_path": "/workspace/calc.py"}), ToolUse("WebFetch", {"url": "http://example.com"})),
        (ToolUse("Edit", edit),),
        (Text("Fixed."),),
    )
    task = Task(
        prompt="Repair the addition.",
        spec=Spec(source=Source(repo=str(repository))),
        test="python3 -m unittest -q tests.test_calc",
    )
    directory = make_run_directory(settings.data, new_id())
    async with serve(model) as endpoint:
        upstream = ModelProxySpec(upstream=endpoint.url, credential=Credential.api_key(KEY))
        with anyio.fail_after(PATIENCE):
            summary = await run_task(
                task,
                manager=manager,
                make_agent=ClaudeAgents(manager, directory.path / "session", upstream),
                directory=directory,
                listener=lambda event: None,
                redactor=Redactor(),
            )
    assert (summary.state, summary.test_status, summary.changed) == (RunState.SUCCEEDED, 0, ("calc.py",))
    assert summary.usage.turns == 3
    denied = [
        record.data["tool"]
        for record in read_trail(directory.audit)
        if record.kind is EventKind.DECISION and record.data["verdict"] == "deny"
    ]
    assert denied == ["WebFetch"]
