"""`gloveport run` as a process, with a model that says what a test gives it, and a repository to work on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from gloveport.testing import ScriptedModel, serve
from gloveport.testing.scripted import Turn

KEY = "sk-test-0123456789-not-a-key"


@pytest.fixture
def repository(make_repository: Callable[[Mapping[str, str]], Path]) -> Path:
    return make_repository({"README": "a project\n"})


@pytest.fixture
async def scripted(cli) -> AsyncIterator:
    """The command line, with a model that says the given turns."""
    async with anyio.create_task_group() as tasks:
        opened: list[anyio.Event] = []

        async def open_model(*turns: Turn):
            ready, over = anyio.Event(), anyio.Event()
            opened.append(over)
            holder = {}

            async def hold() -> None:
                async with serve(ScriptedModel.of(*turns)) as endpoint:
                    holder["url"] = endpoint.url
                    ready.set()
                    await over.wait()

            tasks.start_soon(hold)
            await ready.wait()
            env = {"ANTHROPIC_BASE_URL": holder["url"], "ANTHROPIC_API_KEY": KEY}
            return replace(cli, env={**cli.env, **env})

        yield open_model
        for over in opened:
            over.set()


async def in_thread(function, *arguments):
    return await anyio.to_thread.run_sync(lambda: function(*arguments))
