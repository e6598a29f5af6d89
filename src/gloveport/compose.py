"""The composition root: where the parts of one run are put together."""

from __future__ import annotations

from gloveport.agents.service import ClaudeAgents
from gloveport.jobs import Listener, make_run_directory, run_task
from gloveport.model import RunSummary, Task, new_id
from gloveport.sandbox import Manager
from gloveport.settings import Settings

__all__ = ["run_locally"]


async def run_locally(task: Task, settings: Settings, listener: Listener) -> RunSummary:
    """Carry out one task in this process, with a sandbox of its own and Claude as the agent."""
    async with Manager(settings) as manager:
        directory = make_run_directory(settings.data, new_id())
        return await run_task(
            task,
            manager=manager,
            make_agent=ClaudeAgents(manager, directory.path / "session"),
            directory=directory,
            listener=listener,
            redactor=manager.redactor,
        )
