"""Runs one exec over a connection with this process's own standard streams, signals and terminal."""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gloveport.client.codec import decode, encode
from gloveport.client.connection import Connection
from gloveport.client.wire import (
    INPUT_WINDOW,
    MAX_DATA,
    Frame,
    Kind,
    encode_data,
    encode_frame,
    encode_resize,
    encode_signal,
)
from gloveport.model import ExecRequest, Exit, TerminalSize

__all__ = ["Streams", "follow", "run_process"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """What the process in the guest is connected to."""

    stdin: int | None
    """Descriptor to read its standard input from; `None` when it has none."""
    stdout: Callable[[bytes], object]
    stderr: Callable[[bytes], object]
    size: Callable[[], TerminalSize] | None = None
    """How large the terminal is, for a process that has one."""


def run_process(connection: Connection, sandbox: str, request: ExecRequest, streams: Streams) -> Exit:
    """Run `request` in a sandbox to its end, as `follow` does."""
    connection.begin("exec", id=sandbox, request=encode(request))
    return follow(connection, streams)


def follow(connection: Connection, streams: Streams) -> Exit:
    """Connect the process of a call that was begun with `streams`, to its end.

    The first SIGINT goes to the process; the second raises `KeyboardInterrupt`, and leaving the connection's scope
    kills the tree. With a terminal SIGINT is a byte of input like any other, and SIGWINCH resizes.
    """
    watched = (signal.SIGINT,) if streams.size is None else (signal.SIGWINCH,)
    with _wakeups(watched) as wake, selectors.PollSelector() as selector:
        session = _Session(connection, streams, selector)
        selector.register(connection, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while session.exit is None:
            ready = {key.fileobj for key, _ in selector.select()}
            if wake in ready:
                session.take_signals(wake.recv(64))
            if streams.stdin is not None and streams.stdin in ready:
                session.take_input(streams.stdin)
            if connection in ready:
                session.take_frames()
        return session.exit


class _Session:
    """What has to be remembered between two waits. It holds at most one piece of input or output."""

    def __init__(self, connection: Connection, streams: Streams, selector: selectors.BaseSelector) -> None:
        self.exit: Exit | None = None
        self._connection = connection
        self._streams = streams
        self._selector = selector
        self._credit = INPUT_WINDOW
        self._interrupted = False
        self._listen()

    def take_signals(self, numbers: bytes) -> None:
        if self._streams.size is not None:
            size = self._streams.size()
            self._connection.send(encode_resize(size.rows, size.columns))
            return
        for number in numbers:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            self._connection.send(encode_signal(number, tree=True))

    def take_input(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, min(MAX_DATA, self._credit))
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a terminal that was hung up
        self._credit -= len(data)
        if not data or not self._credit:
            self._selector.unregister(descriptor)
        for frame in encode_data(Kind.INPUT, data) or [encode_frame(Kind.INPUT_END)]:
            self._connection.send(frame)

    def take_frames(self) -> None:
        self._take(self._connection.next())
        while self._connection.buffered and self.exit is None:
            self._take(self._connection.next())

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.STDOUT:
            self._streams.stdout(frame.payload)
        elif frame.kind is Kind.STDERR:
            self._streams.stderr(frame.payload)
        elif frame.kind is Kind.INPUT_CREDIT:
            if not self._credit:
                self._listen(frame.credit())
            else:
                self._credit += frame.credit()
        elif frame.kind is Kind.RESULT:
            self.exit = decode(Exit, frame.json()["exit"])

    def _listen(self, granted: int = 0) -> None:
        self._credit += granted
        if self._streams.stdin is not None:
            self._selector.register(self._streams.stdin, selectors.EVENT_READ)


@contextmanager
def _wakeups(watched: Iterable[signal.Signals]) -> Iterator[socket.socket]:
    """A socket that yields the numbers of the `watched` signals as they arrive, one byte each."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    before = {number: signal.signal(number, _nothing) for number in watched}
    descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()


def _nothing(_number: int, _frame: object) -> None:
    """A signal that is watched has its number written to the socket; nothing else is to happen."""
