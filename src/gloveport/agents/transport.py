"""The Agent SDK's transport to a command line that runs in a jail: its standard streams, through guestd."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
from claude_agent_sdk import CLIConnectionError, CLIJSONDecodeError, ProcessError, Transport

from gloveport.backends import Process
from gloveport.errors import GloveportError
from gloveport.model import KIB, MIB, OutputStream

__all__ = ["LONGEST_MESSAGE", "JailTransport"]

LONGEST_MESSAGE = 32 * MIB
"""Bytes of one message; a tool result full of quotes is several times its size as JSON."""
_KEPT_ERRORS = 16 * KIB
_GRACE_SECONDS = 2.0


class JailTransport(Transport):
    """One line of JSON a message, both ways."""

    def __init__(self, start: Callable[[], Awaitable[Process]]) -> None:
        self._start = start
        self._process: Process | None = None
        self._writing = anyio.Lock()
        self._errors = bytearray()

    async def connect(self) -> None:
        """Start the command line."""
        try:
            self._process = await self._start()
        except GloveportError as error:
            raise CLIConnectionError(f"the agent's command line did not start: {error.message}") from error

    async def write(self, data: str) -> None:
        """Send one message."""
        if self._process is None:
            raise CLIConnectionError("the agent's command line is not running")
        async with self._writing:
            try:
                await self._process.send(data.encode())
            except GloveportError as error:
                raise CLIConnectionError(f"the agent's command line has ended: {self._last_words()}") from error

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """Messages until the command line ends; `ProcessError` when that was a failure."""
        process = self._process
        if process is None:
            raise CLIConnectionError("the agent's command line is not running")
        line = bytearray()
        async for chunk in process:
            if chunk.stream is OutputStream.STDERR:
                self._errors += chunk.data
                del self._errors[:-_KEPT_ERRORS]
                continue
            *ended, rest = chunk.data.split(b"\n")
            for part in ended:
                message = _message(bytes(line) + part)
                line.clear()
                if message is not None:
                    yield message
            line += rest
            if len(line) > LONGEST_MESSAGE:
                raise CLIConnectionError(f"the agent's command line sent a message beyond {LONGEST_MESSAGE} bytes")
        ended_how = await process.wait()
        if not ended_how.ok:
            raise ProcessError("the agent's command line failed", exit_code=ended_how.status, stderr=self._last_words())

    async def close(self) -> None:
        """End the command line: gently, then by force. Bounded."""
        process, self._process = self._process, None
        if process is None:
            return
        with anyio.CancelScope(shield=True), contextlib.suppress(GloveportError):
            await process.close_stdin()
            with anyio.move_on_after(_GRACE_SECONDS):
                await process.wait()  # when its time is over, it kills, which is bounded too

    def is_ready(self) -> bool:
        """Whether the command line was started and not closed."""
        return self._process is not None

    async def end_input(self) -> None:
        """Tell the command line that no more messages come."""
        if self._process is not None:
            async with self._writing:
                await self._process.close_stdin()

    def _last_words(self) -> str:
        return self._errors.decode("utf-8", "replace").strip()[-500:]


def _message(line: bytes) -> dict[str, Any] | None:
    """One message; lines that are none (some builds write such) are left out."""
    if not line.startswith(b"{"):
        return None
    try:
        message = json.loads(line)
    except ValueError as error:
        raise CLIJSONDecodeError(line[:200].decode("utf-8", "replace"), error) from error
    return message if isinstance(message, dict) else None
