"""A replay of two hundred tool calls, against what the calls themselves took when they were recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.measure import Effort, Result, compare
from benchmarks.place import installation
from gloveport.model import Spec
from gloveport.sandbox import Manager, Sandbox
from gloveport.trajectory.replay import ReplayRequest, recording, replay

__all__ = ["measure"]

BOUND = 1.1
CALLS = 200
A_CALL = 0.002
"""Seconds that a call may take beside what it took when it was recorded."""
MOST_ROUNDS = 5


def _calls() -> Iterator[tuple[str, dict[str, Any]]]:
    """Commands, half of which change a file, and files that are written and read."""
    for number in range(CALLS // 4):
        yield "shell", {"command": f"echo {number}"}
        yield "shell", {"command": f"echo {number} >> log; date"}
        yield "file_write", {"path": f"f{number % 10}", "content": f"{number}\n" * 100}
        yield "file_read", {"path": f"f{number % 10}"}


async def measure(effort: Effort) -> list[Result]:
    """One row."""
    replayed, recorded = [], []
    with installation() as settings:
        async with Manager(settings) as manager:
            for _ in range(min(effort.slow, MOST_ROUNDS)):
                took, sandbox = 0.0, Sandbox(await manager.create(Spec()))
                async with recording(sandbox) as live:
                    for name, params in _calls():
                        took += (await live.call(name, params)).duration or 0.0
                fresh = Sandbox(await manager.create(Spec()))
                began = time.perf_counter()
                result = await replay(ReplayRequest(trajectory=live.trajectory), fresh)
                replayed.append(time.perf_counter() - began)
                recorded.append(took + CALLS * A_CALL)
                if not result.success:
                    raise RuntimeError(str(result.divergences[0]))
                for each in (sandbox, fresh):
                    await manager.delete(each.id)
    return [
        compare(
            f"replay of {CALLS} tool calls", replayed, recorded, against="the recorded calls + 2 ms each", bound=BOUND
        )
    ]
