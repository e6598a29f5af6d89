"""Following one run in the terminal, to the summary and the exit status of its end."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import anyio
from rich.console import Console

from gloveport.cli.interruption import ended_by
from gloveport.cli.output import print_json
from gloveport.cli.progress import JsonProgress, LineProgress
from gloveport.cli.show import print_summary
from gloveport.jobs import Listener, find_run
from gloveport.model import EndReason, RunState, RunSummary
from gloveport.settings import Settings

__all__ = ["follow"]

_EXIT = {
    EndReason.TASK: 1,
    EndReason.BUDGET: 6,
    EndReason.BACKEND: 69,
    EndReason.TIMEOUT: 75,
    EndReason.POLICY: 78,
    EndReason.OPERATOR: 130,
}
"""A failed run's reason as an exit status."""


def follow(run: Callable[[Listener], Awaitable[RunSummary]], settings: Settings, *, as_json: bool) -> int:
    """Print what `run` tells while it lasts, and how it ended; the exit status that says so."""
    console = Console(highlight=False)
    summary = anyio.run(_until_the_end, run, JsonProgress() if as_json else LineProgress(console))
    if as_json:
        print_json(asdict(summary))
    else:
        console.print()
        print_summary(find_run(settings.data, summary.id), console)
    if summary.state is RunState.SUCCEEDED:
        return 0
    return _EXIT.get(summary.reason, 1) if summary.reason else 1


async def _until_the_end(run: Callable[[Listener], Awaitable[RunSummary]], listener: Listener) -> RunSummary:
    async with ended_by(signal.SIGTERM):
        return await run(listener)
    raise KeyboardInterrupt
