"""Jobs: carrying out tasks, and what each run leaves behind."""

from gloveport.jobs.artifacts import verify_run
from gloveport.jobs.directory import (
    RunDirectory,
    find_run,
    list_runs,
    make_run_directory,
    run_directories,
    run_directory,
)
from gloveport.jobs.local import Agent, Listener, MakeAgent, run_task
from gloveport.jobs.report import TestOutcome, run_tests

__all__ = [
    "Agent",
    "Listener",
    "MakeAgent",
    "RunDirectory",
    "TestOutcome",
    "find_run",
    "list_runs",
    "make_run_directory",
    "run_directories",
    "run_directory",
    "run_task",
    "run_tests",
    "verify_run",
]
