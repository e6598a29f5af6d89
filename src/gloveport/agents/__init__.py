"""Agents: the Claude Agent SDK at work in a sandbox, its command line in a jail, and the proxy to its model."""

from gloveport.agents.service import AgentSpec, ClaudeAgent, MakeAgent, claude_agent, open_claude_agent

__all__ = ["AgentSpec", "ClaudeAgent", "MakeAgent", "claude_agent", "open_claude_agent"]
