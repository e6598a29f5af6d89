"""The tools that the server offers: names, what they are for, schemas, and how each call is checked and answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mcp import types
from pydantic import TypeAdapter, ValidationError

from gloveport.errors import InvalidRequest
from gloveport.mcp import calls, scoring, shapes, travel
from gloveport.mcp.progress import Progress
from gloveport.mcp.sandboxes import Sandboxes
from gloveport.tools.claude import CLAUDE_TOOLS
from gloveport.tools.standard import TOOLS

__all__ = ["OFFERS", "Offer"]

Handler = Callable[[Sandboxes, Any, Progress], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One tool."""

    name: str
    title: str
    description: str
    takes: TypeAdapter[Any]
    gives: TypeAdapter[Any]
    handler: Handler
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False

    def tool(self) -> types.Tool:
        """As clients see it."""
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=_plain(self.takes.json_schema()),
            output_schema=_plain(self.gives.json_schema(mode="serialization")),
            annotations=types.ToolAnnotations(
                title=self.title,
                read_only_hint=self.read_only,
                destructive_hint=self.destructive,
                idempotent_hint=self.idempotent,
                open_world_hint=self.open_world,
            ),
        )

    async def call(self, sandboxes: Sandboxes, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Check the arguments, carry the call out; its result as JSON values. Raises `GloveportError`."""
        try:
            asked = self.takes.validate_python(arguments)
        except ValidationError as error:
            raise self._refusal(error) from None
        given = await self.handler(sandboxes, asked, progress)
        found: dict[str, Any] = self.gives.dump_python(given)
        return found

    def _refusal(self, error: ValidationError) -> InvalidRequest:
        mistakes = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors(include_url=False)]
        wrong = "; ".join(f"{place or 'the parameters'}: {what}" for place, what in mistakes)
        schema = self.takes.json_schema()
        required = schema.get("required", [])
        usage = ", ".join(name if name in required else f"{name}?" for name in schema.get("properties", {}))
        return InvalidRequest(f"{self.name}: {wrong}", hint=f"expected {self.name}({usage})", tool=self.name)


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without what pydantic says for people who read Python: names of classes, titles of fields."""
    kept = {key: value for key, value in schema.items() if key not in ("title", "description")}
    for definition in (kept, *kept.get("$defs", {}).values()):
        for field in definition.get("properties", {}).values():
            field.pop("title", None)
    kept.setdefault("properties", {})
    return kept


def _offer(handler: Any, takes: type, gives: type, title: str, description: str, **hints: bool) -> Offer:
    return Offer(
        name=handler.__name__,
        title=title,
        description=description,
        takes=TypeAdapter(takes),
        gives=TypeAdapter(gives),
        handler=handler,
        **hints,
    )


def _inner_tools() -> str:
    tools = (*TOOLS.values(), *CLAUDE_TOOLS.values())
    return "\n".join(f"- {tool.usage()}: {tool.description.partition(chr(10))[0]}" for tool in tools)


def _offers() -> Mapping[str, Offer]:
    offers = (
        _offer(
            calls.create_sandbox,
            shapes.CreateSandbox,
            shapes.SandboxFacts,
            "Create a sandbox",
            "Make a sandbox: an isolated place with a copy of a repository in /workspace, where commands run and files "
            "change without touching anything else. The result has its sandbox_id, which every other tool takes. "
            "Close it when it is not needed any more.",
            open_world=True,
        ),
        _offer(
            calls.execute_tool,
            shapes.ExecuteTool,
            shapes.Executed,
            "Call a tool in a sandbox",
            "Run a command or work with files in a sandbox. Relative paths start at /workspace. Calls may run at the "
            f"same time. tool_name and its params are one of:\n{_inner_tools()}",
            destructive=True,
            open_world=True,
        ),
        _offer(
            calls.get_diff,
            shapes.GetDiff,
            shapes.Diff,
            "Show what changed",
            "The changes of a sandbox's workspace since it was made, as a patch.",
            read_only=True,
        ),
        _offer(
            travel.reset_sandbox,
            shapes.ResetSandbox,
            shapes.Reset,
            "Reset a sandbox",
            "End every process of a sandbox and put its files back to a snapshot, or to its first state.",
            destructive=True,
            idempotent=True,
        ),
        _offer(
            travel.snapshot_sandbox,
            shapes.SnapshotSandbox,
            shapes.SnapshotTaken,
            "Take a snapshot",
            "Save the files of a sandbox as they are, to reset to or to start from.",
        ),
        _offer(
            travel.fork_sandbox,
            shapes.ForkSandbox,
            shapes.Forked,
            "Fork a sandbox",
            "Make more sandboxes with the files of one as they are; each goes its own way.",
        ),
        _offer(
            travel.replay_trajectory,
            shapes.ReplayTrajectory,
            shapes.Replayed,
            "Replay a trajectory",
            "Carry out recorded tool calls again in a sandbox and compare what they give with what was recorded.",
            destructive=True,
            open_world=True,
        ),
        _offer(
            scoring.score_trajectory,
            shapes.ScoreTrajectory,
            shapes.Scored,
            "Score a trajectory",
            "Say how well recorded tool calls went, from 0 to 1, by a rubric of weighted criteria, each with the steps "
            "that it is about. Nothing is run, and no model is asked.",
            read_only=True,
            idempotent=True,
        ),
        _offer(
            calls.list_sandboxes,
            shapes.ListSandboxes,
            shapes.Listed,
            "List the sandboxes",
            "The sandboxes of this server, the oldest first.",
            read_only=True,
        ),
        _offer(
            calls.close_sandbox,
            shapes.CloseSandbox,
            shapes.Closed,
            "Close a sandbox",
            "Kill everything in a sandbox and free it, with all its files.",
            destructive=True,
        ),
    )
    return MappingProxyType({offer.name: offer for offer in offers})


OFFERS: Mapping[str, Offer] = _offers()
"""The tools by name."""
