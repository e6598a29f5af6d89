"""One run of one task on this machine: sandbox, agent, tests, patch, and a record of all of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, replace
from typing import Any, Protocol

import anyio
import anyio.to_thread

from gloveport.errors import BackendUnavailable, GloveportError, LimitExceeded, PolicyDenied
from gloveport.jobs.artifacts import list_artifacts, record_summary
from gloveport.jobs.directory import RunDirectory
from gloveport.jobs.report import run_tests
from gloveport.model import (
    AUDITED,
    MIB,
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
from gloveport.policy.files.protected import protected_patterns
from gloveport.sandbox import Held, Manager, Sandbox
from gloveport.sandbox.recorded import RECORDED_ANSWER, RECORDED_INPUT, RECORDED_TEXT, length, recorded, recorded_fields
from gloveport.store import Redactor, Trail, whole_file

__all__ = ["Agent", "Listener", "MakeAgent", "run_task"]

_COLLECT_SECONDS = 300.0
"""How long collecting the patch may take, also after a cancellation."""

_INPUT_ROOM = 64 * MIB
"""Characters that the inputs of one run's tool calls may take in its trail; beyond that, only beginnings are kept."""

Listener = Callable[[Event], None]


class Agent(Protocol):
    """What a job needs of an agent: it works on a prompt with the tools of one sandbox."""

    def converse(self, prompt: str) -> AsyncIterator[SessionEvent]:
        """Work on `prompt`; the last event is `SessionEnded`."""
        ...


MakeAgent = Callable[[Task, Sandbox, Trail], AbstractAsyncContextManager[Agent]]
Create = Callable[[Trail], Awaitable[Held]]
"""Makes the sandbox of a run, whose events join the trail."""


async def run_task(
    task: Task,
    *,
    manager: Manager,
    make_agent: MakeAgent,
    directory: RunDirectory,
    listener: Listener,
    redactor: Redactor,
    receipt: Mapping[str, Any] | None = None,
    create: Create | None = None,
    forked_from: Mapping[str, Any] | None = None,
) -> RunSummary:
    """Run `task` once; the summary that `run.json` holds.

    A doctor's `receipt` is recorded at its beginning, and which run it was forked from.
    `create` makes its sandbox, whose events join the trail; unless given, that is made by the task's spec.

    Failures of the task, the model, the policy and the backend end up in the summary, not as exceptions. Cancelling
    stops the agent and keeps what it has changed as a patch, then passes on. So does a defect, of the agent's or the
    listener's code, as a failed run. Raises `LimitExceeded` and `BackendUnavailable` where the run directory cannot be
    written.
    """
    trace = new_trace()
    audit = Trail(directory.audit, trace=trace, redactor=redactor)
    tell: Listener | None = listener

    def hear(event: Event) -> None:
        nonlocal tell
        if event.kind in AUDITED:
            audit.append(event.kind, event.data)
        if tell is None:
            return
        try:
            tell(event)
        except BaseException:
            tell = None  # the first failure ends the run; what its end does is recorded all the same
            raise

    try:
        trail = Trail(directory.trajectory, trace=trace, redactor=redactor, listener=hear)
        try:
            run = _Run(task, manager, directory, trail, redactor)
            origin = {"receipt": receipt, "forked_from": forked_from}
            return await run.carry_out(make_agent, create, origin)
        finally:
            trail.close()
    finally:
        audit.close()


class _Run:
    """The steps of one run and what is known so far."""

    def __init__(self, task: Task, manager: Manager, directory: RunDirectory, trail: Trail, redactor: Redactor) -> None:
        source = task.spec.source
        repo = source.repo if source else ""
        self._task = task
        self._manager = manager
        self._directory = directory
        self._trail = trail
        self._redactor = redactor
        self._began = time.monotonic()
        self._input_room = _INPUT_ROOM
        self._summary = RunSummary(
            id=directory.id,
            state=RunState.RUNNING,
            prompt=redactor.text(task.prompt),
            # `apply` looks for a local one under its exact name; an address may hold a password.
            repo=redactor.text(repo) if "://" in repo else repo,
            commit=source.commit if source else None,
            started_at=time.time(),
            model=task.model or "",
            test=None if task.test is None else redactor.text(task.test),
            trace=trail.trace,
            protected=protected_patterns(task.spec.policy),
        )

    async def carry_out(
        self, make_agent: MakeAgent, create: Create | None, origin: Mapping[str, Mapping[str, Any] | None]
    ) -> RunSummary:
        task = self._task
        sandbox: Sandbox | None = None
        try:
            self._start(origin)
            made = create(self._trail) if create else self._manager.create(task.spec, trail=self._trail)
            sandbox = Sandbox(await made)
            self._save(sandbox=sandbox.id)
            if task.snapshots:
                sandbox.save_before_calls()
            async with make_agent(task, sandbox, self._trail) as agent:
                await self._converse(agent)
            await self._test(sandbox)
            if self._summary.state is RunState.RUNNING:
                self._end(RunState.SUCCEEDED, None, "")
        except anyio.get_cancelled_exc_class():
            self._end(RunState.CANCELLED, EndReason.OPERATOR, "stopped by the operator")
            raise
        except GloveportError as error:
            self._end(RunState.FAILED, EndReason.BACKEND, error.message)
            self._end(RunState.FAILED, await self._reason(error, sandbox), error.message)
        except BaseException as error:
            self._end(RunState.FAILED, EndReason.BACKEND, _unexpected(error))
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._finish(sandbox)
        return self._summary

    def _start(self, origin: Mapping[str, Mapping[str, Any] | None]) -> None:
        self._save()
        facts: dict[str, Any] = {
            "run": self._summary.id,
            "repo": self._summary.repo,
            "commit": self._summary.commit,
            "test": self._task.test,
            **{name: said for name, said in origin.items() if said is not None},
        }
        self._trail.append(EventKind.RUN_STARTED, facts)
        self._trail.append(EventKind.PROMPT, {"text": self._task.prompt})

    async def _converse(self, agent: Agent) -> None:
        event: SessionEvent | None = None
        async for event in agent.converse(_prompt(self._task)):
            self._hear(event)
        if not isinstance(event, SessionEnded):
            raise BackendUnavailable("the session stopped without saying how it ended", hint="run the task again")

    def _hear(self, event: SessionEvent) -> None:
        match event:
            case TurnTaken():
                self._save(model=self._recorded(event.model) or self._summary.model)
                self._trail.append(EventKind.TURN, self._facts(event))
            case ToolCalled():
                call = {"call": self._recorded(event.call), "name": self._recorded(event.name)}
                self._trail.append(EventKind.TOOL_CALLED, {**call, **self._input(event.input)})
                if event.refused:
                    self._trail.append(
                        EventKind.DECISION,
                        {
                            "call": call["call"],
                            "tool": call["name"],
                            "verdict": "deny",
                            "reason": self._recorded(event.refused),
                        },
                    )
            case ToolReturned():
                text = recorded(event.text, self._redactor, RECORDED_ANSWER)
                cut = {"cut": True} if length(event.text) > RECORDED_ANSWER else {}
                self._trail.append(EventKind.TOOL_RETURNED, {**self._facts(event), "text": text, **cut})
            case SessionEnded():
                self._save(usage=event.usage, answer=self._recorded(event.answer))
                state, reason = _VERDICTS[event.end]
                if reason is not None:
                    self._end(state, reason, event.message)

    async def _test(self, sandbox: Sandbox) -> None:
        if self._task.test is None:
            return
        outcome = await run_tests(sandbox, self._task.test)
        with whole_file(self._directory.test_log) as file:
            file.write(outcome.result.stdout + outcome.result.stderr)
        with whole_file(self._directory.report) as file:
            file.write(outcome.report)
        self._save(test_status=outcome.result.exit.status)
        if not outcome.result.ok and self._summary.state is RunState.RUNNING:
            self._end(RunState.FAILED, EndReason.TASK, f"the test command ended with {outcome.result.exit.status}")

    async def _finish(self, sandbox: Sandbox | None) -> None:
        """Take the patch, end the sandbox, write the end down: each also where the one before failed."""
        try:
            if sandbox is not None:
                try:
                    await self._collect(sandbox)
                finally:
                    await self._delete(sandbox)
        except BaseException as error:
            self._spoil(_unexpected(error))
            raise
        finally:
            self._summary = replace(self._summary, duration=round(time.monotonic() - self._began, 3))
            try:
                await self._record_artifacts()
            finally:
                self._record_end()

    async def _record_artifacts(self) -> None:
        try:
            for facts in await anyio.to_thread.run_sync(list_artifacts, self._directory):
                self._trail.append(EventKind.ARTIFACT, facts)
        except GloveportError as error:
            self._spoil(f"what it leaves could not be recorded: {error}")

    def _record_end(self) -> None:
        try:
            record_summary(self._summary, self._trail)
        except GloveportError as error:
            self._spoil(f"the end could not be recorded: {error}")
        finally:
            self._save()

    async def _collect(self, sandbox: Sandbox) -> None:
        try:
            with anyio.fail_after(_COLLECT_SECONDS), whole_file(self._directory.patch) as file:
                patch = await sandbox.write_diff(file)
            self._summary = replace(
                self._summary,
                changed=tuple(entry.path for entry in patch.paths),
                warnings=tuple(self._redactor.text(warning) for warning in patch.warnings),
            )
            for warning in patch.warnings:
                self._trail.append(EventKind.DECISION, {"verdict": "allow", "warning": warning})
        except (GloveportError, TimeoutError) as error:
            self._spoil(f"the patch could not be collected: {error}")

    async def _delete(self, sandbox: Sandbox) -> None:
        try:
            await self._manager.delete(sandbox.id)
        except GloveportError as error:
            self._spoil(f"the sandbox could not be deleted: {error}")

    async def _reason(self, error: GloveportError, sandbox: Sandbox | None) -> EndReason:
        if isinstance(error, PolicyDenied):
            return EndReason.POLICY
        if isinstance(error, LimitExceeded):
            return EndReason.BUDGET
        if isinstance(error, BackendUnavailable) and sandbox is not None:
            with suppress(GloveportError):
                status = await sandbox.status()
                if status.state is SandboxState.STOPPED and status.reason == "timeout":
                    return EndReason.TIMEOUT
        return EndReason.BACKEND

    def _facts(self, event: TurnTaken | ToolReturned) -> Mapping[str, Any]:
        return {name: self._recorded(value) for name, value in asdict(event).items()}

    def _input(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a tool call asks, whole as long as there is room: what is cut cannot be replayed."""
        size = length(asked)
        most = RECORDED_INPUT if size <= self._input_room else RECORDED_TEXT
        self._input_room -= int(min(size, most))
        cut = {"cut": True} if size > most else {}
        return {"input": recorded_fields(asked, self._redactor, most), **cut}

    def _recorded(self, value: Any) -> Any:
        return recorded(value, self._redactor)

    def _end(self, state: RunState, reason: EndReason | None, message: str) -> None:
        """Decide how the run ended; `_finish` writes it down."""
        self._summary = replace(self._summary, state=state, reason=reason, message=self._recorded(message))

    def _spoil(self, lost: str) -> None:
        """Something of the run is lost: it did not succeed, or failed for one reason more."""
        if self._summary.state is RunState.SUCCEEDED:
            self._end(RunState.FAILED, EndReason.BACKEND, lost)
        else:
            self._end(self._summary.state, self._summary.reason, f"{self._summary.message}; {lost}")

    def _save(self, **facts: Any) -> None:
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


def _unexpected(error: BaseException) -> str:
    return f"unexpected {type(error).__name__}: {error}"
