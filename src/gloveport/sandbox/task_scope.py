"""Task groups for code whose callers catch errors, not groups of them, and may be cancelled at any moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from gloveport.errors import BackendUnavailable

__all__ = ["task_scope", "undivided"]


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


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
