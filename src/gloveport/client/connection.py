"""One call to a runner over its socket, blocking: made of plain sockets, so that a short command starts fast."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gloveport.client.wire import PROTOCOL_VERSION, Decoder, Frame, Kind, encode_json
from gloveport.errors import BackendUnavailable, TimedOut, error_from_body

__all__ = ["Connection", "check_hello", "runner_lost", "unreachable"]

_READ_SIZE = 128 * 1024


class Connection:
    """A connection to a runner; it carries one call. Leaving its scope gives the call up."""

    def __init__(self, peer: socket.socket) -> None:
        self._socket = peer
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()

    @classmethod
    def open(cls, path: Path, *, seconds: float | None = None) -> Self | None:
        """A greeted connection to the runner at `path`; `None` when there is none, or it is just ending.

        With `seconds`, whatever takes it longer than that to say raises `TimedOut`, also during the call. Raises
        `BackendUnavailable` for a runner of another protocol, and for a path that this user cannot reach.
        """
        connection = cls(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        connection._socket.settimeout(seconds)
        try:
            connection._socket.connect(os.fspath(path))
            hello = connection.receive()
            if hello is not None:
                check_hello(hello)
                return connection
        except (FileNotFoundError, ConnectionError):
            pass
        except (TimeoutError, BlockingIOError) as error:  # the latter: others wait there, more than there is room for
            connection.close()
            raise _silent() from error
        except OSError as error:
            connection.close()
            raise unreachable(path, error) from error
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the call up; idempotent."""
        self._socket.close()

    def fileno(self) -> int:
        """The socket's descriptor, to select on."""
        return self._socket.fileno()

    def call(self, verb: str, *, sink: Callable[[bytes], object] | None = None, **fields: Any) -> dict[str, Any]:
        """Ask for `verb` and wait for its result; output on the way goes to `sink`. Raises what the runner answers."""
        self.begin(verb, **fields)
        while True:
            frame = self.next()
            if frame.kind is Kind.RESULT:
                return frame.json()
            if frame.kind is Kind.STDOUT and sink is not None:
                sink(frame.payload)

    def begin(self, verb: str, **fields: Any) -> None:
        """Ask for `verb`, and return at once."""
        self.send(encode_json(Kind.CALL, {"verb": verb, "protocol": PROTOCOL_VERSION, **fields}))

    def send(self, data: bytes) -> None:
        """Write frames. The runner always reads, so this does not wait for long."""
        try:
            self._socket.sendall(data)
        except ConnectionError:
            return  # the reading side learns why: an error may be waiting there

    def next(self) -> Frame:
        """The next frame. Raises the error it carries, or `BackendUnavailable` when the runner is gone."""
        frame = self.receive()
        if frame is None:
            raise runner_lost()
        if frame.kind is Kind.ERROR:
            raise error_from_body(frame.json())
        return frame

    def receive(self) -> Frame | None:
        """The next frame, or `None` at the end of the stream."""
        while not self._frames:
            try:
                data = self._socket.recv(_READ_SIZE)
            except TimeoutError as error:
                raise _silent() from error
            except ConnectionError:
                return None
            if not data:
                return None
            self._frames.extend(self._decoder.feed(data))
        return self._frames.popleft()

    @property
    def buffered(self) -> bool:
        """Whether `receive` returns without waiting for the socket."""
        return bool(self._frames)


def check_hello(frame: Frame) -> None:
    """Refuse a runner that speaks another protocol than this client."""
    hello = frame.json() if frame.kind is Kind.HELLO else {}
    if hello.get("protocol") != PROTOCOL_VERSION:
        raise BackendUnavailable(
            f"the runner is of another version ({hello.get('version', 'unknown')})",
            hint="stop it, with all its sandboxes, by: gloveport runner stop",
        )


def unreachable(path: Path, error: OSError) -> BackendUnavailable:
    """The error of a socket that this user cannot even try."""
    return BackendUnavailable(
        f"cannot reach a runner at {path}: {error.strerror or error}",
        hint="point GLOVEPORT_STATE at a directory of your own, with a short path",
        path=str(path),
    )


def _silent() -> TimedOut:
    return TimedOut("it does not answer", hint="its process may be stopped: let it go on, or end it")


def runner_lost() -> BackendUnavailable:
    """The error of a call whose runner went away."""
    return BackendUnavailable(
        "the runner ended during the call", hint="its sandboxes ended with it: make a new one with: gloveport create"
    )
