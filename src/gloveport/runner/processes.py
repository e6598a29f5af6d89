"""Processes of the guest as the runner serves them: relayed to a caller, or detached and kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import anyio

from gloveport.backends.base import Process
from gloveport.client.wire import Kind
from gloveport.errors import GloveportError, LimitExceeded, NotFound
from gloveport.listen.connection import Connection
from gloveport.model import Exit, OutputStream, TerminalSize
from gloveport.sandbox import Background
from gloveport.sandbox.finish import abandon

__all__ = ["Detached", "DetachedProcesses", "relay"]

MOST_DETACHED = 256
"""Detached processes that one sandbox may have, the ended ones that are still listed included."""


async def relay(process: Process, connection: Connection) -> Exit:
    """Connect a process with its caller until it ends. Cancelling (the caller left) kills the whole tree."""
    try:
        await connection.started(pid=process.pid)
        await _attach(process, connection)
        return await process.wait()
    except BaseException:
        await abandon(process)
        raise


async def _attach(process: Process, connection: Connection) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_feed, process, connection)
        tasks.start_soon(_steer, process, connection)
        with contextlib.suppress(GloveportError):  # `wait` tells the caller
            async for chunk in process:
                await connection.output(chunk.data, error=chunk.stream is OutputStream.STDERR)
        tasks.cancel_scope.cancel()


async def _feed(process: Process, connection: Connection) -> None:
    """Input to the process. Where that fails the process has ended, and `relay` says how."""
    try:
        while data := await connection.inbox.input():
            await process.send(data)
            await connection.grant(len(data))
        await process.close_stdin()
    except GloveportError:
        return


async def _steer(process: Process, connection: Connection) -> None:
    """Signals and terminal sizes to the process."""
    try:
        while True:
            frame = await connection.inbox.control()
            if frame.kind is Kind.SIGNAL:
                number, tree = frame.signal()
                await process.signal(number, tree=tree)
            else:
                await process.resize(TerminalSize(*frame.size()))
    except GloveportError:
        return


class Detached:
    """A process that goes on without its caller; the newest part of its output is kept."""

    def __init__(self, number: int, argv: tuple[str, ...], process: Process) -> None:
        self.number = number
        """1, 2, 3 … within its sandbox."""
        self._argv = argv
        self._started_at = time.time()
        self._pid = process.pid
        self._background = Background(process)

    @property
    def output(self) -> bytes:
        """The newest output, both streams in order."""
        return self._background.output

    @property
    def running(self) -> bool:
        """Whether more output may come."""
        return self._background.running

    async def run(self) -> None:
        """Take output until the end, of the process or of its sandbox."""
        with contextlib.suppress(GloveportError):
            await self._background.run()

    def summary(self) -> dict[str, object]:
        """What a listing says of it."""
        ended = self._background.exit
        return {
            "number": self.number,
            "pid": self._pid,
            "argv": list(self._argv),
            "started_at": self._started_at,
            "running": self.running,
            "status": None if ended is None else ended.status,
        }


class DetachedProcesses:
    """The detached processes of one sandbox. They end with it."""

    def __init__(self) -> None:
        self._processes: dict[int, Detached] = {}
        self._started = 0

    def __iter__(self) -> Iterator[Detached]:
        return iter(self._processes.values())

    def check_room(self) -> None:
        """Raise `LimitExceeded` when another process would be one too many; ended ones make room."""
        if len(self._processes) < MOST_DETACHED:
            return
        ended = next((found.number for found in self if not found.running), None)
        if ended is None:
            raise LimitExceeded(
                f"{MOST_DETACHED} detached processes are running in this sandbox",
                hint="end some of them first",
                limit="detached_processes",
            )
        del self._processes[ended]

    def add(self, argv: tuple[str, ...], process: Process) -> Detached:
        """List a process that was just started."""
        self._started += 1
        detached = Detached(self._started, argv, process)
        self._processes[detached.number] = detached
        return detached

    def get(self, number: int) -> Detached:
        """The process that was given this number."""
        detached = self._processes.get(number)
        if detached is None:
            raise NotFound(f"no detached process {number}", hint="see what there is with: gloveport ps", number=number)
        return detached
