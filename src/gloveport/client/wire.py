"""The runner's protocol as bytes: frames in both directions, cut and joined by pure functions.

The page is `docs/reference/runner-protocol.md`. Whoever reads holds at most one frame that is not complete.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from gloveport.errors import BackendUnavailable, InvalidRequest, LimitExceeded

__all__ = [
    "INPUT_WINDOW",
    "MAX_DATA",
    "MAX_JSON",
    "PROTOCOL_VERSION",
    "Decoder",
    "Frame",
    "Kind",
    "encode_credit",
    "encode_data",
    "encode_frame",
    "encode_json",
    "encode_resize",
    "encode_signal",
]

PROTOCOL_VERSION: Final = 1
MAX_DATA: Final = 65_536
"""Bytes of payload in a frame of raw data."""
MAX_JSON: Final = 16 * 2**20
"""Bytes of payload in a frame of JSON."""
INPUT_WINDOW: Final = 262_144
"""Bytes of input a caller may send before the first `INPUT_CREDIT`."""

_HEAD: Final = struct.Struct("<IBI")
_CREDIT: Final = struct.Struct("<I")
_SIGNAL: Final = struct.Struct("<BB")
_SIZE: Final = struct.Struct("<HH")


class Kind(IntEnum):
    """What a frame is. Below 64 the caller speaks, from 64 on the runner."""

    CALL = 1
    INPUT = 2
    INPUT_END = 3
    SIGNAL = 4
    RESIZE = 5
    HELLO = 64
    STARTED = 65
    STDOUT = 66
    STDERR = 67
    INPUT_CREDIT = 68
    RESULT = 69
    ERROR = 70


_LONGEST: Final = {
    Kind.CALL: MAX_JSON,
    Kind.INPUT: MAX_DATA,
    Kind.INPUT_END: 0,
    Kind.SIGNAL: _SIGNAL.size,
    Kind.RESIZE: _SIZE.size,
    Kind.HELLO: MAX_JSON,
    Kind.STARTED: MAX_JSON,
    Kind.STDOUT: MAX_DATA,
    Kind.STDERR: MAX_DATA,
    Kind.INPUT_CREDIT: _CREDIT.size,
    Kind.RESULT: MAX_JSON,
    Kind.ERROR: MAX_JSON,
}
_FIXED: Final = {Kind.INPUT_END, Kind.SIGNAL, Kind.RESIZE, Kind.INPUT_CREDIT}
"""Kinds whose payload has exactly one length."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. What its payload means depends on its kind; the accessors below read it."""

    kind: Kind
    payload: bytes

    def json(self) -> dict[str, Any]:
        """The JSON object of a `CALL`, `HELLO`, `STARTED`, `RESULT` or `ERROR`."""
        try:
            value = json.loads(self.payload)
        except ValueError as error:
            raise _malformed("a frame that is not JSON") from error
        except RecursionError as error:
            raise _too_deep() from error
        if not isinstance(value, dict):
            raise _malformed("JSON that is not an object")
        return value

    def credit(self) -> int:
        """Bytes that an `INPUT_CREDIT` grants in addition."""
        return int(_CREDIT.unpack(self.payload)[0])

    def signal(self) -> tuple[int, bool]:
        """Number, and whether the whole tree is meant, of a `SIGNAL`."""
        number, tree = _SIGNAL.unpack(self.payload)
        return number, bool(tree)

    def size(self) -> tuple[int, int]:
        """Rows and columns of a `RESIZE`."""
        rows, columns = _SIZE.unpack(self.payload)
        return rows, columns


def encode_frame(kind: Kind, payload: bytes = b"") -> bytes:
    """One frame."""
    return _HEAD.pack(len(payload), kind, 0) + payload


def encode_json(kind: Kind, value: dict[str, Any]) -> bytes:
    """One frame of JSON. Text that is not UTF-8 travels as escaped surrogates.

    Raises `LimitExceeded` for what does not fit in a frame, `InvalidRequest` for what is nested too deeply.
    """
    try:
        payload = json.dumps(value, separators=(",", ":")).encode("ascii")
    except RecursionError as error:
        raise _too_deep() from error
    if len(payload) > MAX_JSON:
        raise LimitExceeded(
            f"a message of {len(payload)} bytes is more than the {MAX_JSON // 2**20} MiB that fit in one",
            hint="ask for less at once; pass large content as a file, a patch or standard input",
            limit="message",
        )
    return encode_frame(kind, payload)


def encode_data(kind: Kind, data: bytes) -> list[bytes]:
    """Raw data in as many frames as it takes."""
    return [encode_frame(kind, data[at : at + MAX_DATA]) for at in range(0, len(data), MAX_DATA)]


def encode_credit(amount: int) -> bytes:
    """The runner takes `amount` more bytes of input."""
    return encode_frame(Kind.INPUT_CREDIT, _CREDIT.pack(amount))


def encode_signal(number: int, *, tree: bool) -> bytes:
    """A signal to the process, or with `tree` to it and all its descendants."""
    return encode_frame(Kind.SIGNAL, _SIGNAL.pack(number, tree))


def encode_resize(rows: int, columns: int) -> bytes:
    """A new size for the process's terminal."""
    return encode_frame(Kind.RESIZE, _SIZE.pack(rows, columns))


class Decoder:
    """Cuts received bytes into frames, however they arrive."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order. Raises `BackendUnavailable` on anything malformed."""
        self._rest += data
        frames: list[Frame] = []
        at = 0
        while len(self._rest) - at >= _HEAD.size:
            length, number, stream = _HEAD.unpack_from(self._rest, at)
            kind = _checked(length, number, stream)
            end = at + _HEAD.size + length
            if end > len(self._rest):
                break
            frames.append(Frame(kind, bytes(self._rest[at + _HEAD.size : end])))
            at = end
        del self._rest[:at]
        return frames


def _checked(length: int, number: int, stream: int) -> Kind:
    try:
        kind = Kind(number)
    except ValueError as error:
        raise _malformed("an unknown frame") from error
    longest = _LONGEST[kind]
    if stream != 0 or length > longest or (kind in _FIXED and length != longest):
        raise _malformed("a frame of the wrong size")
    return kind


def _too_deep() -> InvalidRequest:
    return InvalidRequest("JSON that is nested too deeply", hint="send a flatter value")


def _malformed(what: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"the runner's protocol was broken: {what}", hint="stop the runner with: gloveport runner stop"
    )
