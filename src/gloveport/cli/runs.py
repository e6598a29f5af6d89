"""`gloveport runs`: every run of this installation."""

from __future__ import annotations

from dataclasses import asdict

from gloveport.cli.options import JsonOption
from gloveport.cli.output import local_time, plain, print_json, print_table
from gloveport.jobs import list_runs
from gloveport.settings import Settings

__all__ = ["command"]

_WIDTH = 60


def command(as_json: JsonOption = False) -> None:
    """List the runs, oldest first."""
    runs = list_runs(Settings.load().data)
    if as_json:
        print_json([asdict(run) for run in runs])
        return
    print_table(
        ("RUN", "STATE", "STARTED", "SECONDS", "TESTS", "CHANGED", "PROMPT"),
        [
            (
                run.id,
                str(run.state),
                local_time(run.started_at),
                f"{run.duration:.1f}",
                "-" if run.test_status is None else f"exit {run.test_status}",
                str(len(run.changed)),
                " ".join(plain(run.prompt).split())[:_WIDTH],
            )
            for run in runs
        ],
    )
