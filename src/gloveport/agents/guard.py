"""Which tool calls an agent may make: the judgement, and the hook that asks for it before each call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from claude_agent_sdk import HookContext, HookInput, HookJSONOutput

from gloveport.tools.claude import CLAUDE_TOOLS

__all__ = ["SERVER", "SKILL_TOOL", "Guard"]

SERVER = "sandbox"
"""The name of the MCP server whose tools work in the sandbox."""
SKILL_TOOL = "Skill"
"""The one tool of the command line itself: it reads a skill's text, in the jail."""
_PREFIX = f"mcp__{SERVER}__"
_OUR_SERVER = {"name": SERVER, "source": "sdk"}


class Guard:
    """Allows the sandbox's tools and the offered skills, and nothing else.

    The command line is told not to have other tools. This is the second wall, for the day when it has one all the same.
    """

    def __init__(self, skills: Iterable[str]) -> None:
        self._skills = frozenset(skills)

    def refusal(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """Why the model's call of `tool`, by its plain name, is refused; empty when it is allowed."""
        if tool in CLAUDE_TOOLS:
            return ""
        if tool != SKILL_TOOL:
            return f"no tool {tool!r} is offered: {', '.join([*CLAUDE_TOOLS, SKILL_TOOL])}"
        if arguments.get("skill") not in self._skills:
            return f"no skill {arguments.get('skill')!r} is offered: {', '.join(sorted(self._skills))}"
        return ""

    async def hook(self, call: HookInput, _id: str | None, _context: HookContext) -> HookJSONOutput:
        """The SDK's `PreToolUse` hook.

        A built-in tool may have the plain name of one of ours: what tells them apart is the server that the command
        line names for ours alone. If it named none, everything would be refused.
        """
        if call["hook_event_name"] != "PreToolUse":
            return {}
        name = call["tool_name"].removeprefix(_PREFIX)
        refusal = self.refusal(name, call["tool_input"])
        if not refusal and name != SKILL_TOOL and call.get("mcp_server") != _OUR_SERVER:
            refusal = f"{name!r} would not run in the sandbox"
        if not refusal:
            return {}
        return {
            "hookSpecificOutput": {
                "hookEventName": "PreToolUse",
                "permissionDecision": "deny",
                "permissionDecisionReason": refusal,
            }
        }
