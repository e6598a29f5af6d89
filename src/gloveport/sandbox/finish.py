"""From a started process to its result: input in, output out, and nothing left when the caller gives up."""

from __future__ import annotations

import anyio

from gloveport.backends.base import Process
from gloveport.model import ExecResult, OutputStream

__all__ = ["finish"]


async def finish(process: Process, data: bytes | None) -> ExecResult:
    """Feed `data`, take all output, wait. Cancelling kills the whole tree first."""
    parts: dict[OutputStream, list[bytes]] = {OutputStream.STDOUT: [], OutputStream.STDERR: []}
    try:
        if data is None:
            await _take(process, parts)
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_feed, process, data)
                await _take(process, parts)
        ended = await process.wait()
    except BaseException:
        await _kill(process)
        raise
    return ExecResult(
        exit=ended, stdout=b"".join(parts[OutputStream.STDOUT]), stderr=b"".join(parts[OutputStream.STDERR])
    )


async def _take(process: Process, parts: dict[OutputStream, list[bytes]]) -> None:
    async for chunk in process:
        parts[chunk.stream].append(chunk.data)


async def _feed(process: Process, data: bytes) -> None:
    await process.send(data)
    await process.close_stdin()


async def _kill(process: Process) -> None:
    """Leave nothing of a command whose caller has given up."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await process.wait()  # a cancelled wait kills the tree, shielded and bounded
