"""What seccomp and Landlock cost an exec: the same sandbox with both walls, and with neither."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.measure import Effort, Result, Sample, compare, interleave
from benchmarks.place import installation
from gloveport.backends import Backend
from gloveport.backends.bubblewrap import BubblewrapBackend
from gloveport.backends.bubblewrap.render import Places, render
from gloveport.model import Plan, Spec
from gloveport.sandbox import Manager, Sandbox

__all__ = ["measure", "without"]

BOUND = 1.1
_WALLS = ("--seccomp", "-w")
"""Each is followed by what it applies to."""


async def measure(effort: Effort) -> list[Result]:
    """exec `/bin/true`, interleaved in two sandboxes of one process."""
    with installation() as settings, installation() as others:
        async with Manager(settings) as manager, Manager(others, open_backend=_without_walls) as weakened:
            walled, open_ = Sandbox(await manager.create(Spec())), Sandbox(await weakened.create(Spec()))
            if await _filters(walled) <= await _filters(open_):
                raise RuntimeError("the weakened sandbox is filtered like the other")
            samples: dict[str, Sample] = {"with": partial(_exec, walled), "without": partial(_exec, open_)}
            seconds = await interleave(samples, rounds=effort.fast * 4, warmup=effort.warmup)
    name = "exec /bin/true, seccomp and Landlock on"
    return [compare(name, seconds["with"], seconds["without"], against="the same without either", bound=BOUND)]


async def _filters(sandbox: Sandbox) -> int:
    """How many seccomp filters a process has: guestd's own is always one."""
    status = (await sandbox.exec(("cat", "/proc/self/status"))).text
    found = re.search(r"^Seccomp_filters:\s+(\d+)$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError("no Seccomp_filters in /proc/self/status")
    return int(found[1])


async def _exec(sandbox: Sandbox) -> float:
    began = time.perf_counter()
    result = await sandbox.exec(("/bin/true",))
    took = time.perf_counter() - began
    if not result.ok:
        raise RuntimeError(f"/bin/true in the sandbox: {result.exit}")
    return took


def _without_walls(_name: str, state: Path) -> AbstractAsyncContextManager[Backend]:
    return BubblewrapBackend(state, render=_render)


def _render(plan: Plan, places: Places) -> list[str]:
    return without(_WALLS, render(plan, places))


def without(options: Sequence[str], argv: Sequence[str]) -> list[str]:
    """A command line without these options and the word after each."""
    before = ("", *argv)
    return [word for previous, word in pairwise(before) if word not in options and previous not in options]
