"""One call to a runner for programs that use anyio: the request, and the process that an exec becomes."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.abc

from gloveport.client.codec import decode, encode
from gloveport.client.connection import check_hello, runner_lost
from gloveport.client.wire import (
    INPUT_WINDOW,
    PROTOCOL_VERSION,
    Decoder,
    Frame,
    Kind,
    encode_data,
    encode_frame,
    encode_json,
    encode_resize,
    encode_signal,
)
from gloveport.errors import Conflict, GloveportError, error_from_body
from gloveport.model import Chunk, ExecRequest, Exit, OutputStream, TerminalSize

__all__ = ["RemoteCall", "RemoteProcess"]

_READ_SIZE = 128 * 1024
_MOST_PENDING = 256 * 1024
"""Bytes of output held for a reader that does not come; then the process waits."""
_KILL_SECONDS = 5.0


class RemoteCall:
    """A connection that carries one call. Closing it gives the call up."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()
        self._sending = anyio.Lock(fast_acquire=True)

    @classmethod
    async def begin(cls, path: Path, verb: str, /, **fields: Any) -> Self:
        """Ask the runner at `path` for `verb`. Raises `BackendUnavailable` when it is gone or of another protocol."""
        try:
            call = cls(await anyio.connect_unix(path))
        except OSError as error:
            raise runner_lost() from error
        try:
            check_hello(await call.receive())
            await call.send(encode_json(Kind.CALL, {"verb": verb, "protocol": PROTOCOL_VERSION, **fields}))
        except BaseException:
            await call.close()
            raise
        return call

    async def result(self, data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send `data` as input, and wait for the result and the output before it."""
        output = bytearray()
        credit = INPUT_WINDOW
        rest: memoryview | None = memoryview(data)
        try:
            while True:
                if rest is not None:
                    part, rest = rest[:credit], rest[credit:]
                    credit -= len(part)
                    for piece in encode_data(Kind.INPUT, bytes(part)):
                        await self.send(piece)
                    if not rest:
                        await self.send(encode_frame(Kind.INPUT_END))
                        rest = None
                frame = await self.receive()
                if frame.kind is Kind.RESULT:
                    return frame.json(), bytes(output)
                if frame.kind is Kind.STDOUT:
                    output += frame.payload
                elif frame.kind is Kind.INPUT_CREDIT:
                    credit += frame.credit()
        finally:
            await self.close()

    async def send(self, data: bytes) -> None:
        """Write frames. Where the runner is gone `receive` says so."""
        async with self._sending:
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    async def receive(self) -> Frame:
        """The next frame. Raises the error it carries, or `BackendUnavailable` at the end."""
        while not self._frames:
            try:
                self._frames.extend(self._decoder.feed(await self._stream.receive(_READ_SIZE)))
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise runner_lost() from error
        frame = self._frames.popleft()
        if frame.kind is Kind.ERROR:
            raise error_from_body(frame.json())
        return frame

    async def close(self) -> None:
        """Give the call up; idempotent."""
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()


class RemoteProcess:
    """Implements the backends' `Process`. Whoever needs the next frame reads it; the others look at what it changed."""

    def __init__(self, call: RemoteCall, *, pid: int, stdin: bool) -> None:
        self._call = call
        self._pid = pid
        self._input_open = stdin
        self._credit = INPUT_WINDOW
        self._chunks: deque[Chunk] = deque()
        self._pending = 0
        self._exit: Exit | None = None
        self._frames = 0
        self._reading = anyio.Lock()
        self._taken = anyio.Event()

    @classmethod
    async def start(cls, path: Path, sandbox: str, request: ExecRequest) -> Self:
        """Start `request` in a sandbox of the runner at `path`; returns once it runs."""
        call = await RemoteCall.begin(path, "exec", id=sandbox, request=encode(request))
        try:
            started = await call.receive()
        except BaseException:
            await call.close()
            raise
        has_input = request.stdin or request.terminal is not None
        return cls(call, pid=int(started.json()["pid"]), stdin=has_input)

    @property
    def pid(self) -> int:
        """The process's number in the guest."""
        return self._pid

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._pending -= len(chunk.data)
                taken, self._taken = self._taken, anyio.Event()
                taken.set()
                yield chunk
            if self._exit is not None:
                return
            await self._advance()

    async def send(self, data: bytes) -> None:
        """Write to standard input; waits for the runner's credit, and while nobody takes the output."""
        rest = memoryview(data)
        while rest:
            if not self._input_open:
                raise Conflict("standard input is closed", hint="start the process with stdin=True, and close it last")
            if self._exit is not None:
                return
            part, rest = rest[: self._credit], rest[self._credit :]
            self._credit -= len(part)
            for frame in encode_data(Kind.INPUT, bytes(part)):
                await self._call.send(frame)
            if rest and self._pending >= _MOST_PENDING:
                await self._taken.wait()
            elif rest:
                await self._advance()

    async def close_stdin(self) -> None:
        """End standard input."""
        if self._input_open and self._exit is None:
            self._input_open = False
            await self._call.send(encode_frame(Kind.INPUT_END))

    async def signal(self, signum: int, *, tree: bool = True) -> None:
        """Signal the process or its whole tree."""
        if self._exit is None:
            await self._call.send(encode_signal(signum, tree=tree))

    async def resize(self, size: TerminalSize) -> None:
        """Change the terminal's size."""
        if self._exit is None:
            await self._call.send(encode_resize(size.rows, size.columns))

    async def wait(self) -> Exit:
        """Wait for the end, dropping output nobody took; kills the tree when the waiter is cancelled."""
        try:
            async for _ in self:
                pass
        except anyio.get_cancelled_exc_class():
            # Whatever is found here, such as a runner that is gone: what the caller must hear of is the cancellation.
            with anyio.move_on_after(_KILL_SECONDS, shield=True), contextlib.suppress(GloveportError):
                await self.signal(signal.SIGKILL)
                async for _ in self:
                    pass
            raise
        finally:
            await self._call.close()
        if self._exit is None:
            raise runner_lost()
        return self._exit

    async def _advance(self) -> None:
        """Take one more frame, unless somebody else takes one meanwhile."""
        before = self._frames
        async with self._reading:
            if self._frames == before and self._exit is None:
                self._take(await self._call.receive())

    def _take(self, frame: Frame) -> None:
        self._frames += 1
        if frame.kind in (Kind.STDOUT, Kind.STDERR):
            stream = OutputStream.STDOUT if frame.kind is Kind.STDOUT else OutputStream.STDERR
            self._chunks.append(Chunk(stream, frame.payload))
            self._pending += len(frame.payload)
        elif frame.kind is Kind.INPUT_CREDIT:
            self._credit += frame.credit()
        elif frame.kind is Kind.RESULT:
            self._exit = decode(Exit, frame.json()["exit"])
