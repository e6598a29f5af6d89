"""Tool calls that an agent makes in a replay of its whole session: executed, compared, and answered as recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import anyio

from gloveport.tools.claude import Answer, ClaudeTools
from gloveport.trajectory.replay.calls import AGENT_TOOLS, ReplayTools
from gloveport.trajectory.replay.execution import StepPlayer
from gloveport.trajectory.replay.result import StepResult, Verdict
from gloveport.trajectory.steps import Step

__all__ = ["DrivenTools"]

_AS_RECORDED = (Verdict.SAME, Verdict.UNCOMPARED)
_UNASKED = "the agent did not ask for it this time"


class DrivenTools:
    """The tools of a session whose model is a tape.

    Each call is the recorded one, by its id. Where it comes out as it did, up to what varies by itself, the agent is
    told what it was told then, to the byte, so that it asks its model the recorded question; where not, what came now.
    """

    def __init__(
        self,
        player: StepPlayer,
        tools: ReplayTools,
        steps: tuple[Step, ...],
        told: Mapping[str, tuple[str, bool]],
        *,
        beyond: ClaudeTools | None = None,
    ) -> None:
        """`told` is, by a call's id, what the model was told of it, and whether as an error.

        What is not among `steps` is carried out by `beyond`, or by the same tools and with a note.
        """
        self._player = player
        self._tools = tools
        self._steps = steps
        self._numbers = {step.call: number for number, step in enumerate(steps) if step.call}
        self._told = told
        self._beyond = beyond
        self._turn = anyio.Lock()
        """An agent may call several tools at once: they are held against their record one after another."""

    async def call(self, name: str, params: object, *, call: str | None = None) -> Answer:
        """Execute one call."""
        known = call or ""
        if self._beyond is not None and known not in self._numbers:
            return await self._beyond.call(name, params, call=call)
        asked = dict(params) if isinstance(params, Mapping) else {}
        async with self._turn:
            number = self._numbers.pop(known, None)
            if number is None:
                self._player.notes.append(f"a call of {name} that is not on record was carried out, and not compared")
                observed = await self._tools.call(name, asked)
                return Answer(observed.text or observed.error, is_error=observed.is_error)
            # What the model asked for, by the tape: the trail has secrets masked, and cuts what is very long.
            await self._player.play_step(number, replace(self._steps[number], params=asked, cut=False), self._tools)
            if self._player.results[-1].verdict in _AS_RECORDED and known in self._told:
                text, is_error = self._told[known]
                return Answer(text, is_error=is_error)
            done = self._player.executions.get(number)
            if done is None:
                return Answer("The sandbox does not answer.", is_error=True)
            return Answer(done.observed.text or done.observed.error, is_error=done.observed.is_error)

    def finish(self) -> None:
        """Say of each step that was not asked for what became of it."""
        played = {result.step for result in self._player.results}
        for number, step in enumerate(self._steps):
            if number in played:
                continue
            if step.refused:
                verdict, note = Verdict.SKIPPED, f"refused when it was recorded: {step.refused}"
            elif step.tool in AGENT_TOOLS:
                verdict, note = Verdict.SKIPPED, "does nothing to a sandbox"
            else:
                verdict, note = Verdict.MISSING, _UNASKED
            self._player.results.append(StepResult(step=number, tool=step.tool, verdict=verdict, note=note))
