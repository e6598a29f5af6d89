"""The recipe of an agent whose tools work in a sandbox: each setting of the Agent SDK and Claude Code, in one place."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from claude_agent_sdk import (
    ClaudeAgentOptions,
    HookMatcher,
    McpSdkServerConfig,
    SdkMcpTool,
    SessionStore,
    ToolAnnotations,
    __version__,
    create_sdk_mcp_server,
    tool,
)

from gloveport.agents.guard import SERVER, Guard
from gloveport.agents.jail import AGENT_HOME, JAILED_CLI, MODEL_SOCKET
from gloveport.agents.session_files import SessionFiles
from gloveport.agents.transport import LONGEST_MESSAGE
from gloveport.model import WORKSPACE
from gloveport.tools import Tool
from gloveport.tools.claude import Answer

__all__ = ["CLI_VARIABLES", "CONFIG_HOME", "DATE_VARIABLE", "build_recipe", "cli_arguments"]

CONFIG_HOME = f"{AGENT_HOME}/.claude"
DATE_VARIABLE = "CLAUDE_CODE_OVERRIDE_DATE"
"""The day that the command line takes for today."""
_TOOL_TIMEOUT_MS = 660_000
"""Longer than any command's own limit, so that the limit speaks first."""
_LONGEST_RESULT = 200_000
"""Characters: above every tool's own cap, so that no result is moved into a file that the tools cannot read."""

CLI_VARIABLES: Mapping[str, str] = {
    # The model: a placeholder, and the proxy's socket, behind which the real key is.
    "ANTHROPIC_API_KEY": "placeholder-not-a-key",
    "ANTHROPIC_BASE_URL": "http://localhost",
    "ANTHROPIC_UNIX_SOCKET": MODEL_SOCKET,
    # A model is asked by the name that it was given: the proxy lets no other pass.
    "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP": "1",
    # Its places, all in the jail's memory.
    "CLAUDE_CONFIG_DIR": CONFIG_HOME,
    "CLAUDE_CODE_TMPDIR": "/tmp",
    # Tools: ours at once, by their plain names, and nothing in the background.
    "CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1",
    "ENABLE_TOOL_SEARCH": "0",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "MCP_TOOL_TIMEOUT": str(_TOOL_TIMEOUT_MS),
    # Its odd name for: tell the model what it asked of tools in its own words, which they get (`Verbatim`), unedited.
    "CLAUDE_CODE_HUMBLE_HAMMOCK": "1",
    # What it would read, fetch or send unasked.
    "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "CLAUDE_CODE_DISABLE_BUNDLED_SKILLS": "1",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    # What the SDK's own transport would say.
    "CLAUDE_AGENT_SDK_VERSION": __version__,
    "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
    "CLAUDE_CODE_SDK_READS_SESSION_STATE": "1",
}
"""The command line's environment in the jail, beside what every guest has."""

_SETTINGS = json.dumps(
    {"apiKeyHelper": "", "disableAllHooks": True, "disableSkillShellExecution": True, "includeCoAuthoredBy": False}
)

_INSTRUCTIONS = f"""\
You work in a sandbox. %s act inside it, on the repository in {WORKSPACE}; the environment \
section above does not describe it, so find out there what you need to know (`git status`, `uname -a`). The sandbox \
may have no network. Its limits and its policy are fixed: when something is refused, say so and go on without it."""

Call = Callable[[str, object], Awaitable[Answer]]


def build_recipe(
    call: Call,
    guard: Guard,
    *,
    skills: Sequence[str],
    model: str | None,
    max_turns: int,
    max_cost: float | None,
    resume: str | None,
    sessions: SessionFiles,
) -> ClaudeAgentOptions:
    """What the Agent SDK is told. `call` carries out tools; `max_cost` is in US dollars; `resume` is a session's id.

    `setting_sources` names the user's only: in the jail that is a directory which holds the offered skills and nothing
    else. A repository's settings, hooks, servers, memories and commands are never in the command line's sight.
    """
    return ClaudeAgentOptions(
        cli_path=JAILED_CLI,
        cwd=WORKSPACE,
        env=dict(CLI_VARIABLES),
        system_prompt={"type": "preset", "preset": "claude_code", "append": _INSTRUCTIONS % ", ".join(guard.tools)},
        tools=list(guard.cli_tools),
        mcp_servers={SERVER: _server(call, guard.tools.values())},
        strict_mcp_config=True,
        allowed_tools=[f"mcp__{SERVER}"],
        permission_mode="dontAsk",
        hooks={"PreToolUse": [HookMatcher(hooks=[guard.hook], on_failure="block")]},
        skills=list(skills),
        setting_sources=["user"],
        settings=_SETTINGS,
        verbatim_prompts=True,
        include_partial_messages=True,
        max_buffer_size=LONGEST_MESSAGE,
        model=model,
        max_turns=max_turns,
        max_budget_usd=max_cost,
        resume=resume,
        session_store=cast("SessionStore", sessions),  # the optional methods are left out
    )


def cli_arguments(recipe: ClaudeAgentOptions) -> list[str]:
    """The command line's arguments for `recipe`: with a transport of our own, passing them is up to us.

    Each value is bound to its flag by `=`, so that none can pass for a flag itself.
    """
    values: dict[str, object] = {
        "output-format": "stream-json",
        "input-format": "stream-json",
        "append-system-prompt": cast("Mapping[str, str]", recipe.system_prompt)["append"],
        "tools": ",".join(cast("Sequence[str]", recipe.tools)),
        "allowedTools": ",".join([*recipe.allowed_tools, *(f"Skill({name})" for name in recipe.skills or ())]),
        "permission-mode": recipe.permission_mode,
        "mcp-config": json.dumps({"mcpServers": {SERVER: {"type": "sdk", "name": SERVER}}}),
        "setting-sources": ",".join(recipe.setting_sources or ()),
        "settings": recipe.settings,
        "model": recipe.model,
        "max-turns": recipe.max_turns,
        "max-budget-usd": recipe.max_budget_usd,
        "resume": recipe.resume,
    }
    switches = ["--verbose", "--strict-mcp-config", "--include-partial-messages", "--session-mirror"]
    return switches + [f"--{flag}={value}" for flag, value in values.items() if value is not None]


def _server(call: Call, offered: Iterable[Tool]) -> McpSdkServerConfig:
    return create_sdk_mcp_server(SERVER, tools=[_sdk_tool(each, call) for each in offered])


def _sdk_tool(offered: Tool, call: Call) -> SdkMcpTool[Any]:
    hints = ToolAnnotations(readOnlyHint=offered.read_only, maxResultSizeChars=_LONGEST_RESULT)

    @tool(offered.name, offered.description, offered.schema(), annotations=hints)
    async def carry_out(arguments: dict[str, Any]) -> dict[str, Any]:
        answer = await call(offered.name, arguments)
        return {"content": [{"type": "text", "text": answer.text}], "is_error": answer.is_error}

    return carry_out
