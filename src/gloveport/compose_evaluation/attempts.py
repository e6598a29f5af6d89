"""Attempts as they are made live or by a script: a run by the agent, and then its judge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import anyio.to_thread

from gloveport.agents.model_proxy import Credential, ModelProxySpec
from gloveport.agents.task_agents import ClaudeAgents
from gloveport.errors import GloveportError
from gloveport.evaluate.book import Request
from gloveport.evaluate.evaluation import Attempt, Finished
from gloveport.evaluate.judge import Judgement, Question, check_hidden, judge
from gloveport.evaluate.observation import Ending, Observation, ending_of, failure_of
from gloveport.evaluate.prepare import Prepared
from gloveport.evaluate.result import Cause, Result, Verdict
from gloveport.evaluate.schema import ScriptTurn
from gloveport.evaluate.suite import SuiteTask
from gloveport.jobs import Agent, MakeAgent, RunDirectory, make_run_directory, run_task
from gloveport.model import Event, Plan, RunSummary, SessionEvent, Spec, Task, new_id
from gloveport.policy.reading.load import is_template, load_policy
from gloveport.sandbox import Manager, Sandbox
from gloveport.store import Trail
from gloveport.testing import Fail, ScriptedModel, Text, ToolUse, serve
from gloveport.testing.scripted import Turn

__all__ = ["Attempts", "Watch"]

_NO_KEY = "scripted-no-key"


class Watch:
    """Hears what an evaluation does; this one says nothing."""

    def result(self, result: Result) -> None:
        """One more attempt has ended."""

    def event(self, attempt: Attempt, event: Event) -> None:
        """One more event of an attempt that goes on."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Makes attempts with one manager."""

    manager: Manager
    request: Request
    watch: Watch

    async def carry_out(self, attempt: Attempt, prepared: Prepared) -> Finished:
        """One attempt: a run by the agent, and then its judge."""
        spec = await self.spec(attempt.task, prepared)
        task = self._task(attempt, spec)
        plan = await self.manager.plan(task.spec)
        check_hidden(plan, prepared.hidden)
        directory = make_run_directory(self.manager.settings.data, new_id())
        seen = Observation()

        def hear(event: Event) -> None:
            seen.hear(event)
            self.watch.event(attempt, event)

        async with self._agents(attempt, directory) as make_agent:
            summary = await run_task(
                task,
                manager=self.manager,
                make_agent=_followed(make_agent, seen),
                directory=directory,
                listener=hear,
                redactor=self.manager.redactor,
            )
        ending = ending_of(seen, summary)
        judged: Judgement | None = None
        if ending is None:
            try:
                patch = await anyio.to_thread.run_sync(directory.patch.read_bytes)
                judged = await self.judge(attempt.task, spec, prepared, patch)
                ending = failure_of(judged, changed=bool(summary.changed))
            except GloveportError as error:
                ending = Ending(Cause.JUDGE, error.message)
        return Finished(
            result=self._result(
                attempt, seen, summary, limits=_enforced(task, plan, attempt.task), ending=ending, judged=judged
            ),
            output=self.printed(judged),
        )

    def printed(self, judged: Judgement | None) -> bytes:
        """What a check printed, without what is known to be secret."""
        output = judged.output.decode("utf-8", "replace") if judged is not None else ""
        return self.manager.redactor.text(output).encode()

    async def spec(self, task: SuiteTask, prepared: Prepared) -> Spec:
        """What the agent's sandbox is asked to be. Raises what loading a policy raises."""
        names = [name if is_template(name) else str(task.directory / name) for name in task.document.policy]
        return Spec(
            source=prepared.source,
            language=task.document.language,
            read_only=self.request.read_only,
            env=self.request.env or {},
            limits=task.limits,
            policy=await anyio.to_thread.run_sync(load_policy, names),
        )

    def _task(self, attempt: Attempt, spec: Spec) -> Task:
        limits = attempt.task.document.limits
        turns, cost = limits.turns, limits.cost
        if attempt.script:
            own = attempt.task.document.scripts[attempt.script].limits
            turns, cost = own.turns or turns, own.cost or cost
            if own.seconds is not None:
                spec = replace(spec, limits=replace(spec.limits, sandbox_seconds=own.seconds))
        model = self.request.model or self.manager.settings.model
        return Task(prompt=attempt.task.document.prompt, spec=spec, model=model, max_turns=turns, max_cost=cost)

    @asynccontextmanager
    async def _agents(self, attempt: Attempt, directory: RunDirectory) -> AsyncIterator[MakeAgent]:
        """Who works on it: Claude with the model of the settings, or with one that says what a script says."""
        sessions = directory.path / "session"
        if not attempt.script:
            yield ClaudeAgents(self.manager, sessions, tape=directory.tape)
            return
        script = attempt.task.document.scripts[attempt.script]
        turns = [said for turn in script.turns for said in [_turn(turn)] * turn.times]
        async with serve(ScriptedModel.of(*turns)) as endpoint:
            upstream = ModelProxySpec(upstream=endpoint.url, credential=Credential.api_key(_NO_KEY))
            yield ClaudeAgents(self.manager, sessions, upstream, tape=directory.tape)

    async def judge(self, task: SuiteTask, spec: Spec, prepared: Prepared, patch: bytes) -> Judgement:
        """What the task's check says of a patch. Raises what `judge` raises."""
        question = Question(
            # What the agent may reach is the agent's: code that it wrote reads the hidden files here.
            spec=replace(spec, policy=await anyio.to_thread.run_sync(load_policy, ())),
            patch=patch,
            hidden=prepared.hidden,
            keep=task.document.keep,
            check=task.document.check,
            seconds=task.document.limits.check_seconds,
        )
        return await judge(question, self.manager)

    def _result(
        self,
        attempt: Attempt,
        seen: Observation,
        summary: RunSummary,
        *,
        limits: Mapping[str, Any],
        ending: Ending | None,
        judged: Judgement | None,
    ) -> Result:
        usage = seen.usage
        return Result(
            task=attempt.task.name,
            script=attempt.script,
            number=attempt.number,
            verdict=Verdict.SOLVED if ending is None else ending.cause.verdict,
            cause=None if ending is None else ending.cause,
            message="" if ending is None else self.manager.redactor.text(ending.message),
            expected=attempt.expected,
            run=summary.id,
            model=summary.model,
            check_status=None if judged is None else judged.status,
            turns=seen.turns,
            tool_calls=seen.tool_calls,
            refused=seen.refused,
            asked=seen.asked,
            answered=seen.answered,
            seconds=summary.duration,
            check_seconds=0.0 if judged is None else round(judged.seconds, 3),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost=round(usage.cost, 6),
            priced=usage.priced,
            changed=summary.changed,
            limits=limits,
        )


def _enforced(task: Task, plan: Plan, judged: SuiteTask) -> Mapping[str, Any]:
    """Of the agent, of its sandbox, and of the check."""
    check_seconds = judged.document.limits.check_seconds
    return {"turns": task.max_turns, "cost": task.max_cost, "check_seconds": check_seconds, **asdict(plan.limits)}


def _followed(make_agent: MakeAgent, seen: Observation) -> MakeAgent:
    """The same agents, each with somebody who looks on."""

    @asynccontextmanager
    async def make(task: Task, sandbox: Sandbox, trail: Trail) -> AsyncIterator[Agent]:
        try:
            async with make_agent(task, sandbox, trail) as agent:
                yield _Followed(agent, seen)
        except GloveportError as error:
            seen.error = seen.error or error
            raise

    return make


@dataclass(frozen=True, slots=True)
class _Followed:
    agent: Agent
    seen: Observation

    def converse(self, prompt: str) -> AsyncIterator[SessionEvent]:
        return self.seen.follow(self.agent.converse(prompt))


def _turn(turn: ScriptTurn) -> Turn:
    if turn.fail is not None:
        return Fail(turn.fail, "api_error", turn.say or "the script says so")
    calls = tuple(ToolUse(call.tool, call.input) for call in turn.calls)
    return (Text(turn.say), *calls) if turn.say or not calls else calls
