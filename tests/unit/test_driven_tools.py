"""Tools of a replayed session: what is on record takes turns, what is live does not."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest

from gloveport.tools.claude import Answer, ClaudeTools
from gloveport.trajectory.replay.calls import ReplayTools
from gloveport.trajectory.replay.driven import DrivenTools
from gloveport.trajectory.replay.execution import StepPlayer

pytestmark = pytest.mark.anyio


class TwoAtOnce:
    """Answers when two calls are open at a time."""

    def __init__(self) -> None:
        self._open = 0
        self._both = anyio.Event()

    async def call(self, name: str, params: object, *, call: str | None = None) -> Answer:
        self._open += 1
        if self._open == 2:
            self._both.set()
        await self._both.wait()
        return Answer(f"{name} {call}")


async def test_live_calls_after_a_fork_run_side_by_side() -> None:
    nobody: Any = None
    driven = DrivenTools(
        cast("StepPlayer", nobody), cast("ReplayTools", nobody), (), {}, beyond=cast("ClaudeTools", TwoAtOnce())
    )
    said = []

    async def one(call: str) -> None:
        said.append((await driven.call("Read", {}, call=call)).text)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "a")
            tasks.start_soon(one, "b")
    assert sorted(said) == ["Read a", "Read b"]
