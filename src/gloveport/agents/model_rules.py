"""Which model requests a sandbox may make: pure judgement, no input or output."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gloveport.agents.model_api import ApiError, ModelRequest

__all__ = ["ModelRules", "rules_for"]

_DATED_TOOL = re.compile(r"[a-z_]+_20\d{6}")
_CLIENT_RUN_TOOL = re.compile(r"(?:bash|computer|memory|text_editor)_20\d{6}")
"""Dated tool types that the model's provider defines and the client carries out."""
_OPAQUE_KEYS = frozenset({"input", "input_schema", "schema"})
"""Members that hold tool arguments and JSON Schemas: data, never read as part of the request."""
_REMOTE_KEYS: Mapping[str, str] = {
    "mcp_servers": "a remote MCP server",
    "container": "a container of the provider's",
}
_FAMILIES: Mapping[str, frozenset[str]] = {
    **{name: frozenset({name}) for name in ("fable", "haiku", "mythos", "opus", "sonnet")},
    "opusplan": frozenset({"opus", "sonnet"}),
}
"""Names by which Claude Code knows the newest model of a family."""
_ANY_MODEL = frozenset({"best", "default"})
_LONG_CONTEXT = "[1m]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRules:
    """What a sandbox may ask of the model."""

    models: frozenset[str] | None = None
    """Allowed model names, compared exactly; None allows any, an empty set none."""
    families: frozenset[str] = frozenset()
    """Beside `models`: any Claude model whose name has one of these words between its dashes."""
    allow_remote_tools: bool = False
    """Let the model's provider fetch URLs and run its own tools (web search, code, MCP) for the guest.

    That is egress through someone else's machine, past the egress proxy: off unless a policy grants it.
    """

    def refusal(self, request: ModelRequest) -> ApiError | None:
        """The error to answer `request` with, or None when it is allowed."""
        if not self._is_allowed(request.model):
            allowed = ", ".join([*sorted(self.models or ()), *sorted(self.families)]) or "none"
            return _refused(f"model {request.model!r} is not allowed in this sandbox (allowed: {allowed})")
        if request.document.get("speed") not in (None, "standard"):
            return _refused("a faster answer at a higher price is not allowed in this sandbox")
        if not self.allow_remote_tools and (reason := _remote_tool(request.document)):
            return _refused(f"{reason} would run outside the sandbox and is not allowed")
        return None

    def _is_allowed(self, model: str) -> bool:
        if self.models is None or model in self.models:
            return True
        maker, *words = model.split("-")
        return maker == "claude" and not self.families.isdisjoint(words)


def rules_for(model: str | None) -> ModelRules:
    """The rules of a session whose model is named `model` as Claude Code takes names; None leaves the choice to it.

    Claude Code asks that model and no other: it has no side errands for a small one here. A family's name
    (`sonnet`) stands for every model of the family, because Claude Code knows which one is the newest.
    """
    name = (model or "default").removesuffix(_LONG_CONTEXT)
    if name in _ANY_MODEL:
        return ModelRules()
    return ModelRules(models=frozenset({name}), families=_FAMILIES.get(name, frozenset()))


def _refused(message: str) -> ApiError:
    return ApiError(403, "permission_error", message)


def _remote_tool(document: Mapping[str, Any]) -> str | None:
    """The first thing in a request that makes the provider reach out, in words; None when there is none."""
    for key, reason in _REMOTE_KEYS.items():
        if document.get(key):
            return reason
    for item in _objects(document):
        for tool in _definitions(item):
            kind = tool.get("type", "custom")
            if kind != "custom" and not (isinstance(kind, str) and _CLIENT_RUN_TOOL.fullmatch(kind)):
                return f"the provider's tool {kind}"
        kind = item.get("type")
        if not isinstance(kind, str):
            continue
        if kind == "url" and "url" in item:
            return "a content source that is a URL"
        if kind == "mcp_toolset":
            return "a remote MCP toolset"
        if "name" in item and _DATED_TOOL.fullmatch(kind) and not _CLIENT_RUN_TOOL.fullmatch(kind):
            return f"the provider's tool {kind}"
    return None


def _definitions(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The tools that an object defines: in a list, or the one that joins in the middle of a conversation."""
    tools = item.get("tools")
    listed = tools if isinstance(tools, list) else [tools]
    yield from (tool for tool in [*listed, item.get("definition")] if isinstance(tool, Mapping))


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
