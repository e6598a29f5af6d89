"""Which tool calls an agent may make: the judgement, and the hook that asks for it before each call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from claude_agent_sdk import HookContext, HookInput, HookJSONOutput

from gloveport.model import Policy, Verdict
from gloveport.policy.commands.lists import unanswered
from gloveport.policy.commands.tool_rules import decide_tool
from gloveport.tools.claude import CLAUDE_TOOLS

__all__ = ["SERVER", "SKILL_TOOL", "Guard"]

SERVER = "sandbox"
"""The name of the MCP server whose tools work in the sandbox."""
SKILL_TOOL = "Skill"
"""The one tool of the command line itself: it reads a skill's text, in the jail."""
_PREFIX = f"mcp__{SERVER}__"
_NO_POLICY = Policy()
_OUR_SERVER = {"name": SERVER, "source": "sdk"}


class Guard:
    """Allows the sandbox's tools and the offered skills, as far as the policy does, and nothing else.

    The command line is told not to have other tools. This is the second wall, for the day when it has one all the same.
    """

    def __init__(self, skills: Iterable[str], policy: Policy = _NO_POLICY) -> None:
        decisions = {name: decide_tool(policy, name) for name in (*CLAUDE_TOOLS, SKILL_TOOL)}
        # A call of ours that is asked about waits in the sandbox; a skill is read where nobody waits for anybody.
        decisions[SKILL_TOOL] = unanswered(decisions[SKILL_TOOL])
        self._denied = {name: found for name, found in decisions.items() if found.verdict is Verdict.DENY}
        self.tools = MappingProxyType({name: tool for name, tool in CLAUDE_TOOLS.items() if name not in self._denied})
        """What is offered: the sandbox's tools that the policy does not deny."""
        self.cli_tools = () if SKILL_TOOL in self._denied else (SKILL_TOOL,)
        """The command line's own tools that are offered."""
        self.skills = tuple(skills) if self.cli_tools else ()
        """The skills that are offered."""

    def refusal(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """Why the model's call of `tool`, by its plain name, is refused; empty when it is allowed."""
        if tool in self._denied:
            return f"the policy denies {tool!r}: {self._denied[tool].reason} ({self._denied[tool].rule})"
        if tool in self.tools:
            return ""
        if tool != SKILL_TOOL:
            return f"no tool {tool!r} is offered: {', '.join([*self.tools, *self.cli_tools])}"
        if arguments.get("skill") not in self.skills:
            return f"no skill {arguments.get('skill')!r} is offered: {', '.join(sorted(self.skills))}"
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
