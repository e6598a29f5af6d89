"""Which model requests a sandbox may make: pure judgement, no input or output."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gloveport.agents.model_api import ApiError, ModelRequest

__all__ = ["ModelRules"]

_DATED_TOOL = re.compile(r"[a-z_]+_20\d{6}")
_CLIENT_RUN_TOOLS = ("bash_", "computer_", "memory_", "text_editor_")
"""Dated tool types that the model's provider defines and the client carries out."""
_OPAQUE_KEYS = frozenset({"input", "input_schema", "schema"})
"""Members that hold tool arguments and JSON Schemas: data, never read as part of the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRules:
    """What a sandbox may ask of the model."""

    models: frozenset[str] | None = None
    """Allowed model names, compared exactly; None allows any, an empty set none."""
    allow_remote_tools: bool = False
    """Let the model's provider fetch URLs and run its own tools (web search, code, MCP) for the guest.

    That is egress through someone else's machine, past the egress proxy: off unless a policy grants it.
    """

    def refusal(self, request: ModelRequest) -> ApiError | None:
        """The error to answer `request` with, or None when it is allowed."""
        if self.models is not None and request.model not in self.models:
            allowed = ", ".join(sorted(self.models)) or "none"
            return _refused(f"model {request.model!r} is not allowed in this sandbox (allowed: {allowed})")
        if not self.allow_remote_tools and (reason := _remote_tool(request.document)):
            return _refused(f"{reason} would run outside the sandbox and is not allowed")
        return None


def _refused(message: str) -> ApiError:
    return ApiError(403, "permission_error", message)


def _remote_tool(document: Mapping[str, Any]) -> str | None:
    """The first thing in a request that makes the provider reach out, in words; None when there is none."""
    if document.get("mcp_servers"):
        return "a remote MCP server"
    for item in _objects(document):
        kind = item.get("type")
        if not isinstance(kind, str):
            continue
        if kind == "url" and "url" in item:
            return "a content source that is a URL"
        if kind == "mcp_toolset":
            return "a remote MCP toolset"
        if "name" in item and _DATED_TOOL.fullmatch(kind) and not kind.startswith(_CLIENT_RUN_TOOLS):
            return f"the provider's tool {kind}"
    return None


def _objects(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every object of a request, wherever it stands: newer requests carry tools inside messages too."""
    pending: list[Any] = [document]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            yield item
            pending.extend(value for key, value in item.items() if key not in _OPAQUE_KEYS)
        elif isinstance(item, list):
            pending.extend(item)
