"""A task group whose one failure arrives as itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc

__all__ = ["plain_group"]


@asynccontextmanager
async def plain_group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """As `anyio.create_task_group`; of several failures the first counts."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
