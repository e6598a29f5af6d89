"""Dependencies are frozen: versions pinned, files hashed, no registry named; the SDK's CLI is the documented one."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
CLI_VERSION = "2.1.330"
"""The Claude Code CLI in the pinned Agent SDK: what the recipe in `agents/` was measured with."""


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_requirement_is_pinned_and_hashed_and_names_no_host(lock: Path) -> None:
    text = lock.read_text("utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+(\[[a-z,]+\])?==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
    assert "://" not in text


def test_the_core_needs_neither_the_agent_nor_its_parts() -> None:
    core = (ROOT / "requirements/core.lock").read_text("utf-8")
    assert not re.search(r"^(claude-agent-sdk|mcp|starlette|uvicorn|httpx2)==", core, re.MULTILINE)


@pytest.mark.needs("agent")
def test_the_agent_sdk_and_its_command_line_are_the_ones_measured() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (pin,) = [item for item in project["project"]["optional-dependencies"]["agent"] if "claude" in item]
    sdk = importlib.import_module("claude_agent_sdk")
    assert pin == f"claude-agent-sdk=={sdk.__version__}"
    assert importlib.import_module("claude_agent_sdk._cli_version").__cli_version__ == CLI_VERSION
