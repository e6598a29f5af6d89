"""Attempts that replay recorded ones: the same tool calls, without a model, and the judge once more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import anyio
import anyio.to_thread

import gloveport.compose_replay
from gloveport.agents.model_tape import Tape
from gloveport.agents.skillset import install_skills, shipped_skills
from gloveport.compose_evaluation.attempts import Attempts
from gloveport.errors import GloveportError
from gloveport.evaluate.evaluation import Attempt, Finished
from gloveport.evaluate.judge import Judgement, check_hidden
from gloveport.evaluate.observation import Ending, failure_of
from gloveport.evaluate.prepare import Prepared
from gloveport.evaluate.result import Cause, Result, Verdict
from gloveport.jobs import RunDirectory, find_run, verify_run
from gloveport.model import Spec
from gloveport.sandbox import Sandbox
from gloveport.store import read_trail
from gloveport.trajectory import Trajectory, from_events
from gloveport.trajectory.replay import ReplayRequest, ReplayResult, replay
from gloveport.trajectory.replay.engine import PlayIn

__all__ = ["Replays"]


@dataclass(frozen=True, slots=True)
class Replays:
    """Makes attempts of the recorded ones (level R2 or R3), which it knows by case and number.

    What the agent did is done again and held against the record. Where nothing diverges, what came of it is judged
    anew; an end that was the model's own (its turns, its budget) is taken from the record, for there is no model.
    """

    attempts: Attempts
    recorded: Mapping[tuple[str, int], Result]
    level: str = "R2"

    async def carry_out(self, attempt: Attempt, prepared: Prepared) -> Finished:
        """One attempt. Nothing is replayed of one whose infrastructure failed."""
        recorded = self.recorded.get((attempt.case, attempt.number))
        if recorded is None:
            return Finished(result=attempt.failed(Cause.FETCH, "it was not recorded"))
        if recorded.cause is not None and recorded.verdict is Verdict.INFRASTRUCTURE:
            return Finished(result=attempt.failed(recorded.cause, f"as it was recorded: {recorded.message}"))
        manager = self.attempts.manager
        directory = find_run(manager.settings.data, recorded.run)
        trajectory = await anyio.to_thread.run_sync(_trajectory, directory)
        spec = await self.attempts.spec(attempt.task, prepared)
        plan = await manager.plan(spec)
        check_hidden(plan, prepared.hidden)
        async with self._open(spec) as sandbox:
            asked = ReplayRequest(trajectory=trajectory, again=lambda: self._open(spec), redactor=manager.redactor)
            replayed = await self._way(directory)(asked, sandbox)
            patch = (await sandbox.diff()).data
        ending, judged = _as_recorded(recorded, replayed), None
        if ending is None:
            try:
                judged = await self.attempts.judge(attempt.task, spec, prepared, patch)
                ending = failure_of(judged, changed=bool(patch.strip()))
            except GloveportError as error:
                ending = Ending(Cause.JUDGE, error.message)
        result = _result(attempt, recorded, replayed, ending, judged)
        return Finished(result=replace(result, limits=asdict(plan.limits)), output=self.attempts.printed(judged))

    def _way(self, directory: RunDirectory) -> PlayIn:
        if self.level == "R2":
            return replay
        return gloveport.compose_replay.session_replay(Tape.read(directory.tape), self.attempts.manager)

    @asynccontextmanager
    async def _open(self, spec: Spec) -> AsyncIterator[Sandbox]:
        """A sandbox as the agent's was when it began."""
        manager = self.attempts.manager
        sandbox = Sandbox(await manager.create(spec))
        try:
            await install_skills(sandbox.files, shipped_skills())
            yield sandbox
        finally:
            with anyio.CancelScope(shield=True):
                await manager.delete(sandbox.id)


def _trajectory(directory: RunDirectory) -> Trajectory:
    """What the run did. Raises `NotFound` and `InvalidRequest` for a run that is not there, not whole, or altered."""
    verify_run(directory)
    summary = directory.summary()
    found = from_events(read_trail(directory.trajectory))
    began = datetime.fromtimestamp(summary.started_at, UTC).isoformat()
    facts = {**found.metadata, "run": directory.id, "sandbox": summary.sandbox, "started_at": began}
    return replace(found, metadata=facts)


def _as_recorded(recorded: Result, replayed: ReplayResult) -> Ending | None:
    """Why there is nothing to judge; `None` where there is."""
    if replayed.divergences:
        first = replayed.divergences[0]
        return Ending(Cause.DIVERGED, f"step {first.step} ({first.tool}) diverged: {first.kind}: {first.reason}")
    if not replayed.success:
        return Ending(Cause.SANDBOX, f"{replayed.completed_steps} of {replayed.total_steps} steps could be replayed")
    if recorded.cause is not None and recorded.check_status is None:
        return Ending(recorded.cause, f"as it was recorded: {recorded.message}")
    return None


def _result(
    attempt: Attempt,
    recorded: Result,
    replayed: ReplayResult,
    ending: Ending | None,
    judged: Judgement | None,
) -> Result:
    """Of the replay; what only a model brings about is nothing here, and costs nothing."""
    return Result(
        task=attempt.task.name,
        script=attempt.script,
        number=attempt.number,
        verdict=Verdict.SOLVED if ending is None else ending.cause.verdict,
        cause=None if ending is None else ending.cause,
        message="" if ending is None else ending.message,
        expected=attempt.expected,
        run=recorded.run,
        model=recorded.model,
        check_status=None if judged is None else judged.status,
        tool_calls=replayed.total_steps,
        seconds=round(replayed.duration, 3),
        check_seconds=0.0 if judged is None else round(judged.seconds, 3),
    )
