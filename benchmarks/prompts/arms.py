"""The two ways to run a task's calls: Claude Code's regular permissions, and Gloveport's boundary; real parts in both.

The regular permissions are those of the real command line, in the mode `default`, with its own tools. It runs in a
sandbox with the project, so that nothing it is allowed can hurt this machine; what that sandbox asks itself is answered
without being counted. Both begin with the same project, on the same host, under the same policy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import anyio
from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    PermissionResultAllow,
    ResultMessage,
    ToolPermissionContext,
    __version__,
)

from benchmarks.prompts.project import VARIABLES, make_project
from benchmarks.prompts.script import Task, play
from gloveport.agents.jail import JAILED_CLI, MODEL_SOCKET, find_cli
from gloveport.agents.model_proxy import Credential, ModelProxySpec
from gloveport.agents.recipe import CONFIG_HOME
from gloveport.agents.rooms import open_room
from gloveport.agents.service import AgentSpec, open_claude_agent
from gloveport.agents.transport import JailTransport
from gloveport.model import (
    GIB,
    AnswerKind,
    Bind,
    EventKind,
    ExecRequest,
    Limits,
    Policy,
    SessionEnd,
    SessionEnded,
    Spec,
)
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Manager, Sandbox
from gloveport.store import Trail, read_trail
from gloveport.testing import Endpoint, serve
from gloveport.testing.claude_code import PLACEHOLDER_KEY

__all__ = ["POLICY", "Answering", "Outcome", "run_at_the_boundary", "run_with_regular_permissions"]

POLICY = b'[egress]\ndefault = "ask"\n'
"""Every host is asked about; none is allowed or refused beforehand. Commands are not asked about: walls bound them."""
_SECONDS = 900.0
_LOOK_SECONDS = 0.02
_PERSON = "person"
_CLI_VARIABLES = {
    "ANTHROPIC_API_KEY": PLACEHOLDER_KEY,
    "ANTHROPIC_BASE_URL": "http://localhost",
    "ANTHROPIC_UNIX_SOCKET": MODEL_SOCKET,
    "CLAUDE_CONFIG_DIR": CONFIG_HOME,
    "CLAUDE_CODE_TMPDIR": "/tmp",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
    "ENABLE_TOOL_SEARCH": "0",
    "CLAUDE_AGENT_SDK_VERSION": __version__,
}
_CLI_ARGUMENTS = (
    "--output-format=stream-json",
    "--input-format=stream-json",
    "--verbose",
    "--permission-prompt-tool=stdio",
    "--permission-mode=default",
    "--setting-sources=",
    "--tools=Bash,Read,Edit,Write,Glob,Grep",
)


class Answering(StrEnum):
    """How the person answers, in both arms. Everything is allowed."""

    EACH_TIME = "each time"
    """Yes, this once."""
    FOR_GOOD = "not again"
    """Yes, and what is offered against being asked again: the rules that Claude Code suggests, a grant for the
    sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One task in one arm."""

    task: str
    cli: str
    """The command line's name and version, as it told the model."""
    calls: int
    """Tool calls that came back to the model."""
    failed: tuple[str, ...] = ()
    """Of those, by the tool's name: the ones that came back as an error, such as a command's non-zero status."""
    approvals: tuple[str, ...] = ()
    """What a person was asked, one entry for each time: the id of the tool call, or of the grant that was given."""
    about: tuple[str, ...] = ()
    """What each of them was about: the tool's name, or the host's."""


@dataclass(slots=True)
class _Person:
    """Says yes, and remembers."""

    answering: Answering
    approvals: list[str] = field(default_factory=list)
    about: list[str] = field(default_factory=list)

    async def allow_tool(
        self, tool: str, _asked: dict[str, Any], context: ToolPermissionContext
    ) -> PermissionResultAllow:
        """The answer to Claude Code."""
        self.approvals.append(context.tool_use_id or "")
        self.about.append(tool)
        if self.answering is Answering.FOR_GOOD:
            return PermissionResultAllow(updated_permissions=context.suggestions)
        return PermissionResultAllow()

    async def attend(self, manager: Manager, sandbox: str) -> None:
        """Answer what a sandbox asks, until cancelled."""
        kind = AnswerKind.ONCE if self.answering is Answering.EACH_TIME else AnswerKind.SANDBOX
        while True:
            for asked in manager.approvals.pending():
                if asked.sandbox == sandbox:
                    grant = manager.approvals.answer(asked.id, kind, _PERSON)
                    self.approvals.append(grant.id if grant is not None else "")
                    self.about.append(asked.host)
            await anyio.sleep(_LOOK_SECONDS)


async def run_with_regular_permissions(task: Task, answering: Answering, manager: Manager) -> Outcome:
    """The real command line with its own tools; counted is every call of `can_use_tool`."""
    person, bystander = _Person(answering), _Person(Answering.FOR_GOOD)
    with open_room(manager.settings.state) as room, closing(Trail(room.path / "trail.jsonl")) as trail:
        async with serve(play(task), uds=room.socket) as endpoint:
            room.open_socket()
            async with _sandbox(manager, trail, bystander, cli=find_cli(), socket=room.socket) as sandbox:
                request = ExecRequest(
                    argv=(JAILED_CLI, *_CLI_ARGUMENTS), stdin=True, timeout=_SECONDS, output_bytes=2**62, shown_as=""
                )
                client = ClaudeSDKClient(
                    ClaudeAgentOptions(can_use_tool=person.allow_tool), JailTransport(lambda: sandbox.start(request))
                )
                async with client:
                    await client.query(task.prompt)
                    async for message in client.receive_response():
                        if isinstance(message, ResultMessage) and message.is_error:
                            raise RuntimeError(f"{task.name}: Claude Code ended with {message.result}")
            return _outcome(task, endpoint, person)


async def run_at_the_boundary(task: Task, answering: Answering, manager: Manager) -> Outcome:
    """An agent of the agent service; counted is every answer that a person gives at the desk.

    The count is taken from the audit trail as well, and must be the same there.
    """
    person = _Person(answering)
    with open_room(manager.settings.state) as room, closing(Trail(path := room.path / "trail.jsonl")) as trail:
        async with (
            serve(play(task)) as endpoint,
            _sandbox(manager, trail, person) as sandbox,
            open_claude_agent(
                AgentSpec(max_turns=len(task.calls) + 1),
                sandbox,
                trail,
                manager=manager,
                upstream=ModelProxySpec(upstream=endpoint.url, credential=Credential.api_key(PLACEHOLDER_KEY)),
                directory=room.path / "sessions",
            ) as agent,
        ):
            async for event in agent.converse(task.prompt):
                if isinstance(event, SessionEnded) and event.end is not SessionEnd.DONE:
                    raise RuntimeError(f"{task.name}: the session ended with {event.end}: {event.message}")
        recorded = [event.data["grant"] for event in read_trail(path) if event.kind is EventKind.APPROVAL_ANSWERED]
        if recorded != person.approvals:
            raise RuntimeError(f"{task.name}: {len(person.approvals)} answers, of which the trail has {len(recorded)}")
        return _outcome(task, endpoint, person)


@asynccontextmanager
async def _sandbox(
    manager: Manager, trail: Trail, person: _Person, *, cli: Path | None = None, socket: Path | None = None
) -> AsyncIterator[Sandbox]:
    """A sandbox with the project in it, whose questions `person` answers; with the command line if one is given."""
    limits = Limits(exec_seconds=_SECONDS, memory_bytes=4 * GIB)
    plan = await manager.plan(Spec(policy=_policy(), env=VARIABLES, limits=limits))
    if cli is not None and socket is not None:
        binds = (Bind(str(cli), JAILED_CLI), Bind(str(socket), MODEL_SOCKET))
        plan = replace(plan, mounts=(*plan.mounts, *binds), env={**plan.env, **_CLI_VARIABLES})
    held = await manager.apply(plan, trail=trail)
    try:
        sandbox = Sandbox(held)
        await make_project(sandbox)
        async with _meanwhile(lambda: person.attend(manager, sandbox.id)):
            yield sandbox
    finally:
        with anyio.CancelScope(shield=True):
            await manager.delete(held.ref.id)


@asynccontextmanager
async def _meanwhile(task: Callable[[], Any]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task)
        yield
        tasks.cancel_scope.cancel()


def _policy() -> Policy:
    return merge_layers([compile_layer(parse_document(POLICY, "benchmark"), "project")])


def _outcome(task: Task, endpoint: Endpoint, person: _Person) -> Outcome:
    """What came back for each call, from the last request that the model got."""
    results = {result.tool_use_id: result.is_error for result in endpoint.turns[-1].tool_results}
    # The scripted model's ids end with the number of the turn and of the block.
    names = {f"toolu_script_0_{number}_0": call.use.name for number, call in enumerate(task.calls)}
    return Outcome(
        task=task.name,
        cli=endpoint.turns[0].headers["user-agent"].partition(" ")[0],
        calls=len(results),
        failed=tuple(names[use] for use, failed in results.items() if failed),
        approvals=tuple(person.approvals),
        about=tuple(person.about),
    )
