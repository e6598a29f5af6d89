"""The host's end of the guestd protocol: many processes over one byte stream that is never trusted."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import anyio

from gloveport.errors import BackendUnavailable, Conflict, InvalidRequest
from gloveport.guest.stream import ByteStream
from gloveport.guest.wire import (
    INPUT_WINDOW,
    FrameDecoder,
    GuestFrame,
    Hello,
    How,
    InputCredit,
    Output,
    Pong,
    Start,
    Started,
    encode_credit,
    encode_input,
    encode_input_end,
    encode_ping,
    encode_resize,
    encode_signal,
    encode_start,
)
from gloveport.guest.wire import Exit as ExitFrame
from gloveport.model import Chunk, Exit, OutputStream, TerminalSize

__all__ = ["CREDIT", "Channel", "GuestProcess"]

CREDIT: Final = 256 * 1024
"""Bytes of output that one process may have under way to the host: what bounds the host's memory."""
_NOT_EXECUTABLE: Final = (errno.EACCES, errno.ENOEXEC, errno.EPERM)
_KILLED: Final = 128 + signal.SIGKILL
_NEW_ONE: Final = "make a new one with: gloveport create"
KILL_SECONDS: Final = 5.0
"""How long a killed process may take to be reported gone."""


class Channel:
    """One sandbox's guestd. `run` must be running for anything to arrive.

    `oom_kills` says how often the kernel has killed for memory in this sandbox, where a control group counts.
    """

    def __init__(self, control: socket.socket, oom_kills: Callable[[], int] | None = None) -> None:
        self._count_oom_kills = oom_kills
        self._stream = ByteStream(control)
        self._decoder = FrameDecoder()
        self._processes: dict[int, GuestProcess] = {}
        self._next_stream = 1
        self._pings: deque[anyio.Event] = deque()
        self._hello = anyio.Event()
        self._lost: str | None = None
        self._ended = anyio.Event()

    @property
    def lost(self) -> str | None:
        """Why the channel is gone, or `None` while it works."""
        return self._lost

    @property
    def processes(self) -> tuple[GuestProcess, ...]:
        """Those started through this channel and not yet ended."""
        return tuple(self._processes.values())

    async def run(self, on_lost: Callable[[str], None] | None = None) -> None:
        """Take frames until the stream ends; then every process of it is told."""
        reason = "guestd closed its stream"
        try:
            await self._stream.receive(self._feed)
        except BackendUnavailable as error:
            reason = error.message
        except OSError as error:
            reason = f"the stream to guestd broke: {error.strerror}"
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with one sandbox is the end of that one only
            reason = f"the channel broke: {error!r}"
        except BaseException:
            reason = "the channel was closed"
            raise
        finally:
            self._lose(reason)
            if on_lost is not None:
                on_lost(reason)

    async def ready(self) -> None:
        """Wait until guestd has said hello. Raises `BackendUnavailable` when it ends first."""
        await self._hello.wait()
        self._check()

    async def ended(self) -> None:
        """Wait until the stream is gone: guestd has killed every process of the guest then, or ends with them."""
        await self._ended.wait()

    async def start(self, start: Start) -> GuestProcess:
        """Start one process; returns once guestd has it running (or says that it cannot be started)."""
        self._check()
        stream = self._next_stream
        frames = encode_start(stream, start)  # what cannot be encoded is no process yet
        self._next_stream += 1
        process = GuestProcess(self, stream, oom_kills_before=0 if start.builtin else self.oom_kills())
        self._processes[stream] = process
        try:
            await self.send(frames)
            await process.started()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await process.kill()
            raise
        return process

    async def send(self, data: bytes) -> None:
        """Write frames, whole, in the order of the calls."""
        self._check()
        try:
            await self._stream.send(data)
        except OSError as error:
            raise self._gone() from error

    async def heard(self) -> None:
        """Return once guestd has done all that it was told: it takes one word after the other."""
        answered = anyio.Event()
        self._pings.append(answered)  # answers come in the order of what was asked
        await self.send(encode_ping())
        await answered.wait()
        self._check()

    async def kill_everything(self, *, disk_full: bool = False) -> None:
        """Kill all processes of the guest, orphans too; with `disk_full` their exits name the disk limit."""
        for process in self._processes.values() if disk_full else ():
            process.blame_disk()
        await self.send(encode_signal(0, signal.SIGKILL, tree=True))

    def close(self) -> None:
        """Shut our side: guestd kills everything and exits, which ends `run`. Idempotent."""
        self._stream.close_writing()

    def oom_kills(self) -> int:
        """How often the kernel has killed for memory in this sandbox; 0 where nobody counts."""
        return self._count_oom_kills() if self._count_oom_kills is not None else 0

    def _feed(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self._take(frame)

    def _take(self, frame: GuestFrame) -> None:
        if isinstance(frame, Hello):
            self._hello.set()
            return
        if isinstance(frame, Pong):
            if not self._pings:
                raise BackendUnavailable("guestd answered what nobody asked", hint="make a new sandbox")
            self._pings.popleft().set()
            return
        process = self._processes.get(frame.stream)
        if process is None:
            raise BackendUnavailable(
                f"guestd spoke of a process that was never started ({frame.stream})", hint="make a new sandbox"
            )
        if process.take(frame):
            del self._processes[frame.stream]

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
        for event in (self._hello, *self._pings):
            event.set()
        for process in self._processes.values():
            process.lose()
        self._processes.clear()
        self._stream.close()
        self._ended.set()

    def _check(self) -> None:
        if self._lost is not None:
            raise self._gone()

    def _gone(self) -> BackendUnavailable:
        return BackendUnavailable(f"the sandbox is gone: {self._lost or 'its stream broke'}", hint=_NEW_ONE)


class GuestProcess:
    """One process in the guest. Implements the backends' `Process`."""

    def __init__(self, channel: Channel, stream: int, *, oom_kills_before: int) -> None:
        self._channel = channel
        self._stream = stream
        self._oom_kills_before = oom_kills_before
        self._pid: int | None = None
        self._exit: Exit | None = None
        self._is_lost = False
        self._chunks: deque[Chunk] = deque()
        self._pending = 0
        self._taken = 0
        self._input_credit = INPUT_WINDOW
        self._input_open = True
        self._changed: anyio.Event | None = None
        self._began = time.monotonic()
        self._disk_full = False
        self._killed = False

    @property
    def pid(self) -> int:
        """The process's number in the guest; 0 if it could not be started."""
        return self._pid or 0

    @property
    def exit(self) -> Exit | None:
        """How it ended, if it has."""
        return self._exit

    async def started(self) -> None:
        """Wait until it runs or has failed to."""
        while self._pid is None and self._exit is None:
            await self._wait_change()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._pending -= len(chunk.data)
                self._taken += len(chunk.data)
                yield chunk
                if self._taken >= CREDIT // 2 and self._exit is None:
                    grant, self._taken = self._taken, 0
                    await self._channel.send(encode_credit(self._stream, grant))
            if self._exit is not None:
                return
            await self._wait_change()

    async def send(self, data: bytes) -> None:
        """Write to standard input, waiting for guestd's credit."""
        rest = memoryview(data)
        while rest:
            if not self._input_open:
                raise Conflict(
                    "standard input is closed", hint="start the process with stdin=True and send before closing it"
                )
            if self._exit is not None:
                return
            if self._input_credit == 0:
                await self._wait_change()
                continue
            part = rest[: self._input_credit]
            self._input_credit -= len(part)
            rest = rest[len(part) :]
            await self._channel.send(encode_input(self._stream, bytes(part)))

    async def close_stdin(self) -> None:
        """End standard input."""
        if self._input_open and self._exit is None:
            self._input_open = False
            await self._channel.send(encode_input_end(self._stream))

    async def signal(self, signum: int, *, tree: bool = True) -> None:
        """Signal the process or its whole tree."""
        if not 0 < signum < signal.NSIG:
            raise InvalidRequest(f"no such signal: {signum}", hint="1 to 64")
        if self._exit is None:
            self._killed = self._killed or signum == signal.SIGKILL
            await self._channel.send(encode_signal(self._stream, signum, tree=tree))

    async def resize(self, size: TerminalSize) -> None:
        """Change the terminal's size."""
        if self._exit is None:
            await self._channel.send(encode_resize(self._stream, size.rows, size.columns))

    async def wait(self) -> Exit:
        """Wait for the end, dropping output nobody took; kills the tree when the waiter is cancelled."""
        try:
            while self._exit is None:
                async for _ in self:
                    pass
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.kill()
            raise
        if self._is_lost:
            raise BackendUnavailable(f"the sandbox ended while the command ran: {self._channel.lost}", hint=_NEW_ONE)
        return self._exit

    def blame_disk(self) -> None:
        """Note that it is being killed because the workspace grew beyond its limit; the exit will say so."""
        self._disk_full = True

    async def kill(self) -> None:
        """Kill the tree and wait, for a few seconds at most, until it is reported gone."""
        if self._exit is not None or self._channel.lost is not None:
            return
        # When guestd goes meanwhile, everything is dead, and whoever cancelled wants no other error.
        with contextlib.suppress(BackendUnavailable), anyio.move_on_after(KILL_SECONDS, shield=True):
            await self.signal(signal.SIGKILL)
            async for _ in self:
                pass

    def take(self, frame: Started | Output | InputCredit | ExitFrame) -> bool:
        """Take one frame of this process; whether it was the last."""
        match frame:
            case Output(data=data, error=error):
                self._pending += len(data)
                if self._pid is None or self._pending > CREDIT:
                    raise self._violation("sent output it had no credit for")
                self._chunks.append(Chunk(OutputStream.STDERR if error else OutputStream.STDOUT, data))
            case Started(pid=pid):
                if self._pid is not None:
                    raise self._violation("started one process twice")
                self._pid = pid
            case InputCredit(amount=amount):
                self._input_credit += amount
                if self._input_credit > INPUT_WINDOW:
                    raise self._violation("granted more input than it takes")
            case ExitFrame():
                self._finish(frame)
        self._notify()
        return self._exit is not None

    def lose(self) -> None:
        """The stream is gone: end without an exit of its own."""
        if self._exit is None:
            self._is_lost = True
            self._exit = Exit(signal=int(signal.SIGKILL), duration=time.monotonic() - self._began)
        self._notify()

    def _finish(self, ended: ExitFrame) -> None:
        code = ended.code if ended.how is How.EXITED else None
        if ended.how is How.NOT_STARTED:
            missing = ended.bad_directory or ended.code not in _NOT_EXECUTABLE
            code = 127 if missing else 126
            what = "enter the directory" if ended.bad_directory else "start the command"
            text = f"gloveport: cannot {what}: {os.strerror(ended.code)}\n"
            self._chunks.append(Chunk(OutputStream.STDERR, text.encode()))
        self._exit = Exit(
            code=code,
            signal=ended.code if ended.how is How.SIGNALLED else None,
            oom=ended.memory_limit or self._killed_for_memory(ended),
            timed_out=ended.timed_out,
            disk_full=self._disk_full and ended.how is How.SIGNALLED,
            dropped_stdout=ended.stdout_dropped,
            dropped_stderr=ended.stderr_dropped,
            duration=time.monotonic() - self._began,
        )

    def _killed_for_memory(self, ended: ExitFrame) -> bool:
        """Whether it died by a SIGKILL, or passed one on as a shell does, that only the kernel can have sent."""
        died = ended.code == (_KILLED if ended.how is How.EXITED else signal.SIGKILL)
        if not died or ended.how is How.NOT_STARTED or ended.timed_out or self._disk_full or self._killed:
            return False
        return self._channel.oom_kills() > self._oom_kills_before

    async def _wait_change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _violation(self, what: str) -> BackendUnavailable:
        return BackendUnavailable(f"guestd {what}", hint="make a new sandbox: this one cannot be trusted")
