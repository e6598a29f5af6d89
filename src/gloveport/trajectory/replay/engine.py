"""Replaying a trajectory: its tool calls again, in order, in a sandbox, each held against what was recorded of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from gloveport.errors import GloveportError
from gloveport.sandbox import Sandbox
from gloveport.sandbox.task_scope import task_scope
from gloveport.trajectory.replay.execution import OpenSandbox, ReplayRequest, StepPlayer, hold
from gloveport.trajectory.replay.normalise import merge_applied
from gloveport.trajectory.replay.result import Divergence, DivergenceKind, ReplayResult, Verdict

__all__ = ["PlayIn", "conclude", "replay", "replay_on_forks"]

PlayIn = Callable[[ReplayRequest, Sandbox], Awaitable[ReplayResult]]
"""One way to replay: `replay`, or one with the agent itself."""


async def replay(request: ReplayRequest, sandbox: Sandbox) -> ReplayResult:
    """Execute every step in `sandbox`, in order, and go on after a divergence.

    Whatever a step does is in the result; only cancellation passes. Once the sandbox does not answer any more, the
    steps that are left are `missing`.
    """
    began = time.monotonic()
    first = StepPlayer(request, sandbox)
    await first.play()
    return await conclude(request, first, began)


async def conclude(
    request: ReplayRequest, first: StepPlayer, began: float, *, further: Iterable[Divergence] = ()
) -> ReplayResult:
    """What came of all the steps that were executed; `began` by the monotonic clock.

    What diverged by behaviour is looked at again in another sandbox, where the request can open one. `further` are
    divergences of something else than a tool call.
    """
    divergences = first.divergences
    if request.again is not None and any(one.kind is DivergenceKind.BEHAVIOUR for one in divergences):
        divergences = await _look_again(request, request.again, first)
    steps = sorted(first.results, key=lambda result: result.step)
    return ReplayResult(
        total_steps=len(request.trajectory.steps),
        completed_steps=sum(step.verdict is not Verdict.MISSING for step in steps),
        steps=tuple(steps),
        divergences=tuple(sorted((*divergences, *further), key=lambda one: one.step)),
        normalised=merge_applied(applied for step in steps for applied in step.normalised),
        notes=(*request.notes, *first.notes),
        duration=time.monotonic() - began,
    )


async def replay_on_forks(
    request: ReplayRequest, sandbox: Sandbox, times: int, play: PlayIn = replay
) -> list[ReplayResult]:
    """Replay so often by `play`, side by side, each in a fork of `sandbox`, which itself stays as it is.

    What diverges is executed again in one more fork. Raises what `Sandbox.fork` raises.
    """

    @asynccontextmanager
    async def one_more() -> AsyncIterator[Sandbox]:
        (made,) = await sandbox.fork()
        try:
            yield made
        finally:
            await made.delete()

    forks = await sandbox.fork(times)
    results: dict[int, ReplayResult] = {}

    async def one(number: int, made: Sandbox) -> None:
        results[number] = await play(replace(request, again=request.again or one_more), made)

    try:
        async with task_scope() as tasks:
            for number, made in enumerate(forks):
                tasks.start_soon(one, number, made)
    finally:
        with anyio.CancelScope(shield=True):
            for made in forks:
                await made.delete()
    return [results[number] for number in range(times)]


async def _look_again(request: ReplayRequest, open_sandbox: OpenSandbox, first: StepPlayer) -> list[Divergence]:
    """The divergences, with those of behaviour whose step comes out differently once more told as chance."""
    last = max(one.step for one in first.divergences)
    second = StepPlayer(request, None)
    try:
        async with open_sandbox() as sandbox:
            second.enter(sandbox)
            await second.play(until=last)
    except GloveportError as error:
        first.notes.append(f"nothing could be executed a second time: {error.message}")
        return first.divergences
    return [_judge_again(request, one, first, second) for one in first.divergences]


def _judge_again(request: ReplayRequest, one: Divergence, first: StepPlayer, second: StepPlayer) -> Divergence:
    before, now = first.executions.get(one.step), second.executions.get(one.step)
    if one.kind is not DivergenceKind.BEHAVIOUR or before is None or now is None:
        return one
    held = hold(before.outcome, now, before.facts, request.normalisers, f"step {one.step}")
    if held.same:
        return one
    reason = "executed twice from the same state, it came out in two ways"
    return replace(one, kind=DivergenceKind.NONDETERMINISTIC, reason=reason)
