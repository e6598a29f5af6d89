"""The listening end of one connection: one call, what its caller sends meanwhile, and the way back."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream

from gloveport import __version__
from gloveport.client.codec import encode
from gloveport.client.wire import (
    INPUT_WINDOW,
    PROTOCOL_VERSION,
    Decoder,
    Frame,
    Kind,
    encode_credit,
    encode_data,
    encode_json,
)
from gloveport.errors import BackendUnavailable, GloveportError, InvalidRequest

__all__ = ["Connection", "Inbox"]

_READ_SIZE = 128 * 1024
_MOST_CONTROLS = 256


class Inbox:
    """What a caller sends during its call, bounded: so its reader never waits, and always sees the caller leave."""

    def __init__(self) -> None:
        self._input: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._controls: deque[Frame] = deque()
        self._changed = anyio.Event()

    def put(self, frame: Frame) -> None:
        """Take one frame. Raises `BackendUnavailable` when the caller breaks the protocol."""
        if frame.kind is Kind.INPUT and not self._ended:
            self._held += len(frame.payload)
            self._input.append(frame.payload)
        elif frame.kind is Kind.INPUT_END:
            self._ended = True
        elif frame.kind in (Kind.SIGNAL, Kind.RESIZE):
            self._controls.append(frame)
        else:
            raise BackendUnavailable(f"an unexpected {frame.kind.name} frame", hint="use the client of this version")
        if self._held > INPUT_WINDOW or len(self._controls) > _MOST_CONTROLS:
            raise BackendUnavailable("more was sent than was granted", hint="use the client of this version")
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def input(self) -> bytes:
        """The next piece of input; empty at its end."""
        while not self._input:
            if self._ended:
                return b""
            await self._changed.wait()
        data = self._input.popleft()
        self._held -= len(data)
        return data

    async def control(self) -> Frame:
        """The next `SIGNAL` or `RESIZE`."""
        while not self._controls:
            await self._changed.wait()
        return self._controls.popleft()


class Connection:
    """Frames from and to one caller. Sending waits while the caller does not read: that is all the flow control."""

    def __init__(self, stream: SocketStream) -> None:
        self.inbox = Inbox()
        self._stream = stream
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()
        self._sending = anyio.Lock(fast_acquire=True)

    async def greet(self) -> None:
        """Say hello: from now on the caller knows that its call will be taken."""
        await self._send(encode_json(Kind.HELLO, {"protocol": PROTOCOL_VERSION, "version": __version__}))

    async def receive_call(self) -> Mapping[str, Any] | None:
        """The request, or `None` when the caller only looked whether somebody is here."""
        frame = await self._receive()
        if frame is None:
            return None
        if frame.kind is not Kind.CALL:
            raise InvalidRequest("a connection starts with a CALL", hint="use the client of this version")
        return frame.json()

    async def fill_inbox(self) -> None:
        """Take what the caller sends until it leaves or breaks the protocol."""
        try:
            while (frame := await self._receive()) is not None:
                self.inbox.put(frame)
        except BackendUnavailable:
            return

    async def started(self, **facts: Any) -> None:
        """Say that the process runs."""
        await self._send(encode_json(Kind.STARTED, facts))

    async def output(self, data: bytes, *, error: bool = False) -> None:
        """Pass output on."""
        for frame in encode_data(Kind.STDERR if error else Kind.STDOUT, data):
            await self._send(frame)

    async def grant(self, amount: int) -> None:
        """Take `amount` more bytes of input."""
        await self._send(encode_credit(amount))

    async def result(self, value: Mapping[str, Any]) -> None:
        """End the call."""
        await self._send(encode_json(Kind.RESULT, encode(value)))

    async def fail(self, error: GloveportError) -> None:
        """End the call with an error."""
        await self._send(encode_json(Kind.ERROR, encode(error.body())))

    async def _receive(self) -> Frame | None:
        while not self._frames:
            try:
                data = await self._stream.receive(_READ_SIZE)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return None
            self._frames.extend(self._decoder.feed(data))
        return self._frames.popleft()

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                # The caller left. Whoever fills the inbox sees it too, and cancels the call.
                await anyio.lowlevel.checkpoint()
