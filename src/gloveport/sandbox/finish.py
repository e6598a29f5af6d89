"""From a started process to its result, or to its end: nothing is left when the caller gives up."""

from __future__ import annotations

import contextlib
import signal

import anyio

from gloveport.backends.base import Process
from gloveport.errors import GloveportError
from gloveport.model import ExecResult, OutputStream
from gloveport.sandbox.task_scope import task_scope

__all__ = ["abandon", "end", "finish"]

_END_SECONDS = 5.0


async def finish(process: Process, data: bytes | None) -> ExecResult:
    """Feed `data`, take all output, wait. Cancelling kills the whole tree first."""
    parts: dict[OutputStream, list[bytes]] = {OutputStream.STDOUT: [], OutputStream.STDERR: []}
    try:
        if data is None:
            await _take(process, parts)
        else:
            async with task_scope() as tasks:
                tasks.start_soon(_feed, process, data)
                await _take(process, parts)
        ended = await process.wait()
    except BaseException:
        await abandon(process)
        raise
    return ExecResult(
        exit=ended, stdout=b"".join(parts[OutputStream.STDOUT]), stderr=b"".join(parts[OutputStream.STDERR])
    )


async def end(process: Process) -> None:
    """Kill the tree of a process whose work is done, and wait until it is gone; shielded, a few seconds at most.

    No error: what cannot be killed any more is gone with its sandbox.
    """
    with anyio.move_on_after(_END_SECONDS, shield=True), contextlib.suppress(GloveportError):
        await process.signal(signal.SIGKILL)
        await process.wait()


async def abandon(process: Process) -> None:
    """The same for a process whose caller has given up, which its record then says. Replaces no error either."""
    with anyio.CancelScope() as scope, contextlib.suppress(GloveportError):
        scope.cancel()
        await process.wait()  # a cancelled wait kills the tree, shielded and bounded


async def _take(process: Process, parts: dict[OutputStream, list[bytes]]) -> None:
    async for chunk in process:
        parts[chunk.stream].append(chunk.data)


async def _feed(process: Process, data: bytes) -> None:
    await process.send(data)
    await process.close_stdin()
