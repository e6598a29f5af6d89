"""Executing one recorded tool call through the real tools, and what came of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from gloveport.errors import GloveportError, InvalidRequest
from gloveport.sandbox import Sandbox
from gloveport.tools.claude import CLAUDE_TOOLS, ClaudeTools, open_claude_tools
from gloveport.tools.standard import TOOLS, call_tool
from gloveport.trajectory.replay.changes import Look
from gloveport.trajectory.steps import Outcome

__all__ = [
    "AGENT_TOOLS",
    "Observed",
    "ReplayTools",
    "command_of",
    "digest_text",
    "is_playable",
    "open_replay_tools",
    "replay_tools",
]

AGENT_TOOLS = frozenset({"AskUserQuestion", "EnterPlanMode", "ExitPlanMode", "Skill", "TodoWrite"})
"""Tools of an agent that do nothing to a sandbox: there is nothing of them to execute."""

_COMMANDS = ("shell", "git")
_BASH_STATUS = re.compile(r"Exit code (\d+)(?:\n|\Z)")
_IN_BACKGROUND = "run_in_background"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one call gave."""

    text: str
    """What the tool answered."""
    is_error: bool
    error: str = ""
    """What a standard tool said of an error beside that."""
    status: int | None = None
    """The exit status of its command; `None` where it ran none to the end."""
    stdout: str = ""
    """SHA-256 of it, in hexadecimal, where the tool hands it on whole."""
    stderr: str = ""
    failure: GloveportError | None = None
    """Why the platform could not carry it out."""

    def outcome(self, look: Look, *, duration: float | None = None) -> Outcome:
        """The same as a trajectory holds it, with what it left in the workspace."""
        return Outcome(
            text=self.text,
            is_error=self.is_error,
            error=self.error,
            status=self.status,
            duration=None if duration is None else round(duration, 6),
            stdout=self.stdout,
            stderr=self.stderr,
            changes=look.digest,
            changed=look.changed,
            contents=look.contents,
        )


class ReplayTools(Protocol):
    """Carries out tool calls, one after another, in one place."""

    async def call(self, name: str, params: Mapping[str, Any], *, call: str = "") -> Observed:
        """Carry out one, whose id is `call`. What the platform cannot do is a `failure`, never raised."""
        ...


@asynccontextmanager
async def open_replay_tools(sandbox: Sandbox) -> AsyncIterator[ReplayTools]:
    """Both sets of tools on one sandbox, as one session; its background commands end with the scope."""
    async with open_claude_tools(sandbox) as claude:
        yield replay_tools(sandbox, claude)


def replay_tools(sandbox: Sandbox, claude: ClaudeTools) -> ReplayTools:
    """The same over a session of Claude Code's tools that is open already."""
    return _SandboxTools(sandbox, claude)


def is_playable(name: str) -> bool:
    """Whether it is one of the tools that a sandbox has."""
    return name in CLAUDE_TOOLS or name in TOOLS


def command_of(params: Mapping[str, Any]) -> str:
    """The command line in a call's parameters; empty where there is none."""
    command = params.get("command")
    return command if isinstance(command, str) else ""


def digest_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class _SandboxTools:
    def __init__(self, sandbox: Sandbox, claude: ClaudeTools) -> None:
        self._sandbox = sandbox
        self._claude = claude

    async def call(self, name: str, params: Mapping[str, Any], *, call: str = "") -> Observed:
        try:
            if name in CLAUDE_TOOLS:
                return await self._call_claude(name, params, call)
            return await self._call_standard(name, params, call)
        except InvalidRequest as error:
            # The call means nothing to the tool: to a model that is an answer, like any other.
            text = f"{error.message} ({error.hint})"
            return Observed(text="", error=text, is_error=True)
        except GloveportError as error:
            return Observed(text="", error=error.message, is_error=True, failure=error)

    async def _call_claude(self, name: str, params: Mapping[str, Any], call: str) -> Observed:
        answer = await self._claude.call(name, dict(params), call=call)
        status: int | None = None
        if name == "Bash" and not params.get(_IN_BACKGROUND):
            said = _BASH_STATUS.match(answer.text)
            status = int(said[1]) if answer.is_error and said else None if answer.is_error else 0
        return Observed(text=answer.text, is_error=answer.is_error, status=status)

    async def _call_standard(self, name: str, params: Mapping[str, Any], call: str) -> Observed:
        result = await call_tool(self._sandbox, name, dict(params), call=call)
        error = result.error or ""
        return Observed(
            text=result.output,
            error=error,
            is_error=not result.success,
            # Only where it is the command's own, as in a trail, which tells how what ran out of time was killed.
            status=result.exit_code if name in _COMMANDS and not result.timed_out else None,
            stdout=digest_text(result.output),
            stderr=digest_text(error),
        )
