"""R4: a run goes on another way: its first steps from the record, then a model that is really asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

from gloveport.agents.forwarding import upstream_client
from gloveport.agents.model_player import TapeTransport
from gloveport.agents.model_proxy import ModelProxySpec
from gloveport.agents.model_tape import Tape, TapeWriter
from gloveport.agents.service import AgentTools, ClaudeAgent, Playback, open_claude_agent
from gloveport.agents.task_agents import upstream_of
from gloveport.compose_replay.session import agent_spec
from gloveport.doctor.receipt import current_receipt
from gloveport.egress import EgressTape
from gloveport.errors import InvalidRequest
from gloveport.jobs import Listener, RunDirectory, make_run_directory, run_directory, run_task
from gloveport.model import RunSummary, Source, Spec, Task, new_id
from gloveport.sandbox import Manager, Sandbox
from gloveport.sandbox.egress import taping
from gloveport.settings import Settings
from gloveport.store import Trail
from gloveport.tools.claude import open_claude_tools
from gloveport.trajectory import Trajectory
from gloveport.trajectory.replay.base import RecordedBase, fresh_plan
from gloveport.trajectory.replay.calls import replay_tools
from gloveport.trajectory.replay.driven import DrivenTools
from gloveport.trajectory.replay.execution import ReplayRequest, StepPlayer

__all__ = ["ForkPoint", "fork_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """A run, and where it is left."""

    summary: RunSummary
    trajectory: Trajectory
    base: RecordedBase
    tape: Tape
    step: int
    """Tool calls before this one come from the record; the turn that asks for it is the first that is live. A turn
    that asks for several is played or live as a whole."""
    model: str | None = None
    """Asked from there on; the recorded one unless given."""

    @property
    def exchanges(self) -> int:
        """How many exchanges with the model are played."""
        if not self.step:
            return 0
        last = self.trajectory.steps[self.step - 1].call.encode()
        found = [taped.number for taped in self.tape.exchanges if last and last in taped.answer]
        if not found:
            raise InvalidRequest(
                f"the tape does not have the turn that asks for step {self.step - 1}", hint="fork at an earlier step"
            )
        return found[0] + 1


async def fork_run(point: ForkPoint, settings: Settings, listener: Listener) -> RunSummary:
    """Carry out a new run that is the recorded one up to the fork. Its model is that of the settings.

    The recorded plan, prompt, test and bounds hold. Where a step of the first part comes out otherwise, the next
    question to the model is not the recorded one: the run fails there, says which step it was, and nobody else is
    asked. Raises as `run_task`, `fresh_plan` and `TapeWriter`; `Unauthenticated` without a key.
    """
    upstream, count, run = upstream_of(settings), point.exchanges, new_id()
    async with AsyncExitStack() as stack:
        fetched = EgressTape(run_directory(settings.data, run).fetched)
        manager = await stack.enter_async_context(Manager(settings, ask_seconds=0, make_gate=taping(fetched)))
        plan, notes = await fresh_plan(point.base, manager, network=True, env={})
        manager.check(plan)
        directory = make_run_directory(settings.data, run)
        source = Source(repo=point.summary.repo, commit=point.summary.commit)
        task = Task(prompt=point.summary.prompt, spec=Spec(source=source, policy=plan.policy), test=point.summary.test)
        return await run_task(
            task,
            manager=manager,
            make_agent=_ForkedAgents(point, manager, upstream, directory),
            directory=directory,
            listener=listener,
            redactor=manager.redactor,
            receipt=current_receipt(settings.data, task.spec.backend, version("gloveport")),
            create=lambda trail: manager.apply(plan, trail=trail),
            forked_from={"run": point.summary.id, "step": point.step, "exchanges": count, "notes": notes},
        )


@dataclass(frozen=True, slots=True)
class _ForkedAgents:
    """Opens the agent of a forked run: its first answers come from the tape, its first calls are the recorded ones."""

    point: ForkPoint
    manager: Manager
    upstream: ModelProxySpec
    directory: RunDirectory

    @asynccontextmanager
    async def __call__(self, _: Task, sandbox: Sandbox, trail: Trail) -> AsyncIterator[ClaudeAgent]:
        point, count = self.point, self.point.exchanges
        player = StepPlayer(ReplayRequest(trajectory=point.trajectory, redactor=self.manager.redactor), sandbox)

        @asynccontextmanager
        async def open_tools(sandbox: Sandbox) -> AsyncIterator[AgentTools]:
            async with open_claude_tools(sandbox) as claude:
                steps = point.trajectory.steps[: point.step]
                tools = replay_tools(sandbox, claude)
                yield DrivenTools(player, tools, steps, point.tape.told(), beyond=claude)

        def because() -> str:
            first = next(iter(player.divergences), None)
            return f", after step {first.step} ({first.tool}) came out otherwise: {first.reason}" if first else ""

        async with upstream_client() as live:
            transport = TapeTransport(point.tape, count=count, live=live, live_model=point.model, because=because)
            tape = TapeWriter(self.directory.tape, self.upstream.credential.secret)
            try:
                async with open_claude_agent(
                    agent_spec(point.tape.opening),
                    sandbox,
                    trail,
                    manager=self.manager,
                    upstream=self.upstream,
                    directory=self.directory.path / "session",
                    tape=tape,
                    playback=Playback(
                        transport=transport, open_tools=open_tools, date=point.tape.date if count else None
                    ),
                ) as agent:
                    yield agent
            finally:
                tape.close()
