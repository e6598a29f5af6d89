"""The agent service: a Claude session whose command line sits in a jail and whose tools work in a sandbox."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import anyio
import httpx2
from claude_agent_sdk import ClaudeSDKClient, ClaudeSDKError, CLIConnectionError, ProcessError

from gloveport.agents.bounds import Breach, Hearing
from gloveport.agents.events import EventReader
from gloveport.agents.guard import Guard
from gloveport.agents.jail import JailSpec, find_cli, open_jail
from gloveport.agents.model_budget import Exhaustion, Spend
from gloveport.agents.model_proxy import ModelCall, ModelProxy, ModelProxySpec, serve_model_proxy
from gloveport.agents.model_rules import rules_for
from gloveport.agents.model_tape import Opening, TapeWriter
from gloveport.agents.recipe import CLI_VARIABLES, CONFIG_HOME, DATE_VARIABLE, build_recipe, cli_arguments
from gloveport.agents.rooms import open_room
from gloveport.agents.session_files import SessionFiles
from gloveport.agents.skillset import Skill, install_skills, repository_skills, shipped_skills
from gloveport.agents.transport import JailTransport
from gloveport.errors import BackendUnavailable, GloveportError
from gloveport.model import EventKind, SessionEnded, SessionEvent, Usage, new_id
from gloveport.sandbox import Manager, Sandbox
from gloveport.store import Trail
from gloveport.tools.claude import Answer, open_claude_tools

__all__ = ["SESSION_SECONDS", "AgentSpec", "AgentTools", "ClaudeAgent", "Playback", "open_claude_agent"]

SESSION_SECONDS = 24 * 3600.0
_PROJECT = "-workspace"
"""What the command line calls the project in its working directory."""
_CALLS_PER_TURN = 3
_MORE_CALLS = 20
"""Requests to the model that one prompt may take: a turn may be tried again, and large tool results are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """The declarative request for one agent session."""

    model: str | None = None
    """The one model that may be asked, or a family's name (`sonnet`) for any of it; None leaves it to Claude Code."""
    max_turns: int = 50
    """Answers of the model to one prompt. Claude Code counts them; the proxy lets 3 requests each pass, and 20 more."""
    max_cost: float | None = None
    """US dollars of the whole session, kept by the proxy. What the requests in flight still answer may pass it."""
    resume: str | None = None
    """The id of the session to go on with."""
    trust_repository_skills: bool = False
    """Offer the repository's own `.claude/skills`, as validated copies; one named like a shipped skill replaces it."""
    seconds: float = SESSION_SECONDS
    """Wall time of the session."""


class AgentTools(Protocol):
    """Carries out the tool calls of a session."""

    async def call(self, name: str, params: object, *, call: str | None = None) -> Answer:
        """Carry out one, whose id is `call`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Playback:
    """What stands in the place of the world when a recorded session is played again."""

    transport: httpx2.AsyncBaseTransport
    """Asked in the model's place."""
    open_tools: Callable[[Sandbox], AbstractAsyncContextManager[AgentTools]]
    date: str | None = None
    """The day that the session takes for today, as in 2026-11-22."""


class ClaudeAgent:
    """One conversation. Prompts are answered one after another; the session's id is in every `SessionEnded`."""

    def __init__(
        self,
        client: ClaudeSDKClient,
        guard: Guard,
        work: _Work,
        spec: AgentSpec,
        proxy: ModelProxy,
        *,
        tape: TapeWriter | None = None,
    ) -> None:
        self._client = client
        self._spec = spec
        self._tape = tape
        self._guard = guard
        self._work = work
        self._calls = _CALLS_PER_TURN * spec.max_turns + _MORE_CALLS
        self._proxy = proxy

    async def converse(self, prompt: str) -> AsyncIterator[SessionEvent]:
        """Work on `prompt`; the last event is `SessionEnded`, whatever the model, a limit or the command line did.

        `BackendUnavailable` when the sandbox fails or the command line dies. Leave early with `interrupt`. After a
        command line that broke the protocol, there is no other prompt.
        """
        if self._tape is not None:
            self._tape.open(_opening(prompt, self._spec))
        account = _Account(self._proxy, self._proxy.open_prompt(self._calls))
        reader = EventReader(self._guard, account, Hearing())
        try:
            async with aclosing(self._answer(prompt, reader)) as events:
                async for event in events:
                    yield event
        except BackendUnavailable as error:
            ended = reader.cut_off(error)
            if ended is None:
                raise
            await _disconnect(self._client)
            yield ended

    async def _answer(self, prompt: str, reader: EventReader) -> AsyncGenerator[SessionEvent]:
        with _failures_translated():
            await self._client.query(prompt)
            async for message in self._client.receive_response():
                if self._work.failure is not None:
                    raise self._work.failure
                for event in reader.read(message):
                    yield event
                    if isinstance(event, SessionEnded):
                        return
        raise BackendUnavailable(
            "the agent's command line ended before its answer did", hint="resume the session, or start a new one"
        )

    async def interrupt(self) -> None:
        """Stop working: the request to the model is dropped and the running command killed, with all it started.

        `converse` then ends with `SessionEnd.INTERRUPTED`, and the next prompt may follow.
        """
        with _failures_translated():
            await self._client.interrupt()


@asynccontextmanager
async def open_claude_agent(
    spec: AgentSpec,
    sandbox: Sandbox,
    trail: Trail,
    *,
    manager: Manager,
    upstream: ModelProxySpec,
    directory: Path,
    tape: TapeWriter | None = None,
    playback: Playback | None = None,
) -> AsyncIterator[ClaudeAgent]:
    """An agent that works in `sandbox`. Leaving the scope ends the session; the sandbox stays.

    `upstream` says where its model is, with which credential and bounds; those of `spec` are kept beside them.
    `directory` keeps what is said, for resuming; `tape` what passes between the session and its model, for `playback`.
    What the jail does and every call of the model is written to `trail`. Raises `BackendUnavailable` and `Unsupported`
    where this host has no jail to offer, `InvalidRequest` and `NotFound` for a session that cannot be resumed.
    """
    sessions = SessionFiles(directory, secret=upstream.credential.secret)
    history = sessions.read(spec.resume) if spec.resume is not None else None
    skills, refused = await _choose_skills(spec, sandbox)
    for reason in refused:
        trail.append(EventKind.DECISION, {"sandbox": sandbox.id, "verdict": "deny", "reason": reason})
    guard = Guard((skill.name for skill in skills), sandbox.policy)
    skills = [skill for skill in skills if skill.name in guard.skills]
    async with AsyncExitStack() as stack:
        room = stack.enter_context(open_room(manager.settings.state))
        proxy = await stack.enter_async_context(
            serve_model_proxy(
                room.socket,
                _bounded(upstream, spec),
                on_call=lambda call: _record(trail, sandbox.id, call),
                tape=tape,
                transport=playback.transport if playback is not None else None,
            )
        )
        room.open_socket()
        today = {DATE_VARIABLE: playback.date} if playback is not None and playback.date is not None else {}
        asked = JailSpec(
            id=f"agent-{new_id()}",
            cli=find_cli(),
            socket=room.socket,
            seconds=spec.seconds,
            env={**CLI_VARIABLES, **today},
        )
        jail = await stack.enter_async_context(open_jail(asked, manager, trail))
        await install_skills(sandbox.files, skills)
        await install_skills(jail.files, skills)
        if history is not None:
            await jail.files.write(f"{CONFIG_HOME}/projects/{_PROJECT}/{spec.resume}.jsonl", history, mode=0o600)
        open_tools = playback.open_tools if playback is not None else open_claude_tools
        work = _Work(await stack.enter_async_context(open_tools(sandbox)))
        recipe = build_recipe(
            work.call,
            guard,
            skills=[skill.name for skill in skills],
            model=spec.model,
            max_turns=spec.max_turns,
            max_cost=spec.max_cost,
            resume=spec.resume,
            sessions=sessions,
        )
        transport = JailTransport(lambda: jail.start(cli_arguments(recipe)))
        work.id_of = transport.calls.take

        def stop(breach: Breach) -> None:
            work.failure = work.failure or breach
            transport.stop(breach)

        sessions.on_breach = stop
        proxy.on_shut = lambda why: stop(Breach(f"misused the model proxy: {why}"))
        client = ClaudeSDKClient(recipe, transport)
        with _failures_translated():
            await client.connect()
        stack.push_async_callback(_disconnect, client)
        yield ClaudeAgent(client, guard, work, spec, proxy, tape=tape)


@dataclass(frozen=True, slots=True)
class _Account:
    """What one prompt has consumed since `before`, by the proxy's count."""

    proxy: ModelProxy
    before: Spend

    @property
    def exhaustion(self) -> Exhaustion | None:
        return self.proxy.exhaustion

    def usage(self, turns: int) -> Usage:
        spend, before = self.proxy.spend, self.before
        return Usage(
            turns=turns,
            input_tokens=spend.input_tokens - before.input_tokens,
            output_tokens=spend.output_tokens - before.output_tokens,
            cost=spend.cost - before.cost,
            priced=spend.unpriced_tokens == before.unpriced_tokens,
        )


@dataclass(slots=True)
class _Work:
    """The session's tools, and the failure that ends their use."""

    tools: AgentTools
    failure: GloveportError | None = None
    id_of: Callable[[str, object], str] | None = None
    """The id of a call that begins, by which the session tells of it."""

    async def call(self, name: str, params: object) -> Answer:
        call = self.id_of(name, params) if self.id_of is not None else ""
        try:
            return await self.tools.call(name, params, call=call)
        except GloveportError as error:
            self.failure = error
            return Answer(f"The sandbox does not answer: {error.message}", is_error=True)


async def _choose_skills(spec: AgentSpec, sandbox: Sandbox) -> tuple[Sequence[Skill], Sequence[str]]:
    chosen = {skill.name: skill for skill in shipped_skills()}
    refused: Sequence[str] = ()
    if spec.trust_repository_skills:
        own, refused = await repository_skills(sandbox.files)
        chosen |= {skill.name: skill for skill in own}
    return tuple(chosen.values()), refused


def _opening(prompt: str, spec: AgentSpec) -> Opening:
    return Opening(
        prompt=prompt,
        sdk=version("claude-agent-sdk"),
        model=spec.model,
        max_turns=spec.max_turns,
        max_cost=spec.max_cost,
        trust_repository_skills=spec.trust_repository_skills,
    )


async def _disconnect(client: ClaudeSDKClient) -> None:
    with anyio.CancelScope(shield=True):
        await client.disconnect()


def _bounded(upstream: ModelProxySpec, spec: AgentSpec) -> ModelProxySpec:
    """`upstream` with the session's own bounds: the stricter one wins, and what `upstream` says of models."""
    rules, budget = upstream.rules, upstream.budget
    if rules.models is None:
        rules = replace(rules_for(spec.model), allow_remote_tools=rules.allow_remote_tools)
    costs = [cost for cost in (budget.cost, spec.max_cost) if cost is not None]
    return replace(upstream, rules=rules, budget=replace(budget, cost=min(costs, default=None)))


def _record(trail: Trail, sandbox: str, call: ModelCall) -> None:
    usage = call.usage
    trail.append(
        EventKind.MODEL_CALLED,
        {
            "sandbox": sandbox,
            "path": call.path,
            "model": call.model,
            "status": call.status,
            "refusal": call.refusal,
            "input_tokens": usage.total - usage.output if usage else None,
            "output_tokens": usage.output if usage else None,
            "cost": call.cost,
            "duration": round(call.duration, 6),
            "request_bytes": call.request_bytes,
            "response_bytes": call.response_bytes,
        },
    )


_GONE = (CLIConnectionError, ProcessError)
_UNREADABLE = (ClaudeSDKError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the SDK raises else, of its own and from within, when a message is not what it expects."""


@contextmanager
def _failures_translated() -> Iterator[None]:
    """The SDK's failures as ours. Some of them it raises as bare `Exception`."""
    try:
        yield
    except GloveportError:
        raise
    except Exception as error:
        if isinstance(error, _UNREADABLE) and not isinstance(error, _GONE):
            raise Breach(f"sent a message that cannot be read ({type(error).__name__}: {error})") from error
        raise BackendUnavailable(
            f"the agent's command line failed: {error}", hint="try again; the session can be resumed if it has an id"
        ) from error
