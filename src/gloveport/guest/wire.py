"""The guestd protocol as bytes: pure functions for what the host says, a decoder for what the guest says.

The page is `docs/reference/guestd-protocol.md`. Every byte from a guest is hostile here: what is not exactly
a frame of the page raises `BackendUnavailable`, and never more than one frame is held.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from gloveport.errors import BackendUnavailable, InvalidRequest

__all__ = [
    "INPUT_WINDOW",
    "MAX_PAYLOAD",
    "MAX_START",
    "MAX_STRINGS",
    "PROTOCOL_VERSION",
    "Environment",
    "Exit",
    "FrameDecoder",
    "GuestFrame",
    "Hello",
    "How",
    "InputCredit",
    "Output",
    "Pong",
    "Start",
    "Started",
    "encode_credit",
    "encode_input",
    "encode_input_end",
    "encode_ping",
    "encode_resize",
    "encode_signal",
    "encode_start",
]

PROTOCOL_VERSION: Final = 1
MAX_PAYLOAD: Final = 65_536
"""Bytes of payload in one frame."""
MAX_START: Final = 2 * 1024 * 1024
"""Bytes of one START, all its parts together."""
MAX_STRINGS: Final = 4_096
"""Arguments, and environment variables, of one START."""
INPUT_WINDOW: Final = 262_144
"""Bytes of input the host may send before the first `InputCredit` of a process."""

_HEAD: Final = struct.Struct("<IBI")
_START: Final = struct.Struct("<HHHIIQ")
_HELLO: Final = struct.Struct("<HH")
_U32: Final = struct.Struct("<I")
_EXIT: Final = struct.Struct("<BBHiQQ")

_HINT_TOO_LONG: Final = "pass it in a file or on standard input"

_TERMINAL, _INPUT, _BUILTIN = 1, 2, 4
_MEMORY, _TIMEOUT, _DIRECTORY = 1, 2, 4


class _Host(IntEnum):
    START = 1
    INPUT = 2
    INPUT_END = 3
    SIGNAL = 4
    RESIZE = 5
    CREDIT = 6
    START_PART = 7
    PING = 8


class _Guest(IntEnum):
    HELLO = 64
    STARTED = 65
    STDOUT = 66
    STDERR = 67
    INPUT_CREDIT = 68
    EXIT = 69
    PONG = 70


class How(IntEnum):
    """How a process ended, and with it what `Exit.code` is: an exit code, a signal number or an errno."""

    EXITED = 0
    SIGNALLED = 1
    NOT_STARTED = 2


_HOWS: Final = MappingProxyType({int(how): how for how in How})


class Environment:
    """Variables that many processes get, as `NAME=value`, encoded once. Raises `InvalidRequest` as `encode_start`."""

    __slots__ = ("block",)

    def __init__(self, variables: Iterable[bytes]) -> None:
        self.block = _environment(variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A process to start: `argv` and `env` are what it gets, nothing else."""

    argv: Sequence[bytes]
    """Program and arguments; with `builtin`, a function of guestd and its arguments."""
    cwd: bytes
    """Absolute directory."""
    env: Sequence[bytes] | Environment
    """`NAME=value`, each name once."""
    credit: int
    """Bytes of output, both streams together, that the host takes before its first CREDIT."""
    keep: int
    """Bytes kept of each stream; the rest is dropped and counted."""
    timeout_ms: int = 0
    """Wall time in milliseconds, 0 for no end."""
    stdin: bool = False
    """Whether standard input is open; `/dev/null` otherwise."""
    terminal: tuple[int, int] | None = None
    """Rows and columns of a terminal for all three, or pipes."""
    builtin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """guestd is there. Always the first frame, and sent once."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The process runs, as `pid` of the guest."""

    stream: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What the process wrote: to standard error when `error`, else to standard output or its terminal."""

    stream: int
    error: bool
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCredit:
    """guestd takes `amount` more bytes of input, at most the whole window."""

    stream: int
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """The process's end and the last frame of its stream."""

    stream: int
    how: How
    code: int
    memory_limit: bool
    """guestd killed it because the sandbox passed its memory limit."""
    timed_out: bool
    """guestd ended it because its wall time ran out."""
    bad_directory: bool
    """It was not started because its directory could not be entered."""
    stdout_dropped: int
    """Bytes beyond `Start.keep`."""
    stderr_dropped: int


@dataclass(frozen=True, slots=True)
class Pong:
    """guestd has done everything that it was told before the PING that this answers."""


GuestFrame = Hello | Started | Output | InputCredit | Exit | Pong


def encode_start(stream: int, start: Start) -> bytes:
    """The frames that start a process; `InvalidRequest` for what the protocol cannot carry."""
    if not start.argv:
        raise InvalidRequest("a command needs at least one argument", hint="name a program")
    if not start.cwd.startswith(b"/"):
        raise InvalidRequest("the working directory is not absolute", hint="start it with '/'")
    flags = _TERMINAL * (start.terminal is not None) | _INPUT * start.stdin | _BUILTIN * start.builtin
    rows, columns = start.terminal or (0, 0)
    payload = b"".join(
        (
            _START.pack(flags, rows, columns, start.credit, start.timeout_ms, start.keep),
            _string(start.cwd),
            _strings(start.argv, "arguments"),
            _environment(start.env),
        )
    )
    if len(payload) > MAX_START:
        raise InvalidRequest(f"command and environment exceed {MAX_START} bytes", hint=_HINT_TOO_LONG)
    parts = _cut(payload)
    kinds = [_Host.START_PART] * (len(parts) - 1) + [_Host.START]
    return b"".join(_frame(kind, stream, part) for kind, part in zip(kinds, parts, strict=True))


def encode_input(stream: int, data: bytes) -> bytes:
    """Standard input in as many frames as it takes. Never send more than was granted."""
    return b"".join(_frame(_Host.INPUT, stream, part) for part in _cut(data))


def encode_input_end(stream: int) -> bytes:
    """The end of standard input, after what was sent."""
    return _frame(_Host.INPUT_END, stream)


def encode_signal(stream: int, number: int, *, tree: bool) -> bytes:
    """A signal (1 to 64) to the process, or with `tree` to it and all its descendants; stream 0 is everybody."""
    return _frame(_Host.SIGNAL, stream, struct.pack("<BB", number, tree))


def encode_resize(stream: int, rows: int, columns: int) -> bytes:
    """A new size for the process's terminal."""
    return _frame(_Host.RESIZE, stream, struct.pack("<HH", rows, columns))


def encode_credit(stream: int, amount: int) -> bytes:
    """The host takes `amount` more bytes of output (1 to 2**32 - 1)."""
    return _frame(_Host.CREDIT, stream, _U32.pack(amount))


def encode_ping() -> bytes:
    """A question that guestd answers with a `Pong`, once it has done everything before it."""
    return _frame(_Host.PING, 0)


def _frame(kind: _Host, stream: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(len(payload), kind, stream) + payload


def _cut(data: bytes) -> list[bytes]:
    return [data[at : at + MAX_PAYLOAD] for at in range(0, len(data), MAX_PAYLOAD)]


def _string(text: bytes) -> bytes:
    if b"\0" in text:
        raise InvalidRequest("a NUL byte cannot be passed to a process", hint="remove the NUL byte")
    return _U32.pack(len(text)) + text


def _strings(texts: Iterable[bytes], what: str) -> bytes:
    encoded = [_string(text) for text in texts]
    if len(encoded) > MAX_STRINGS:
        raise InvalidRequest(f"more than {MAX_STRINGS} {what}", hint=_HINT_TOO_LONG)
    return _U32.pack(len(encoded)) + b"".join(encoded)


def _environment(env: Iterable[bytes] | Environment) -> bytes:
    if isinstance(env, Environment):
        return env.block
    variables = list(env)
    if any(variable.find(b"=") < 1 for variable in variables):
        raise InvalidRequest("an environment variable has no name", hint="write it as NAME=value")
    return _strings(variables, "environment variables")


def _malformed(what: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"the sandbox broke the guestd protocol: {what}",
        hint="this sandbox cannot be trusted any more: make a new one",
    )


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _malformed(what)


def _hello(stream: int, payload: bytes) -> GuestFrame:
    del stream
    version, reserved = _HELLO.unpack(payload)
    _require(version == PROTOCOL_VERSION and reserved == 0, "another protocol version")
    return Hello(version=version)


def _started(stream: int, payload: bytes) -> GuestFrame:
    return Started(stream=stream, pid=_U32.unpack(payload)[0])


def _stdout(stream: int, payload: bytes) -> GuestFrame:
    return Output(stream=stream, error=False, data=payload)


def _stderr(stream: int, payload: bytes) -> GuestFrame:
    return Output(stream=stream, error=True, data=payload)


def _input_credit(stream: int, payload: bytes) -> GuestFrame:
    amount = _U32.unpack(payload)[0]
    _require(amount <= INPUT_WINDOW, "more input credit than there is")
    return InputCredit(stream=stream, amount=amount)


def _exit(stream: int, payload: bytes) -> GuestFrame:
    how, flags, reserved, code, stdout_dropped, stderr_dropped = _EXIT.unpack(payload)
    _require(how in _HOWS and reserved == 0, "an unknown end of a process")
    _require(flags & ~(_MEMORY | _TIMEOUT | _DIRECTORY) == 0, "an unknown reason for the end of a process")
    return Exit(
        stream=stream,
        how=_HOWS[how],
        code=code,
        memory_limit=bool(flags & _MEMORY),
        timed_out=bool(flags & _TIMEOUT),
        bad_directory=bool(flags & _DIRECTORY),
        stdout_dropped=stdout_dropped,
        stderr_dropped=stderr_dropped,
    )


def _pong(stream: int, payload: bytes) -> GuestFrame:
    del stream, payload
    return Pong()


@dataclass(frozen=True, slots=True)
class _Layout:
    """One kind of frame a guest may send: the least and the most bytes of payload, and what it means."""

    least: int
    most: int
    parse: Callable[[int, bytes], GuestFrame]
    of_guestd: bool = False
    """It is about guestd itself, on stream 0, and not about a process."""


_LAYOUTS: Final[Mapping[int, _Layout]] = {
    _Guest.HELLO: _Layout(_HELLO.size, _HELLO.size, _hello, of_guestd=True),
    _Guest.STARTED: _Layout(_U32.size, _U32.size, _started),
    _Guest.STDOUT: _Layout(1, MAX_PAYLOAD, _stdout),
    _Guest.STDERR: _Layout(1, MAX_PAYLOAD, _stderr),
    _Guest.INPUT_CREDIT: _Layout(_U32.size, _U32.size, _input_credit),
    _Guest.EXIT: _Layout(_EXIT.size, _EXIT.size, _exit),
    _Guest.PONG: _Layout(0, 0, _pong, of_guestd=True),
}


class FrameDecoder:
    """Cuts the bytes of one guest into frames, however they arrive.

    It checks each frame alone, and that HELLO comes first and once. What a frame means for its stream (was it
    started, is there credit) is for the caller. Once it raised, it raises always.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._greeted = False
        self._broken = False

    @property
    def pending(self) -> int:
        """Bytes held of a frame that is not complete."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[GuestFrame]:
        """The frames that `data` completes, in order. Raises `BackendUnavailable` on anything malformed."""
        _require(not self._broken, "it was malformed before")
        self._broken = True
        frames: list[GuestFrame] = []
        buffer = self._rest + data if self._rest else data
        at = 0
        while len(buffer) - at >= _HEAD.size:
            length, kind, stream = _HEAD.unpack_from(buffer, at)
            layout = self._layout(kind, length, stream)
            end = at + _HEAD.size + length
            if end > len(buffer):
                break
            frames.append(layout.parse(stream, buffer[at + _HEAD.size : end]))
            self._greeted = True
            at = end
        self._rest = buffer[at:]
        self._broken = False
        return frames

    def _layout(self, kind: int, length: int, stream: int) -> _Layout:
        layout = _LAYOUTS.get(kind)
        if layout is None:
            raise _malformed("an unknown frame")
        is_hello = kind == _Guest.HELLO
        _require(layout.least <= length <= layout.most, "a frame of the wrong size")
        _require(is_hello is not self._greeted, "HELLO is not its first frame, or comes twice")
        _require((stream == 0) is layout.of_guestd, "a frame on the wrong stream")
        return layout
