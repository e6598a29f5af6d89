"""The composition root: where the parts of one run are put together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from importlib.metadata import version

from gloveport.agents.task_agents import ClaudeAgents
from gloveport.doctor.receipt import current_receipt
from gloveport.egress import EgressTape
from gloveport.jobs import Listener, make_run_directory, run_directory, run_task
from gloveport.listen.desk import open_desk
from gloveport.model import RunSummary, Task, new_id
from gloveport.sandbox import Manager
from gloveport.sandbox.egress import taping
from gloveport.settings import Settings

__all__ = ["run_locally"]


async def run_locally(task: Task, settings: Settings, listener: Listener, *, ask_seconds: float = 0.0) -> RunSummary:
    """Carry out one task in this process, with a sandbox of its own and Claude as the agent.

    What its policy asks about waits `ask_seconds` for `gloveport approvals`; with 0 it is denied at once, and there is
    no socket for an answer.
    """
    async with AsyncExitStack() as stack:
        run = new_id()
        fetched = EgressTape(run_directory(settings.data, run).fetched)
        manager = await stack.enter_async_context(Manager(settings, ask_seconds=ask_seconds, make_gate=taping(fetched)))
        if ask_seconds > 0:
            await stack.enter_async_context(open_desk(manager.approvals, run, settings))
        directory = make_run_directory(settings.data, run)
        return await run_task(
            task,
            manager=manager,
            make_agent=ClaudeAgents(manager, directory.path / "session", tape=directory.tape),
            directory=directory,
            listener=listener,
            redactor=manager.redactor,
            receipt=current_receipt(settings.data, task.spec.backend, version("gloveport")),
        )
