"""The jail of an agent's command line: a sandbox of its own, with no network and one socket to the model proxy.

The command line is a large program that somebody else wrote, and it reads files and settings wherever it finds them.
So it gets the same walls as a guest, an empty workspace at the guest's own path, and nothing of the host to find.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import anyio
import claude_agent_sdk

from gloveport.backends import Process
from gloveport.errors import BackendUnavailable, NotFound
from gloveport.model import GIB, Bind, ExecRequest, Limits, Plan, Spec
from gloveport.policy import PlanInputs, compile_plan, survey
from gloveport.sandbox import Manager, Sandbox
from gloveport.store import Trail

__all__ = ["AGENT_HOME", "JAILED_CLI", "MODEL_SOCKET", "Jail", "JailSpec", "compile_jail", "find_cli", "open_jail"]

AGENT_HOME = "/home/guest"
JAILED_CLI = "/run/gloveport/claude"
MODEL_SOCKET = "/run/gloveport/model.sock"
_UNBOUNDED = 2**62
_READ_AND_EXECUTE = 0o005


@dataclass(frozen=True, slots=True, kw_only=True)
class JailSpec:
    """What one jail is made of."""

    id: str
    """The id of the sandbox that the jail is."""
    cli: Path
    """The command line's program on the host."""
    socket: Path
    """The model proxy's socket on the host."""
    seconds: float
    """Wall time of the whole jail."""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """All that the command line's environment holds beside the few variables of every guest."""


class Jail:
    """A running jail."""

    def __init__(self, spec: JailSpec, sandbox: Sandbox) -> None:
        self.files = sandbox.files
        self._spec = spec
        self._sandbox = sandbox

    async def start(self, arguments: Sequence[str]) -> Process:
        """Start the command line, with its standard input open."""
        return await self._sandbox.start(
            ExecRequest(
                argv=(JAILED_CLI, *arguments),
                stdin=True,
                timeout=self._spec.seconds,
                output_bytes=_UNBOUNDED,
                shown_as="",
            )
        )


def find_cli() -> Path:
    """The Claude Code program that the Agent SDK brings along. `NotFound` where its wheel has none."""
    path = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    if not path.is_file():
        raise NotFound(
            "the Claude Agent SDK here does not bring Claude Code along",
            hint="install its wheel for this platform: pip install --force-reinstall claude-agent-sdk",
        )
    if path.stat().st_mode & _READ_AND_EXECUTE != _READ_AND_EXECUTE:
        raise BackendUnavailable(
            f"other users may not read and execute {path}, so a sandbox cannot", hint=f"chmod o+rx {path}"
        )
    return path


def compile_jail(spec: JailSpec) -> Plan:
    """The jail's plan: a guest's plan with an empty workspace, the program and the socket."""
    limits = Limits(exec_seconds=spec.seconds, sandbox_seconds=spec.seconds, memory_bytes=4 * GIB)
    host = survey()
    plan = compile_plan(Spec(limits=limits), PlanInputs(sandbox=spec.id, host=host, lower=None))
    return replace(
        plan,
        mounts=(*plan.mounts, Bind(str(spec.cli), JAILED_CLI), Bind(str(spec.socket), MODEL_SOCKET)),
        env={**plan.env, **spec.env},
    )


@asynccontextmanager
async def open_jail(spec: JailSpec, manager: Manager, trail: Trail) -> AsyncIterator[Jail]:
    """Make the jail, recorded in `trail`; leaving the scope kills what runs in it and frees it."""
    held = await manager.apply(compile_jail(spec), trail=trail)
    try:
        yield Jail(spec, Sandbox(held))
    finally:
        with anyio.CancelScope(shield=True):
            await manager.delete(held.ref.id)
