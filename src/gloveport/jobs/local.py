"""One run of one task on this machine: sandbox, agent, tests, patch, and a record of all of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from typing import Any, Protocol

import anyio

from gloveport.errors import BackendUnavailable, GloveportError, LimitExceeded, PolicyDenied
from gloveport.jobs.directory import RunDirectory
from gloveport.jobs.report import run_tests
from gloveport.model import (
    AUDITED,
    WORKSPACE,
    EndReason,
    Event,
    EventKind,
    RunState,
    RunSummary,
    SandboxState,
    SessionEnd,
    SessionEnded,
    SessionEvent,
    Task,
    ToolCalled,
    ToolReturned,
    TurnTaken,
    new_trace,
)
from gloveport.sandbox import Manager, Sandbox
from gloveport.store import Redactor, Trail

__all__ = ["Agent", "Listener", "MakeAgent", "run_task"]

_COLLECT_SECONDS = 300.0
"""How long collecting the patch may take, also after a cancellation."""
_RECORDED_TEXT = 20_000
"""Characters of one text, tool input or tool result that the trajectory keeps."""

Listener = Callable[[Event], None]


class Agent(Protocol):
    """What a job needs of an agent: it works on a prompt with the tools of one sandbox."""

    def converse(self, prompt: str) -> AsyncIterator[SessionEvent]:
        """Work on `prompt`; the last event is `SessionEnded`."""
        ...


MakeAgent = Callable[[Task, Sandbox, Trail], AbstractAsyncContextManager[Agent]]


async def run_task(
    task: Task,
    *,
    manager: Manager,
    make_agent: MakeAgent,
    directory: RunDirectory,
    listener: Listener,
    redactor: Redactor,
) -> RunSummary:
    """Run `task` once; the summary that `run.json` holds.

    Failures of the task, the model, the policy and the backend end up in the summary, not as exceptions. Cancelling
    stops the agent and keeps what it has changed as a patch, then passes on.
    """
    trace = new_trace()
    audit = Trail(directory.audit, trace=trace, redactor=redactor)

    def hear(event: Event) -> None:
        if event.kind in AUDITED:
            audit.append(event.kind, event.data)
        listener(event)

    trail = Trail(directory.trajectory, trace=trace, redactor=redactor, listener=hear)
    run = _Run(task, manager, directory, trail)
    try:
        return await run.carry_out(make_agent)
    finally:
        trail.close()
        audit.close()


class _Run:
    """The steps of one run and what is known so far."""

    def __init__(self, task: Task, manager: Manager, directory: RunDirectory, trail: Trail) -> None:
        source = task.spec.source
        self._task = task
        self._manager = manager
        self._directory = directory
        self._trail = trail
        self._began = time.monotonic()
        self._summary = RunSummary(
            id=directory.id,
            state=RunState.RUNNING,
            prompt=task.prompt,
            repo=source.repo if source else "",
            commit=source.commit if source else None,
            started_at=time.time(),
            model=task.model or "",
            test=task.test,
            trace=trail.trace,
        )

    async def carry_out(self, make_agent: MakeAgent) -> RunSummary:
        task = self._task
        self._update()
        facts = {
            "run": self._summary.id,
            "repo": self._summary.repo,
            "commit": self._summary.commit,
            "test": task.test,
        }
        self._trail.append(EventKind.RUN_STARTED, facts)
        self._trail.append(EventKind.PROMPT, {"text": task.prompt})
        sandbox: Sandbox | None = None
        try:
            sandbox = Sandbox(await self._manager.create(task.spec, trail=self._trail))
            self._update(sandbox=sandbox.id)
            async with make_agent(task, sandbox, self._trail) as agent:
                async for event in agent.converse(_prompt(task)):
                    self._hear(event)
            await self._test(sandbox)
        except anyio.get_cancelled_exc_class():
            self._end(RunState.CANCELLED, EndReason.OPERATOR, "stopped by the operator")
            raise
        except GloveportError as error:
            self._end(RunState.FAILED, await self._reason(error, sandbox), error.message)
        finally:
            with anyio.CancelScope(shield=True):
                await self._finish(sandbox)
        return self._summary

    def _hear(self, event: SessionEvent) -> None:
        match event:
            case TurnTaken():
                self._update(model=event.model or self._summary.model)
                self._trail.append(EventKind.TURN, {**asdict(event), "text": _short(event.text)})
            case ToolCalled():
                asked = {key: _short(value) if isinstance(value, str) else value for key, value in event.input.items()}
                self._trail.append(EventKind.TOOL_CALLED, {"call": event.call, "name": event.name, "input": asked})
                if event.refused:
                    self._trail.append(
                        EventKind.DECISION,
                        {"call": event.call, "tool": event.name, "verdict": "deny", "reason": event.refused},
                    )
            case ToolReturned():
                self._trail.append(EventKind.TOOL_RETURNED, {**asdict(event), "text": _short(event.text)})
            case SessionEnded():
                self._update(usage=event.usage, answer=event.answer)
                state, reason = _VERDICTS[event.end]
                if reason is not None:
                    self._end(state, reason, event.message)

    async def _test(self, sandbox: Sandbox) -> None:
        if self._task.test is None:
            return
        outcome = await run_tests(sandbox, self._task.test)
        self._directory.test_log.write_bytes(outcome.result.stdout + outcome.result.stderr)
        self._directory.report.write_bytes(outcome.report)
        self._update(test_status=outcome.result.exit.status)
        if not outcome.result.ok and self._summary.state is RunState.RUNNING:
            self._end(RunState.FAILED, EndReason.TASK, f"the test command ended with {outcome.result.exit.status}")

    async def _finish(self, sandbox: Sandbox | None) -> None:
        if sandbox is not None:
            try:
                with anyio.fail_after(_COLLECT_SECONDS):
                    with self._directory.patch.open("wb") as file:
                        patch = await sandbox.write_diff(file)
                self._update(changed=tuple(entry.path for entry in patch.paths))
                for warning in patch.warnings:
                    self._trail.append(EventKind.DECISION, {"verdict": "allow", "warning": str(warning)})
            except (GloveportError, TimeoutError) as error:
                lost = f"the patch could not be collected: {error}"
                if self._summary.state is RunState.RUNNING:
                    self._end(RunState.FAILED, EndReason.BACKEND, lost)
                else:
                    self._update(message=f"{self._summary.message}; {lost}")
            await self._manager.delete(sandbox.id)
        if self._summary.state is RunState.RUNNING:
            self._end(RunState.SUCCEEDED, None, "")
        self._update(duration=round(time.monotonic() - self._began, 3))
        self._trail.append(EventKind.RUN_ENDED, asdict(self._summary))

    async def _reason(self, error: GloveportError, sandbox: Sandbox | None) -> EndReason:
        if isinstance(error, PolicyDenied):
            return EndReason.POLICY
        if isinstance(error, LimitExceeded):
            return EndReason.BUDGET
        if isinstance(error, BackendUnavailable) and sandbox is not None:
            status = await sandbox.status()
            if status.state is SandboxState.STOPPED and status.reason == "timeout":
                return EndReason.TIMEOUT
        return EndReason.BACKEND

    def _end(self, state: RunState, reason: EndReason | None, message: str) -> None:
        self._update(state=state, reason=reason, message=message)

    def _update(self, **facts: Any) -> None:
        self._summary = replace(self._summary, **facts)
        self._directory.save(self._summary)


_VERDICTS: dict[SessionEnd, tuple[RunState, EndReason | None]] = {
    SessionEnd.DONE: (RunState.RUNNING, None),
    SessionEnd.MAX_TURNS: (RunState.FAILED, EndReason.BUDGET),
    SessionEnd.MAX_COST: (RunState.FAILED, EndReason.BUDGET),
    SessionEnd.INTERRUPTED: (RunState.CANCELLED, EndReason.OPERATOR),
    SessionEnd.MODEL_ERROR: (RunState.FAILED, EndReason.BACKEND),
}


def _prompt(task: Task) -> str:
    if task.test is None:
        return task.prompt
    return f"{task.prompt}\n\nThe change is judged by this command, run in {WORKSPACE}: {task.test}"


def _short(text: str) -> str:
    if len(text) <= _RECORDED_TEXT:
        return text
    return f"{text[:_RECORDED_TEXT]}… ({len(text)} characters)"
