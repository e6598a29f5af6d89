"""R3: the agent itself again, its model a tape, its tools real."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path

from gloveport.agents.model_player import Miss, TapeTransport
from gloveport.agents.model_proxy import Credential, ModelProxySpec
from gloveport.agents.model_tape import Opening, Tape
from gloveport.agents.service import AgentSpec, AgentTools, Playback, open_claude_agent
from gloveport.model import SessionEnd, SessionEnded, new_id
from gloveport.sandbox import Manager, Sandbox
from gloveport.store import Trail, make_private
from gloveport.trajectory.replay.calls import open_replay_tools
from gloveport.trajectory.replay.driven import DrivenTools
from gloveport.trajectory.replay.engine import PlayIn, conclude
from gloveport.trajectory.replay.execution import ReplayRequest, StepPlayer
from gloveport.trajectory.replay.result import (
    Aspect,
    Difference,
    Divergence,
    DivergenceKind,
    ReplayResult,
    difference_of,
    unified,
)

__all__ = ["agent_spec", "session_replay"]

_MODEL = ModelProxySpec(upstream="http://tape.invalid", credential=Credential.api_key("the-tape-asks-for-no-key"))
_AGENT = "(the agent)"


def session_replay(tape: Tape, manager: Manager) -> PlayIn:
    """The way to replay a run whose traffic with its model is on `tape`.

    The agent works on its prompt anew. Its model's answers come from the tape, each to the recorded request and to no
    other; its tool calls are executed. What the jail does is recorded in a trail of its own. Raises what
    `open_claude_agent` and `ClaudeAgent.converse` raise.
    """

    async def play(request: ReplayRequest, sandbox: Sandbox) -> ReplayResult:
        began = time.monotonic()
        player = StepPlayer(request, sandbox)
        transport = TapeTransport(tape)
        async with open_replay_tools(sandbox) as tools:
            driven = DrivenTools(player, tools, request.trajectory.steps, tape.told())
            ended = await _converse(tape, transport, driven, sandbox, manager)
        driven.finish()
        player.notes.append(f"{transport.served} of {len(tape.exchanges)} exchanges with the model came from the tape")
        further = list(_misses(request, tape, transport, player, ended))
        return await conclude(request, player, began, further=further)

    return play


def agent_spec(opening: Opening) -> AgentSpec:
    """The request for a session that begins as the recorded one did."""
    return AgentSpec(
        model=opening.model,
        max_turns=opening.max_turns,
        max_cost=opening.max_cost,
        trust_repository_skills=opening.trust_repository_skills,
    )


async def _converse(
    tape: Tape, transport: TapeTransport, driven: DrivenTools, sandbox: Sandbox, manager: Manager
) -> SessionEnded | None:
    @asynccontextmanager
    async def open_tools(_: Sandbox) -> AsyncIterator[AgentTools]:
        yield driven

    playback = Playback(transport=transport, open_tools=open_tools, date=tape.date)
    ended = None
    with _trail(manager) as trail, tempfile.TemporaryDirectory(dir=manager.settings.state) as scratch:
        async with open_claude_agent(
            agent_spec(tape.opening),
            sandbox,
            trail,
            manager=manager,
            upstream=_MODEL,
            directory=Path(scratch),
            playback=playback,
        ) as agent:
            async for event in agent.converse(tape.opening.prompt):
                if isinstance(event, SessionEnded):
                    ended = event
    return ended


@contextmanager
def _trail(manager: Manager) -> Iterator[Trail]:
    audit = make_private(manager.settings.data / "audit")
    trail = Trail(audit / f"replay-{new_id()}.jsonl", redactor=manager.redactor)
    try:
        yield trail
    finally:
        trail.close()


def _misses(
    request: ReplayRequest, tape: Tape, transport: TapeTransport, player: StepPlayer, ended: SessionEnded | None
) -> Iterator[Divergence]:
    """The first request that was not on the tape; or those on the tape that nobody made."""
    last = max(0, len(request.trajectory.steps) - 1)
    if transport.misses:
        miss = transport.misses[0]
        yield _divergence(
            _step_of(request, tape, miss.exchange, last), _reason(miss, tape, player), _difference(miss), player
        )
    elif transport.left:
        due = transport.left[0]
        said = f"{len(transport.left)} recorded exchanges with the model were not asked for, from {due.number} on"
        how = f"it ended with {ended.end}: {ended.message}" if ended is not None else "it said nothing of its end"
        difference = difference_of(Aspect.MODEL, f"exchange {due.number}", how, "session")
        yield _divergence(_step_of(request, tape, due.number, last), said, difference, player)
    elif ended is not None and ended.end is SessionEnd.INTERRUPTED:
        difference = difference_of(Aspect.MODEL, "its last answer", ended.message, "session")
        yield _divergence(last, "the session was interrupted", difference, player)


def _divergence(step: int, reason: str, difference: Difference, player: StepPlayer) -> Divergence:
    earlier = next((one.kind for one in player.divergences if one.step <= step), None)
    kind = earlier or DivergenceKind.BEHAVIOUR
    return Divergence(step=step, tool=_AGENT, kind=kind, reason=reason, differences=(difference,))


def _reason(miss: Miss, tape: Tape, player: StepPlayer) -> str:
    if player.divergences:
        return f"{miss.reason}: step {player.divergences[0].step} diverged before it"
    now = version("claude-agent-sdk")
    if tape.opening.sdk != now:
        return f"{miss.reason}: it was recorded with Agent SDK {tape.opening.sdk}, and this is {now}"
    return miss.reason


def _difference(miss: Miss) -> Difference:
    diff = unified(miss.recorded, miss.asked, miss.place)
    return Difference(aspect=Aspect.MODEL, recorded=miss.recorded, replayed=miss.asked, diff=diff)


def _step_of(request: ReplayRequest, tape: Tape, exchange: int, last: int) -> int:
    """The first step that an exchange, or one after it, asks for."""
    answers = b"".join(taped.answer for taped in tape.exchanges if taped.number >= exchange)
    return next(
        (number for number, step in enumerate(request.trajectory.steps) if step.call and step.call.encode() in answers),
        last,
    )
