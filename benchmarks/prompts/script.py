"""What the scripts of the tasks are made of: tool calls with Claude Code's names and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gloveport.model import WORKSPACE
from gloveport.testing import ScriptedModel, Text, ToolUse

__all__ = ["Call", "Task", "bash", "edit", "glob", "grep", "play", "read", "serve_in_background", "write"]


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call."""

    use: ToolUse
    hosts: tuple[str, ...] = ()
    """The hosts that it connects to: under a policy that asks about every host, each of them is asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a person asks for, and the calls that a session makes for it."""

    name: str
    prompt: str
    calls: Sequence[Call]

    @property
    def hosts(self) -> frozenset[str]:
        """All hosts that the task connects to."""
        return frozenset(host for call in self.calls for host in call.hosts)

    def connects(self, host: str) -> int:
        """How many of the calls connect to a host."""
        return sum(host in call.hosts for call in self.calls)


def play(task: Task) -> ScriptedModel:
    """A model that makes the calls of a task, one a turn, whatever comes back."""
    return ScriptedModel.of(*((call.use,) for call in task.calls), (Text("Done."),))


def read(path: str, offset: int | None = None, limit: int | None = None) -> Call:
    """Read a file, or lines of it."""
    bounds = {name: value for name, value in (("offset", offset), ("limit", limit)) if value is not None}
    return Call(ToolUse("Read", {"file_path": f"{WORKSPACE}/{path}", **bounds}))


def grep(pattern: str, path: str = "", mode: str = "content") -> Call:
    """Search below a path."""
    return Call(ToolUse("Grep", {"pattern": pattern, "path": f"{WORKSPACE}/{path}", "output_mode": mode}))


def glob(pattern: str) -> Call:
    """Find files."""
    return Call(ToolUse("Glob", {"pattern": pattern}))


def edit(path: str, old: str, new: str, *, everywhere: bool = False) -> Call:
    """Replace a text that was read before."""
    asked = {"file_path": f"{WORKSPACE}/{path}", "old_string": old, "new_string": new, "replace_all": everywhere}
    return Call(ToolUse("Edit", asked))


def write(path: str, content: str) -> Call:
    """Write a whole file."""
    return Call(ToolUse("Write", {"file_path": f"{WORKSPACE}/{path}", "content": content}))


def bash(command: str, *hosts: str) -> Call:
    """Run a command; `hosts` are those it connects to."""
    return Call(ToolUse("Bash", {"command": command, "description": "Run a command"}), hosts)


def serve_in_background(command: str) -> Call:
    """Start what goes on running."""
    asked = {"command": command, "description": "Start a server", "run_in_background": True}
    return Call(ToolUse("Bash", asked))
