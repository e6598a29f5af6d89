"""A task group for code whose callers catch errors, not groups of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc

__all__ = ["task_scope"]


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


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
