"""What a sandbox was answered over HTTP, kept so that it can be answered again where nothing is dialled.

JSON Lines: the first names the format, each other is one request that was decided, with its whole answer. Answers
are as the guest got them: without the secrets that went the other way. Tunnels that nobody looks into are not there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import h11

from gloveport.egress.record import Destination
from gloveport.errors import InvalidRequest, NotFound

__all__ = ["EgressPlayer", "EgressTape", "PassingAnswer", "TapeOfEgress", "TapedAnswer", "TapedRequest"]

_FORMAT = 1
_MOST_ANSWER = 16 * 2**20
_MOST_BYTES = 256 * 2**20
_MOST_HELD = 64 * 2**20
"""Of answers that are passing: a guest may have hundreds of connections, and each byte is in this process's memory."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TapedRequest:
    """What was asked, as far as the answer depends on it."""

    protocol: str
    host: str
    port: int
    method: str
    path: str
    body: str
    """SHA-256, in hexadecimal."""

    @classmethod
    def of(cls, destination: Destination, body: str) -> Self:
        """The request for a destination, with the digest of its body."""
        place = (destination.protocol, destination.host, destination.port)
        return cls(*place, destination.method or "", destination.path or "", body)


@dataclass(slots=True)
class TapedAnswer:
    """An answer, as the guest got it."""

    status: int = 0
    reason: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    def events(self) -> Iterator[h11.Event]:
        """The same again."""
        yield h11.Response(status_code=self.status, headers=self.headers, reason=self.reason)
        if self.body:
            yield h11.Data(data=bytes(self.body))
        yield h11.EndOfMessage()


class EgressTape:
    """Writes what one sandbox asks and is answered. The file is made with the first answer; 256 MiB is its end.

    What cannot be kept is left out: an answer beyond 16 MiB, or while 64 MiB are passing already, and what cannot be
    written, which is logged. Nobody's connection ends for it, and a replay says what is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._room = _MOST_BYTES
        self._begun = False
        self._held = 0

    @contextmanager
    def answer(self) -> Iterator[PassingAnswer]:
        """One answer, for as long as it passes."""
        passing = PassingAnswer(self)
        try:
            yield passing
        finally:
            passing.drop()

    def hold(self, size: int) -> bool:
        """Whether there is room for so many bytes more; negative ones are given back."""
        if size > 0 and self._held + size > _MOST_HELD:
            return False
        self._held += size
        return True

    def add(self, request: TapedRequest, answer: TapedAnswer) -> None:
        """One request with its whole answer."""
        said = {
            "request": [request.protocol, request.host, request.port, request.method, request.path, request.body],
            "status": answer.status,
            "reason": answer.reason.decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers],
            "body": base64.b64encode(answer.body).decode("ascii"),
        }
        head = "" if self._begun else f"{json.dumps({'format': _FORMAT})}\n"
        line = f"{head}{json.dumps(said, separators=(',', ':'))}\n".encode()
        if len(line) > self._room:
            return
        try:
            _append(self._path, line)
        except OSError as error:
            _log.warning("an answer is not kept: cannot write %s: %s", self._path, error)
            self._room = 0
            return
        self._begun = True
        self._room -= len(line)


class PassingAnswer:
    """An answer that is collected while it passes, and the digest of the request's body."""

    def __init__(self, tape: EgressTape) -> None:
        self._tape = tape
        self._asked = hashlib.sha256()
        self._kept: TapedAnswer | None = TapedAnswer()

    def ask(self, piece: bytes) -> None:
        """A piece of the request's body, as the guest sent it."""
        self._asked.update(piece)

    def take(self, event: h11.Event) -> None:
        """One part of the answer, as the guest gets it."""
        kept = self._kept
        if kept is None:
            return
        if isinstance(event, h11.Response):
            kept.status, kept.reason, kept.headers = event.status_code, bytes(event.reason), event.headers.raw_items()
        elif isinstance(event, h11.Data):
            if len(kept.body) + len(event.data) > _MOST_ANSWER or not self._tape.hold(len(event.data)):
                self.drop()
            else:
                kept.body += event.data

    def end(self, destination: Destination) -> None:
        """It has passed, whole."""
        if self._kept is not None:
            self._tape.add(TapedRequest.of(destination, self._asked.hexdigest()), self._kept)

    def drop(self) -> None:
        """Let go of it. Idempotent."""
        kept, self._kept = self._kept, None
        if kept is not None:
            self._tape.hold(-len(kept.body))


def _append(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class TapeOfEgress:
    """A tape as it was read: every answer, in order."""

    answers: Sequence[tuple[TapedRequest, TapedAnswer]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The tape in a file. `NotFound` where there is none, `InvalidRequest` that names its first odd line."""
        found = []
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break  # the disk was full in the middle of it
                    try:
                        said = json.loads(line)
                        if number > 1:
                            found.append(_read(said))
                        elif said["format"] != _FORMAT:
                            raise InvalidRequest(
                                f"{path} has format {said['format']!r}", hint=f"this version reads format {_FORMAT}"
                            )
                    except (ValueError, LookupError, TypeError, RecursionError) as error:
                        raise InvalidRequest(
                            f"line {number} of {path} is no answer on a tape",
                            hint="it was cut off or altered: see gloveport verify",
                        ) from error
        except FileNotFoundError:
            raise NotFound(f"there is no recording of what was fetched: {path}", hint="it fetched nothing") from None
        return cls(found)

    def player(self) -> EgressPlayer:
        """Plays it from its beginning."""
        return EgressPlayer(self.answers)


class EgressPlayer:
    """Answers from a tape, each once. Equal requests are answered in the recorded order."""

    def __init__(self, answers: Sequence[tuple[TapedRequest, TapedAnswer]]) -> None:
        self._left: dict[TapedRequest, list[TapedAnswer]] = {}
        for request, answer in answers:
            self._left.setdefault(request, []).append(answer)

    def take(self, request: TapedRequest) -> TapedAnswer | None:
        """The answer to it; `None` where the tape has none, or no more."""
        left = self._left.get(request)
        return left.pop(0) if left else None


def _read(said: Mapping[str, Any]) -> tuple[TapedRequest, TapedAnswer]:
    protocol, host, port, method, path, body = said["request"]
    request = TapedRequest(str(protocol), str(host), int(port), str(method), str(path), str(body))
    answer = TapedAnswer(
        status=int(said["status"]),
        reason=said["reason"].encode("latin-1"),
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in said["headers"]],
        body=bytearray(base64.b64decode(said["body"], validate=True)),
    )
    return request, answer
