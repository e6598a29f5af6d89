"""Commands and tools that a policy asks about wait at the desk, are answered there, and leave it all in the trail."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from gloveport.errors import PolicyDenied
from gloveport.model import AnswerKind, Approval, EventKind, Policy, Spec
from gloveport.policy.commands import exec_rules
from gloveport.policy.commands.violations import find_violations
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.settings import Settings
from gloveport.store import read_trail
from gloveport.tools.claude import open_claude_tools
from gloveport.tools.standard import call_tool

from ..conftest import PATIENCE, Cli  # noqa: TID252 - tests are no package of ours

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]
ATTEMPTS = 200
ONCE, SANDBOX, ALWAYS, DENY = AnswerKind.ONCE, AnswerKind.SANDBOX, AnswerKind.ALWAYS, AnswerKind.DENY
TOUCH = '[exec]\nask = [{ command = "touch **", reason = "why" }]'


def policy(text: str) -> Policy:
    return merge_layers([compile_layer(parse_document(text.encode(), "p.toml"), "project")])


class Asking:
    """A sandbox whose calls are answered as they come."""

    def __init__(self, manager: Manager, sandbox: Sandbox, trail: Path) -> None:
        self.manager = manager
        self.sandbox = sandbox
        self.trail = trail

    async def question(self) -> Approval:
        with anyio.fail_after(PATIENCE):
            while not (found := self.manager.approvals.pending()):
                await anyio.sleep(0.01)
        (only,) = found
        return only

    async def answered(self, call: Callable[[], Awaitable[Any]], kind: AnswerKind) -> tuple[Approval, Any]:
        """The question that a call poses, and what becomes of the call."""
        outcome: list[Any] = []

        async def make() -> None:
            try:
                outcome.append(await call())
            except PolicyDenied as error:
                outcome.append(error)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(make)
                asked = await self.question()
                self.manager.approvals.answer(asked.id, kind, "ann")
        return asked, outcome[0]

    def events(self, *kinds: EventKind) -> list[Mapping[str, Any]]:
        return [event.data for event in read_trail(self.trail) if event.kind in kinds]


async def asking(manager: Manager, text: str) -> Asking:
    held = await manager.create(Spec(policy=policy(text)))
    assert held.trail is not None
    return Asking(manager, Sandbox(held), held.trail.path)


async def test_each_answer_means_for_a_command_what_it_means_for_a_host(manager: Manager) -> None:
    here = await asking(manager, TOUCH)
    run = here.sandbox.exec

    asked, done = await here.answered(lambda: run(["touch", "a"]), ONCE)
    assert (asked.kind, asked.subject, asked.reason, asked.waiting) == ("exec", "exec touch a", "why", 1)
    assert done.ok
    asked, done = await here.answered(lambda: run(shell_request("touch a")), SANDBOX)
    assert done.ok  # once was once, and the same command in a shell is the same command
    assert (await run(["touch", "a"])).ok
    assert [str(grant) for grant in manager.approvals.grants()] == ["exec touch a"]
    asked, done = await here.answered(lambda: run(["touch", "b"]), DENY)
    assert "ann denied it for this sandbox" in done.message
    with pytest.raises(PolicyDenied, match="ann denied it"):
        await run(["touch", "b"])
    assert not await here.sandbox.files.exists("b")
    started = [facts for facts in here.events(EventKind.EXEC_STARTED) if "grant" in facts]
    made = [facts["grant"] for facts in here.events(EventKind.GRANT_MADE)]
    assert [facts["grant"] for facts in started] == [made[0], made[1], made[1]]
    await manager.delete(here.sandbox.id)
    assert [facts["grant"] for facts in here.events(EventKind.GRANT_EXPIRED)] == [made[1]]
    denied = list(find_violations(read_trail(here.trail)))
    assert [each.data["argv"] for each in denied] == [["touch", "b"]] * 2


async def test_always_holds_for_the_same_command_in_another_sandbox_until_it_is_taken_back(
    manager: Manager, settings: Settings
) -> None:
    first = await asking(manager, TOUCH)
    _, done = await first.answered(lambda: first.sandbox.exec(["touch", "a"]), ALWAYS)
    assert done.ok
    second = await asking(manager, TOUCH)
    assert (await second.sandbox.exec(["touch", "a"])).ok
    (grant,) = json.loads((settings.data / "grants.json").read_text())
    assert (grant["kind"], grant["name"], grant["until"] - grant["granted_at"]) == ("exec", "touch a", 30 * 86_400)
    for other in (["touch", "b"], ["touch", "a", "a"]):
        _, done = await second.answered(lambda other=other: second.sandbox.exec(other), DENY)  # type: ignore[misc]
        assert isinstance(done, PolicyDenied)
    manager.approvals.revoke(grant["id"], "ann")
    _, done = await second.answered(lambda: second.sandbox.exec(["touch", "a"]), DENY)
    assert isinstance(done, PolicyDenied)


async def test_no_grant_undoes_a_rule_that_denies_nor_one_of_another_kind(manager: Manager) -> None:
    here = await asking(manager, TOUCH + '\ndeny = ["touch secret"]\n[tools]\nask = ["touch a"]')
    _, done = await here.answered(lambda: here.sandbox.exec(["touch", "a"]), SANDBOX)
    assert done.ok
    with pytest.raises(PolicyDenied, match="not allowed"):
        await here.sandbox.exec(shell_request("touch a; touch secret"))
    assert manager.approvals.pending() == []


async def test_nobody_in_time_is_a_no(settings: Settings) -> None:
    async with Manager(settings, ask_seconds=0.05) as manager:
        here = await asking(manager, TOUCH + '\n[tools]\nask = ["file_write"]')
        with anyio.fail_after(PATIENCE), pytest.raises(PolicyDenied, match="why; nobody allowed it within 0"):
            await here.sandbox.exec(["touch", "a"])
        refused = await call_tool(here.sandbox, "file_write", {"path": "a", "content": "x"})
        assert "nobody allowed it within 0.05 s" in str(refused.error)
        assert not await here.sandbox.files.exists("a")
        assert len(here.events(EventKind.APPROVAL_EXPIRED)) == 2
        assert [each.rule[:9] for each in find_violations(read_trail(here.trail))] == ["exec.ask:", "tools.ask"]


async def test_a_sandbox_that_ends_ends_the_wait(manager: Manager) -> None:
    here = await asking(manager, TOUCH)
    outcome: list[PolicyDenied] = []

    async def run() -> None:
        with pytest.raises(PolicyDenied) as refused:
            await here.sandbox.exec(["touch", "a"])
        outcome.append(refused.value)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await here.question()
            await manager.delete(here.sandbox.id)
    assert "the sandbox ended" in outcome[0].message
    assert manager.approvals.pending() == []


async def test_a_tool_is_asked_about_with_its_arguments_and_granted_by_its_name(manager: Manager) -> None:
    here = await asking(manager, '[tools]\nask = ["file_write"]')

    async def write(name: str) -> Any:
        return await call_tool(here.sandbox, "file_write", {"path": name, "content": name})

    asked, done = await here.answered(lambda: write("a"), ONCE)
    assert asked.subject.startswith('tool file_write {"content": "a", "create_dirs": true, "path": "a"')
    assert done.error is None
    _, done = await here.answered(lambda: write("a"), SANDBOX)
    assert (await write("b")).error is None
    assert [str(grant) for grant in manager.approvals.grants()] == ["tool file_write"]
    used = [facts["grant"] for facts in here.events(EventKind.DECISION)]
    made = [facts["grant"] for facts in here.events(EventKind.GRANT_MADE)]
    assert used == [made[0], made[1], made[1]]


async def test_a_tool_call_too_long_to_be_read_is_refused_unless_its_tool_is_granted(manager: Manager) -> None:
    here = await asking(manager, '[tools]\nask = ["file_write"]')

    async def write(content: str) -> Any:
        return await call_tool(here.sandbox, "file_write", {"path": "a", "content": content})

    with anyio.fail_after(PATIENCE):
        assert "more than a person is asked to read" in str((await write("x" * 5000)).error)
    assert manager.approvals.pending() == []
    asked, done = await here.answered(lambda: write("x" * 3900 + "end"), SANDBOX)
    assert "xend" in asked.subject
    assert done.error is None
    assert (await write("x" * 5000)).error is None


async def test_a_command_of_a_tool_is_analysed_once(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(given: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def count(what: Any) -> Any:
            read.append(str(what))
            return given(what)

        return count

    monkeypatch.setattr(exec_rules, "read_argv", counted(exec_rules.read_argv))
    monkeypatch.setattr("gloveport.policy.security.read_shell", counted(pytest.fail))
    here = await asking(manager, '[exec]\ndeny = ["rm **"]')
    async with open_claude_tools(here.sandbox) as tools:
        assert not (await tools.call("Bash", {"command": "printf once"})).is_error
        assert not (await call_tool(here.sandbox, "shell", {"command": "printf twice"})).error
    assert ["once" in text for text in read] == [True, False]


DOORS: dict[str, Callable[[Sandbox], Awaitable[object]]] = {
    "exec": lambda sandbox: sandbox.exec(["touch", "a"]),
    "shell -c": lambda sandbox: sandbox.exec(shell_request("touch a")),
    "start": lambda sandbox: sandbox.start(["touch", "a"]),
    "pty": lambda sandbox: sandbox.pty(["touch", "a"]),
    "tool shell": lambda sandbox: _refused(call_tool(sandbox, "shell", {"command": "touch a"})),
    "tool Bash": lambda sandbox: _bash(sandbox, {"command": "touch a"}),
    "tool Bash, in the background": lambda sandbox: _bash(sandbox, {"command": "touch a", "run_in_background": True}),
}


async def _refused(call: Awaitable[Any]) -> None:
    found = await call
    if found.error and "touch" in found.error:
        raise PolicyDenied(found.error, hint="", rule="")


async def _bash(sandbox: Sandbox, arguments: Mapping[str, Any]) -> None:
    async with open_claude_tools(sandbox) as tools:
        found = await tools.call("Bash", arguments)
        if found.is_error:
            raise PolicyDenied(found.text, hint="", rule="")


@pytest.mark.parametrize("door", DOORS)
async def test_every_door_meets_the_rule_once_and_is_open_without_it(manager: Manager, door: str) -> None:
    here = await asking(manager, '[exec]\ndeny = [{ command = "touch **", reason = "no touch" }]')
    with anyio.fail_after(PATIENCE), pytest.raises(PolicyDenied, match="no touch"):
        await DOORS[door](here.sandbox)
    assert [each.reason.partition(" (")[0] for each in find_violations(read_trail(here.trail))] == ["no touch"]
    assert here.events(EventKind.EXEC_STARTED) == []
    free = Sandbox(await manager.create(Spec()))
    with anyio.fail_after(PATIENCE):
        await DOORS[door](free)


def test_a_command_is_answered_from_a_second_terminal(cli: Cli, place: Path) -> None:
    (place / "p.toml").write_text(TOUCH)
    name = cli.create("--empty", "--policy", str(place / "p.toml"))
    waiting = cli.start("exec", name, "--", "sh", "-c", "touch 'a b' && echo done")
    for _ in range(ATTEMPTS):
        found = json.loads(cli.ok("approvals", "--json"))
        if found:
            break
    (asked,) = found
    assert (asked["sandbox"], asked["kind"], asked["subject"]) == (name, "exec", "exec touch 'a b'")
    assert "exec touch 'a b'" in cli.ok("approvals")
    said = cli.ok("approvals", "allow", asked["id"])
    assert said.startswith("allowed exec touch 'a b' until it has started: grant ")
    assert waiting.communicate(timeout=PATIENCE)[0] == b"done\n"
    kinds = [json.loads(line)["kind"] for line in cli.ok("logs", name, "--json").splitlines()]
    assert kinds[1:5] == ["approval.asked", "approval.answered", "grant.made", "exec.started"]
