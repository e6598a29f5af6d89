"""The handle people hold: one sandbox, its processes, files, searches, Git and changes."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import MappingProxyType
from typing import BinaryIO, Self

from gloveport.backends.base import ChangeSet, Process
from gloveport.errors import NotFound
from gloveport.model import (
    WORKSPACE,
    ExecRequest,
    ExecResult,
    Grep,
    Match,
    SandboxStatus,
    Snapshot,
    Spec,
    TerminalSize,
)
from gloveport.policy.files.protected import protected_patterns
from gloveport.policy.security import ToolRequest
from gloveport.sandbox.background import Background, lasting
from gloveport.sandbox.calls import ToolCall, ToolCallRecord, record_call
from gloveport.sandbox.files import Files
from gloveport.sandbox.finish import finish
from gloveport.sandbox.git import Git, keep_unignored
from gloveport.sandbox.manager import Held, Manager
from gloveport.sandbox.patch import Patch, PatchSummary, make_patch, write_patch
from gloveport.sandbox.search import search
from gloveport.sandbox.shell import Shell
from gloveport.sandbox.task_scope import task_scope
from gloveport.settings import Settings

__all__ = ["Sandbox", "shell_request"]


def shell_request(command: str, *, timeout: float | None = None, cwd: str = WORKSPACE) -> ExecRequest:
    """The exec of a shell command line: `bash -c`, without start-up files."""
    argv = ("/bin/bash", "--norc", "--noprofile", "-c", command)
    return ExecRequest(argv=argv, timeout=timeout, cwd=cwd, shown_as=command)


def _request(given: ExecRequest | Sequence[str]) -> ExecRequest:
    return given if isinstance(given, ExecRequest) else ExecRequest(argv=tuple(given))


class Sandbox:
    """One running sandbox. `Sandbox.create` makes one that this process owns."""

    def __init__(self, held: Held) -> None:
        self.ref = held.ref
        self.limits = held.limits
        """What bounds it."""
        self.policy = held.policy
        """What it may do."""
        self.files = Files(held)
        """Read, write, list, stat, watch."""
        self.git = Git(held.backend, held.ref)
        """Status, diff and log, run in the guest."""
        self._held = held
        self._backend = held.backend
        self._scratch = held.scratch

    @classmethod
    @asynccontextmanager
    async def create(cls, spec: Spec | None = None, *, settings: Settings | None = None) -> AsyncIterator[Self]:
        """A sandbox of this process's own, deleted on leaving the scope. It takes about seven of its descriptors.

        Raises `Unsupported` or `BackendUnavailable` before anything is made where this host cannot keep what the spec
        asks for; `NotFound`, `InvalidRequest`, `PermissionDenied` for a source that cannot be used.
        """
        async with Manager(settings or Settings.load()) as manager:
            yield cls(await manager.create(spec or Spec()))

    @property
    def id(self) -> str:
        """The readable id."""
        return self.ref.id

    async def status(self) -> SandboxStatus:
        """What is observed now."""
        return await self._backend.status(self.ref)

    async def exec(self, request: ExecRequest | Sequence[str], *, input: bytes | None = None) -> ExecResult:  # noqa: A002
        """Run one command to its end and take its output, at most `output_bytes` of each stream.

        `input` becomes standard input. A non-zero exit is a result; only the platform raises. Cancelling kills the
        whole process tree.
        """
        asked = _request(request)
        if input is not None and not asked.stdin:
            asked = replace(asked, stdin=True)
        process = await self._backend.exec(self.ref, asked)
        return await finish(process, input)

    async def start(self, request: ExecRequest | Sequence[str]) -> Process:
        """Start one command and return its live handle: take its output, send input, signal, wait."""
        return await self._backend.exec(self.ref, _request(request))

    @asynccontextmanager
    async def background(self, request: ExecRequest | Sequence[str]) -> AsyncIterator[Background]:
        """Start a command whose output is taken all the time and whose last part is kept; killed on leaving.

        It may take as long as the sandbox lives, unless the request has a timeout.
        """
        held = Background(await self.start(lasting(_request(request), self.limits)))
        async with task_scope() as tasks:
            tasks.start_soon(held.run)
            try:
                yield held
            finally:
                await held.stop()
                tasks.cancel_scope.cancel()

    async def pty(
        self,
        argv: Sequence[str] = ("/bin/bash", "-i"),
        size: TerminalSize | None = None,
        env: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> Process:
        """Start a command on a terminal of its own; `timeout` seconds, or as long as the sandbox lives."""
        variables = MappingProxyType({"TERM": "xterm-256color", **(env or {})})
        request = ExecRequest(argv=tuple(argv), terminal=size or TerminalSize(), env=variables, timeout=timeout)
        return await self.start(lasting(request, self.limits))

    @asynccontextmanager
    async def shell(self, cwd: str = WORKSPACE) -> AsyncIterator[Shell]:
        """A persistent bash that keeps its directory, variables and functions between commands.

        It lives as long as the scope; each of its commands has a timeout of its own.
        """
        shell = Shell(self._held, cwd)
        try:
            yield shell
        finally:
            await shell.close()

    async def search(self, grep: Grep) -> list[Match]:
        """Lines that match a regular expression, by ripgrep in the guest."""
        return await search(self._held, grep)

    async def changes(self, *, ignored: bool = False) -> ChangeSet:
        """What differs from the workspace's first state; without what `.gitignore` leaves out, unless `ignored`."""
        found = await self._backend.changes(self.ref)
        return found if ignored else await keep_unignored(self._backend, self.ref, found)

    async def diff(self, *, ignored: bool = False) -> Patch:
        """A patch that turns the first state into this one: contents, modes, binaries, deletions, symbolic links.

        Raises `LimitExceeded` for one above 256 MiB: `write_diff` takes it to a file.
        """
        found = await self.changes(ignored=ignored)
        return await make_patch(found, scratch=self._scratch, protected=protected_patterns(self._held.policy))

    async def write_diff(self, output: BinaryIO, *, ignored: bool = False) -> PatchSummary:
        """The same patch, into an open file: never in memory, of any size up to what its files may hold (2 GiB)."""
        found = await self.changes(ignored=ignored)
        return await write_patch(found, output, scratch=self._scratch, protected=protected_patterns(self._held.policy))

    async def snapshot(self, label: str = "") -> Snapshot:
        """Save the files as they are at one moment: workspace, `/tmp` and home, to the byte. Processes go on.

        Raises `Unsupported`, `LimitExceeded` where there is no room, `Conflict` where no one moment can be had.
        """
        return await self._held.manager.snapshot(self.id, label)

    def save_before_calls(self) -> None:
        """Take a snapshot before each tool call that may change something; its id is in the call's record."""

        async def save() -> str:
            return (await self.snapshot()).id

        self._held.backend.save = save

    async def fork(self, count: int = 1) -> list[Self]:
        """So many new sandboxes that begin with these files, in the same manager; no process comes along."""
        return [type(self)(held) for held in await self._held.manager.fork(self.id, count)]

    async def reset(self, to: str | None = None) -> None:
        """End every process, and put all files back: as they were at the beginning, in the snapshot `to`, or `base`."""
        await self._held.manager.reset(self.id, to)

    async def require(self, program: str) -> None:
        """Raise `NotFound` unless the guest has `program` on its path."""
        found = await self.exec(shell_request(f"command -v {shlex.quote(program)}"))
        if not found.ok:
            raise NotFound(
                f"the sandbox has no {program!r}",
                hint="install it on this host, or show its directory with --read-only",
                program=program,
            )

    @asynccontextmanager
    async def tool_call(self, call: ToolCall) -> AsyncIterator[tuple[Self, ToolCallRecord]]:
        """Record what happens in the scope as one tool call's, which is done with the handle that this gives."""
        async with record_call(self._backend, self.ref, call) as record:
            yield type(self)(replace(self._held, backend=self._backend.during(record.call))), record

    async def check_tool(self, request: ToolRequest) -> None:
        """Raise `PolicyDenied`, with the refusal in the trail, for a tool call that the policy does not let through.

        Where the policy asks, it waits for a person. A command line is judged where it starts, as every exec is.
        """
        await self._backend.check_tool(request)

    async def delete(self) -> None:
        """Kill everything and free everything. Idempotent."""
        with suppress(NotFound):
            await self._held.manager.delete(self.id)
