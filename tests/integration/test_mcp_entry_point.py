"""The MCP server as programs find it that look for servers: by the entry point group `mcp.servers`."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gloveport.cli.main import COMMANDS
from gloveport.settings import Settings

pytest.importorskip("mcp")

from .mcp_world import World, wired

GROUP = "mcp.servers"
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def declared() -> EntryPoint:
    """Whatever is installed here may be of another day: what counts is what the next installation will have."""
    points = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["entry-points"][GROUP]
    ((name, value),) = points.items()
    return EntryPoint(name=name, value=value, group=GROUP)


@dataclass(frozen=True, kw_only=True)
class Found(World):
    """A server that is started as whoever finds the entry point starts it: loaded, and called without arguments."""

    @property
    def argv(self) -> list[str]:
        point = declared()
        found = f"EntryPoint(name={point.name!r}, value={point.value!r}, group={GROUP!r})"
        return [sys.executable, "-c", f"from importlib.metadata import EntryPoint\n{found}.load()()"]


def test_the_entry_point_is_what_the_command_runs() -> None:
    point = declared()
    assert (point.name, point.value) == ("gloveport", COMMANDS["mcp"].where)
    assert callable(point.load())


@pytest.mark.needs("bubblewrap")
def test_what_the_entry_point_names_serves_a_client_when_it_is_called(settings: Settings, place: Path) -> None:
    with wired(Found(settings=settings, here=place)) as wire:
        wire.open()
        tools = wire.call("tools/list")["result"]["tools"]
        assert {"create_sandbox", "execute_tool"} <= {tool["name"] for tool in tools}
        assert wire.close() == 0
