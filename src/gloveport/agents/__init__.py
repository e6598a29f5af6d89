"""Agents: the Claude Agent SDK at work in a sandbox, its command line in a jail, and the proxy to its model."""

__all__: list[str] = []
