"""A command in the background: its output is taken as it comes, and its last part is kept."""

from __future__ import annotations

import signal

import anyio

from gloveport.backends.base import Process
from gloveport.errors import TimedOut
from gloveport.model import MIB, Exit

__all__ = ["KEPT_OUTPUT", "Background"]

KEPT_OUTPUT = MIB
"""Bytes of the newest output kept, both streams together."""


class Background:
    """A process that nobody reads line by line, such as a server."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._output = bytearray()
        self._changed = anyio.Event()
        self._exit: Exit | None = None

    @property
    def output(self) -> bytes:
        """The newest output, in order, at most `KEPT_OUTPUT` bytes."""
        return bytes(self._output)

    @property
    def exit(self) -> Exit | None:
        """How it ended, if it has."""
        return self._exit

    async def run(self) -> None:
        """Take output until the end."""
        async for chunk in self.process:
            self._output += chunk.data
            del self._output[:-KEPT_OUTPUT]
            self._tell()
        self._exit = await self.process.wait()
        self._tell()

    async def until(self, text: bytes, *, seconds: float = 30.0) -> None:
        """Wait until the kept output contains `text`. `TimedOut` when it ends or time runs out first."""
        with anyio.move_on_after(seconds):
            while text not in self._output and self._exit is None:
                await self._changed.wait()
        if text not in self._output:
            raise TimedOut(
                f"the command has not said {text!r}",
                hint=f"its output so far: {self.output[-500:].decode('utf-8', 'replace')}",
            )

    async def stop(self) -> None:
        """Kill its tree, if it still runs."""
        if self._exit is None:
            await self.process.signal(signal.SIGKILL)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
