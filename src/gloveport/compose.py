"""The composition root: where the parts of one run are put together."""

from __future__ import annotations

from importlib.metadata import version

from gloveport.agents.service import ClaudeAgents
from gloveport.doctor.receipt import current_receipt
from gloveport.jobs import Listener, make_run_directory, run_task
from gloveport.model import RunSummary, Task, new_id
from gloveport.sandbox import Manager
from gloveport.settings import Settings

__all__ = ["run_locally"]

_NOBODY_ASKED = 0.0
"""Seconds: `gloveport approvals` speaks with the runner only, so what would be asked in a run is denied at once."""


async def run_locally(task: Task, settings: Settings, listener: Listener) -> RunSummary:
    """Carry out one task in this process, with a sandbox of its own and Claude as the agent."""
    async with Manager(settings, ask_seconds=_NOBODY_ASKED) as manager:
        directory = make_run_directory(settings.data, new_id())
        return await run_task(
            task,
            manager=manager,
            make_agent=ClaudeAgents(manager, directory.path / "session"),
            directory=directory,
            listener=listener,
            redactor=manager.redactor,
            receipt=current_receipt(settings.data, task.spec.backend, version("gloveport")),
        )
