"""Executing the steps of a trajectory one by one in a sandbox, each held against what was recorded of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from gloveport.errors import BackendUnavailable, GloveportError
from gloveport.model import SandboxState
from gloveport.sandbox import Sandbox
from gloveport.store import Redactor
from gloveport.trajectory.replay.calls import (
    AGENT_TOOLS,
    Observed,
    ReplayTools,
    command_of,
    is_playable,
    open_replay_tools,
)
from gloveport.trajectory.replay.carry import CarriedNames
from gloveport.trajectory.replay.changes import Look, Looker, compare_changes
from gloveport.trajectory.replay.compare import Comparison, compare
from gloveport.trajectory.replay.facts import Facts
from gloveport.trajectory.replay.normalise import Normaliser, merge_applied
from gloveport.trajectory.replay.result import (
    Aspect,
    Difference,
    Divergence,
    DivergenceKind,
    StepResult,
    Verdict,
    difference_of,
)
from gloveport.trajectory.replay.table import NORMALISERS
from gloveport.trajectory.replay.times import as_moment
from gloveport.trajectory.replay.verdict import judge, unplayable
from gloveport.trajectory.steps import Outcome, Step, Trajectory

__all__ = ["Execution", "OpenSandbox", "ReplayRequest", "StepPlayer", "hold"]

OpenSandbox = Callable[[], AbstractAsyncContextManager[Sandbox]]
"""Opens a sandbox in the state in which the first step is executed."""

_LONGEST_CALL = 500
_OFFLINE = "it used the network when it was recorded, and there is none here"
_KNOWING = frozenset({"Edit", "Read", "Write"})
_WORKSPACE_KEYS = ("workspace", "cwd")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """How a trajectory is replayed."""

    trajectory: Trajectory
    compare_from: int = 0
    """The first step that is compared; those before are executed for their effect."""
    begin_at: int = 0
    """The first step that is executed: the sandbox was started from the snapshot before it."""
    normalisers: tuple[Normaliser, ...] = NORMALISERS
    again: OpenSandbox | None = None
    """Opens another sandbox in the same first state. A step that diverged is executed there once more, with all before
    it: when it comes out differently again, it is nondeterministic. Without, chance is not told from behaviour."""
    redactor: Redactor = field(default_factory=Redactor)
    """Masks in what comes of a step what was masked in the record."""
    offline: bool = False
    """The sandbox was given no network on purpose. A step that used it when it was recorded is then carried out, and
    left uncompared where it came out otherwise; a note names it."""
    notes: tuple[str, ...] = ()
    """What whoever made the sandbox could not guarantee: handed on in the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One step as it was executed, kept until it is clear why it diverged."""

    observed: Observed
    facts: Facts
    look: Look
    was_same: bool
    """Whether the workspace was, before it, as it was when it was recorded."""
    duration: float

    @property
    def outcome(self) -> Outcome:
        """As a trajectory holds it."""
        return self.observed.outcome(self.look, duration=self.duration)


class StepPlayer:
    """One execution of a trajectory, and what it gave so far."""

    def __init__(self, request: ReplayRequest, sandbox: Sandbox | None) -> None:
        self._request = request
        self._trajectory = request.trajectory
        self._times = [turn.time for turn in request.trajectory.turns for _ in turn.steps]
        self._carried = CarriedNames(_moved_workspace(request.trajectory.metadata))
        self._is_same = True
        self.results: list[StepResult] = []
        self.divergences: list[Divergence] = []
        self.executions: dict[int, Execution] = {}
        self.notes: list[str] = []
        if sandbox is not None:
            self.enter(sandbox)

    def enter(self, sandbox: Sandbox) -> None:
        """Play in this sandbox."""
        self._sandbox = sandbox
        self._looker = Looker(sandbox)

    async def play(self, until: int | None = None) -> None:
        """Every step, up to and with number `until`."""
        steps = self._trajectory.steps
        async with open_replay_tools(self._sandbox) as tools:
            await self._remember(tools)
            for number, step in enumerate(steps if until is None else steps[: until + 1]):
                if number < self._request.begin_at:
                    self._skip(number, step, "in the snapshot already")
                elif self.results and self.results[-1].verdict is Verdict.MISSING:
                    self._miss(number, step, "the sandbox does not answer any more")
                else:
                    await self.play_step(number, step, tools)

    async def _remember(self, tools: ReplayTools) -> None:
        """Read again what the steps in the snapshot read or wrote: an agent's tools change only files that it knows."""
        for step in self._trajectory.steps[: self._request.begin_at]:
            path = step.params.get("file_path")
            if step.tool in _KNOWING and isinstance(path, str) and not (step.outcome and step.outcome.is_error):
                await tools.call("Read", {"file_path": path, "limit": 1})

    async def play_step(self, number: int, step: Step, tools: ReplayTools) -> None:
        """Execute one, and hold it against its record. The last of the results says what became of it."""
        if step.refused:
            self._skip(number, step, f"refused when it was recorded: {step.refused}")
            return
        if step.tool in AGENT_TOOLS:
            self._skip(number, step, "does nothing to a sandbox")
            return
        problem = unplayable(step, is_known=is_playable(step.tool))
        if problem:
            self._diverge_uncalled(number, step, problem)
            return
        params, used = self._carried.rename(step.params)
        began = time.monotonic()
        observed = self._redacted(await tools.call(step.tool, params, call=step.call))
        took = time.monotonic() - began
        if observed.is_error and (gone := await self._gone(observed)) is not None:
            said = f"{gone.code}: {gone.message}"
            difference = difference_of(Aspect.CALL, "an answer", said, f"step {number}")
            self._diverge(number, step, f"the platform could not carry it out ({gone.code})", difference)
            self._miss(number, step, gone.message)
            return
        sides = self._carried.sides(self._recorded_facts(number, step), self._replayed_facts(params))
        look = await self._look(step)
        done = Execution(observed=observed, facts=sides[1], look=look, was_same=self._is_same, duration=took)
        if look.digest and step.outcome is not None:
            self._is_same = look.digest == step.outcome.changes
        self.executions[number] = done
        recorded = step.outcome or Outcome()
        held = hold(recorded, done, sides[0], self._request.normalisers, f"step {number}")
        self._carried.learn(held.paired)
        verdict, note = self._verdict(number, done, held)
        if verdict is Verdict.DIVERGED and self._request.offline and recorded.egress:
            verdict, note = Verdict.UNCOMPARED, _OFFLINE
            self.notes.append(f"step {number} is not compared: {note}")
        if verdict is Verdict.DIVERGED:
            varies = held.may_vary or self._explains(number, step, done, sides[0])
            self.divergences.append(judge(number, step, observed, held.differences, known_to_vary=varies))
        self.results.append(
            StepResult(
                step=number,
                tool=step.tool,
                verdict=verdict,
                outcome=done.outcome,
                normalised=held.applied if number >= self._request.compare_from else (),
                carried=used,
                note=note,
            )
        )

    def _explains(self, number: int, step: Step, done: Execution, facts: Facts) -> bool:
        """Whether nothing differs after all the rules, some of which were left out."""
        if self._request.normalisers == NORMALISERS:
            return False
        return hold(step.outcome or Outcome(), done, facts, NORMALISERS, f"step {number}").same

    def _verdict(self, number: int, done: Execution, held: Comparison) -> tuple[Verdict, str]:
        if number < self._request.compare_from:
            return Verdict.UNCOMPARED, "before the first step that is compared"
        if done.observed.failure is not None or not held.same:
            return Verdict.DIVERGED, ""
        if not held.compared:
            return Verdict.UNCOMPARED, "nothing was recorded of it"
        return Verdict.SAME, ""

    async def _gone(self, observed: Observed) -> GloveportError | None:
        """Why nothing more can be carried out, if so: a tool takes a sandbox that ended for a file that is missing."""
        if isinstance(observed.failure, BackendUnavailable):
            return observed.failure
        try:
            status = await self._sandbox.status()
        except GloveportError as error:
            return error
        if status.state in (SandboxState.RUNNING, SandboxState.PAUSED):
            return None
        return BackendUnavailable(f"the sandbox is {status.state}: {status.reason}", hint="replay it in another one")

    async def _look(self, step: Step) -> Look:
        """The workspace, where something was recorded to hold it against."""
        if step.outcome is None or not step.outcome.changes:
            return Look()
        try:
            look = await self._looker.look()
        except GloveportError as error:
            note = f"changes of the workspace are not compared: {error.message}"
            if note not in self.notes:
                self.notes.append(note)
            return Look()
        mask = self._request.redactor.text
        return replace(look, contents={path: mask(text) for path, text in look.contents.items()})

    def _redacted(self, observed: Observed) -> Observed:
        mask = self._request.redactor.text
        return replace(observed, text=mask(observed.text), error=mask(observed.error))

    def _recorded_facts(self, number: int, step: Step) -> Facts:
        metadata = self._trajectory.metadata
        names = [(str(metadata[key]), f"<{key}>") for key in ("run", "sandbox") if metadata.get(key)]
        names += list(_moved_workspace(metadata).items())
        now = as_moment(self._times[number]) or as_moment(str(metadata.get("started_at") or metadata.get("time") or ""))
        return Facts(command=command_of(step.params), now=now, names=tuple(names))

    def _replayed_facts(self, params: Mapping[str, Any]) -> Facts:
        names = ((self._sandbox.id, "<sandbox>"),)
        return Facts(command=command_of(params), now=datetime.now(UTC).astimezone(), names=names)

    def _skip(self, number: int, step: Step, note: str) -> None:
        self.results.append(StepResult(step=number, tool=step.tool, verdict=Verdict.SKIPPED, note=note))

    def _miss(self, number: int, step: Step, note: str) -> None:
        self.results.append(StepResult(step=number, tool=step.tool, verdict=Verdict.MISSING, note=note))

    def _diverge_uncalled(self, number: int, step: Step, problem: str) -> None:
        self.results.append(StepResult(step=number, tool=step.tool, verdict=Verdict.DIVERGED, note=problem))
        call = f"{step.tool} {json.dumps(step.params, default=str)[:_LONGEST_CALL]}"
        self._diverge(number, step, problem, difference_of(Aspect.CALL, call, problem, f"step {number}"))

    def _diverge(self, number: int, step: Step, reason: str, difference: Difference) -> None:
        self.divergences.append(
            Divergence(
                step=number,
                tool=step.tool,
                kind=DivergenceKind.ENVIRONMENT,
                reason=reason,
                differences=(difference,),
            )
        )


def hold(recorded: Outcome, done: Execution, facts: Facts, table: tuple[Normaliser, ...], name: str) -> Comparison:
    """Answer and workspace against what was recorded of them; `facts` are those of the record."""
    sides = (facts, done.facts)
    held = compare(recorded, done.observed, sides, table, name=name)
    left = compare_changes(recorded, done.look, sides, table, was_same=done.was_same, name=name)
    return replace(
        held,
        differences=(*held.differences, *((left.difference,) if left.difference is not None else ())),
        compared=held.compared or bool(recorded.changes and done.look.digest),
        applied=merge_applied((*held.applied, *left.applied)),
        may_vary=held.same and left.may_vary,
    )


def _moved_workspace(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Where the workspace was when it was recorded → where every sandbox has it."""
    for key in _WORKSPACE_KEYS:
        place = metadata.get(key)
        if isinstance(place, str) and place.startswith("/") and len(place) > 1 and place != "/workspace":
            return {place.rstrip("/"): "/workspace"}
    return {}
