"""A command in the background: it lasts, its output is taken as it comes, and the last part of that is kept."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import replace

import anyio

from gloveport.backends.base import Process
from gloveport.errors import GloveportError, TimedOut
from gloveport.model import MIB, ExecRequest, Exit, Limits
from gloveport.sandbox.finish import abandon

__all__ = ["KEPT_OUTPUT", "Background", "lasting"]

KEPT_OUTPUT = MIB
"""Bytes of the newest output kept, both streams together."""
_EVERYTHING = 2**62
"""Bytes of output that no process reaches."""
_STOP_SECONDS = 5.0


def lasting(request: ExecRequest, limits: Limits) -> ExecRequest:
    """`request` for as long as the sandbox lives and with all of its output, unless it says otherwise.

    For what has no end of its own: servers, shells, terminals, watches.
    """
    return replace(
        request,
        timeout=limits.sandbox_seconds if request.timeout is None else request.timeout,
        output_bytes=_EVERYTHING if request.output_bytes is None else request.output_bytes,
    )


class Background:
    """A process that nobody reads line by line, such as a server. `run` must be running."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._output = bytearray()
        self._changed = anyio.Event()
        self._exit: Exit | None = None
        self._running = True

    @property
    def output(self) -> bytes:
        """The newest output, in order, at most `KEPT_OUTPUT` bytes."""
        return bytes(self._output)

    @property
    def exit(self) -> Exit | None:
        """How it ended, if it has; `None` for ever when its sandbox ended first."""
        return self._exit

    @property
    def running(self) -> bool:
        """Whether more output may come."""
        return self._running

    async def run(self) -> None:
        """Take output until the end, of the process or of its sandbox. Cancelling kills the whole tree."""
        try:
            async for chunk in self.process:
                self._output += chunk.data
                del self._output[:-KEPT_OUTPUT]
                self._tell()
            self._exit = await self.process.wait()
        except BaseException:
            await abandon(self.process)
            raise
        finally:
            self._running = False
            self._tell()

    async def until(self, text: bytes, *, seconds: float = 30.0) -> None:
        """Wait until the kept output contains `text`. `TimedOut` when it ends or time runs out first."""
        with anyio.move_on_after(seconds):
            while text not in self._output and self._running:
                await self._changed.wait()
        if text not in self._output:
            raise TimedOut(
                f"the command has not said {text!r}",
                hint=f"its output so far: {self.output[-500:].decode('utf-8', 'replace')}",
            )

    async def stop(self) -> None:
        """Kill its tree and wait until `run` has seen its end; shielded, a few seconds at most."""
        with anyio.move_on_after(_STOP_SECONDS, shield=True), contextlib.suppress(GloveportError):
            await self.process.signal(signal.SIGKILL)
            while self._running:
                await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
