"""The fixed set of tasks."""

from __future__ import annotations

from benchmarks.prompts.tasks_code import CODE_TASKS
from benchmarks.prompts.tasks_other import OTHER_TASKS

__all__ = ["TASKS"]

TASKS = (*CODE_TASKS, *OTHER_TASKS)
"""Twelve tasks, 308 tool calls."""
