"""What a conformance check works with: a backend, sandboxes of its own, and commands run to their end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio

from gloveport.backends import Backend, Process
from gloveport.errors import GloveportError
from gloveport.model import ExecRequest, Exit, Limits, OutputStream, Plan, Ref

__all__ = ["Bench", "feed", "raises", "until"]

_PATIENCE = 60.0
"""Seconds after which a check that hangs has failed."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A backend under examination, and how to make a plan that it can apply: an empty workspace and these limits."""

    backend: Backend
    new_plan: Callable[[Limits], Plan]

    @asynccontextmanager
    async def sandbox(self, limits: Limits | None = None) -> AsyncIterator[Ref]:
        """One sandbox, deleted afterwards."""
        ref = await self.backend.create(self.new_plan(limits or Limits()))
        try:
            yield ref
        finally:
            with anyio.CancelScope(shield=True):
                await self.backend.delete(ref)

    async def exec(self, ref: Ref, request: ExecRequest, stdin: bytes | None = None) -> tuple[Exit, bytes, bytes]:
        """One command to its end: exit, stdout, stderr."""
        process = await self.backend.exec(ref, request)
        if stdin is not None:
            await process.send(stdin)
            await process.close_stdin()
        out: dict[OutputStream, bytes] = {OutputStream.STDOUT: b"", OutputStream.STDERR: b""}
        async for chunk in process:
            out[chunk.stream] += chunk.data
        return await process.wait(), out[OutputStream.STDOUT], out[OutputStream.STDERR]

    async def bash(self, ref: Ref, script: str, **fields: object) -> tuple[Exit, bytes, bytes]:
        """One shell script to its end."""
        request = ExecRequest(argv=("/bin/bash", "-c", script))
        return await self.exec(ref, replace(request, **fields))  # type: ignore[arg-type]


async def feed(process: Process, data: bytes) -> None:
    """Send all of standard input, then end it."""
    await process.send(data)
    await process.close_stdin()


async def until(process: Process, text: bytes) -> bytes:
    """Output up to and including `text`."""
    seen = b""
    with anyio.fail_after(_PATIENCE):
        async for chunk in process:
            seen += chunk.data
            if text in seen:
                break
    assert text in seen, seen
    return seen


async def raises(kind: type[GloveportError], call: Awaitable[object]) -> None:
    """Check that `call` raises an error of this kind, with a hint."""
    try:
        with anyio.fail_after(_PATIENCE):
            await call
    except kind as error:
        assert error.hint, f"{error!r} has no hint"
        return
    raise AssertionError(f"{kind.__name__} was not raised")
