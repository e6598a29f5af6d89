"""Task groups for code whose callers catch errors, not groups of them, and may be cancelled at any moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.abc

from gloveport.errors import BackendUnavailable

__all__ = ["all_or_none", "task_scope", "undivided"]

Wanted = TypeVar("Wanted")
Made = TypeVar("Made")
_FEW = 4
"""Sandboxes that are made at once: each waits half of its time for bubblewrap."""


@asynccontextmanager
async def task_scope() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Tasks that end with the scope, by themselves or with the first failure among them.

    That failure passes as it was raised, the body's own before any other.
    """
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except Exception as error:  # noqa: BLE001 - raised below, where no group wraps it
                failure = error
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = failure or _first(group)
    if failure is not None:
        raise failure


async def undivided(tasks: anyio.abc.TaskGroup, work: Callable[[], Awaitable[None]]) -> None:
    """Do something as a task of a group that outlives the caller, and wait until it is done.

    Nobody cuts it in half by cancelling the caller: anyio's cancellation waits for it, asyncio's own (`Task.cancel`,
    `wait_for`, Ctrl-C) leaves it to the group. Raises as `work`.
    """
    done = anyio.Event()
    failure: BaseException | None = BackendUnavailable("it was closed meanwhile", hint="open it again")

    async def carry_out() -> None:
        nonlocal failure
        try:
            await work()
            failure = None
        except Exception as error:  # noqa: BLE001 - raised below, where the caller is
            failure = error
        finally:
            done.set()

    tasks.start_soon(carry_out)
    with anyio.CancelScope(shield=True):
        await done.wait()
    if failure is not None:
        raise failure


async def all_or_none(
    make: Callable[[Wanted], Awaitable[Made]], what: Sequence[Wanted], *, undo: Callable[[Wanted], Awaitable[None]]
) -> list[Made]:
    """Make something of each, a few at a time; what was made, in their order.

    Where one fails, or the caller is cancelled, each is undone, and the failure raised.
    """
    made: dict[int, Made] = {}
    few = anyio.CapacityLimiter(_FEW)

    async def one(number: int) -> None:
        async with few:
            made[number] = await make(what[number])

    try:
        async with task_scope() as tasks:
            for number in range(len(what)):
                tasks.start_soon(one, number)
    except BaseException:
        with anyio.CancelScope(shield=True):
            for each in what:
                await undo(each)
        raise
    return [made[number] for number in range(len(what))]


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
