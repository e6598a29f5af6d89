"""A tape: every exchange of one session with its model, to the byte, so that the session can be played again.

JSON Lines. The first says how the session was begun, each other is a part of a request or an exchange. A request
repeats the conversation before it, so each of its parts is written once, by its digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from gloveport.errors import GloveportError, InvalidRequest, NotFound
from gloveport.model import MIB
from gloveport.store import MASK
from gloveport.store.files import cannot_write

__all__ = [
    "STAND_INS",
    "Opening",
    "Part",
    "StandIn",
    "Tape",
    "TapeWriter",
    "TapedAnswer",
    "TapedExchange",
    "parts_of",
]

TAPE_FORMAT = 1
_MOST_BYTES = 512 * MIB
_LISTS = ("messages", "system", "tools")
_FULL = "full"
_HEAD = 40
_DATE = re.compile(r"Today's date is (\d{4}-\d\d-\d\d)")


@dataclass(frozen=True, slots=True)
class StandIn:
    """Something of a request that the command line makes up anew in each session: both sides get the same for it."""

    name: str
    why: str
    within: str
    """The part's key in the request, and how its JSON begins: nowhere else is it looked for."""
    found: re.Pattern[str]
    """In that part's JSON."""
    written: str


STAND_INS: Sequence[StandIn] = (
    StandIn(
        name="user",
        why="the command line makes up a device and a session id in each jail",
        within="metadata {",
        found=re.compile(r'(?<="user_id":)"(?:[^"\\]|\\.)*"'),
        written='"<user>"',
    ),
    StandIn(
        name="kernel",
        why="the command line tells the model of the host's kernel",
        within='messages {"role":"system"',
        found=re.compile(r"(?<=OS Version: )[^\\\"]*"),
        written="<kernel>",
    ),
)
"""All that may differ between a recorded request and its replay. The date is none: the replayed session is given it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a request: a key of the document, or an item of one of its long lists."""

    place: str
    """`model`, `messages[3]`."""
    text: str
    """Its JSON, in the order in which it was sent, with stand-ins."""
    digest: str

    @classmethod
    def of(cls, place: str, value: object) -> Self:
        """The part that stands there."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        head = f"{place.partition('[')[0]} {text[:_HEAD]}"
        for each in STAND_INS:
            if head.startswith(each.within):
                text = each.found.sub(each.written, text)
        return cls(place, text, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def parts_of(document: Mapping[str, Any]) -> list[Part]:
    """A request in parts, in its own order."""
    found = []
    for key, value in document.items():
        if key in _LISTS and isinstance(value, list):
            found += [Part.of(f"{key}[{number}]", item) for number, item in enumerate(value)]
        else:
            found.append(Part.of(key, value))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a session was begun: all that its requests depend on, beside the model's answers and the tools'."""

    prompt: str
    sdk: str
    """The version of the Agent SDK, which brings the command line along."""
    model: str | None = None
    max_turns: int = 0
    max_cost: float | None = None
    trust_repository_skills: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TapedExchange:
    """One request that was forwarded, and its answer."""

    number: int
    path: str
    query: str
    parts: Sequence[tuple[str, str]]
    """Place and digest of each."""
    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    answer: bytes = b""
    is_whole: bool = True
    """Whether the client got all of the answer."""


class TapeWriter:
    """Writes the tape of one session. A tape that would grow beyond 512 MiB ends there, and says so.

    `secret` is masked wherever a request has it; answers were masked before.
    """

    def __init__(self, path: Path, secret: str = "") -> None:
        try:
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
        except OSError as error:
            raise cannot_write(path, error) from error
        self._path = path
        self._secret = secret
        self._seen: set[str] = set()
        self._room = _MOST_BYTES
        self._number = 0
        self._failure: GloveportError | None = None

    def open(self, opening: Opening) -> None:
        """The first line."""
        prompt = opening.prompt.replace(self._secret, MASK) if self._secret else opening.prompt
        self._write({"format": TAPE_FORMAT, **asdict(opening), "prompt": prompt})

    def add(self, path: str, query: str, document: Mapping[str, Any], answer: TapedAnswer) -> None:
        """One exchange that is over. What cannot be written is told by `close`."""
        parts = [self._masked(part) for part in parts_of(document)]
        for part in parts:
            if part.digest not in self._seen:
                self._seen.add(part.digest)
                self._write({"part": part.digest, "text": part.text})
        taped = TapedExchange(
            number=self._number,
            path=path,
            query=query,
            parts=[(part.place, part.digest) for part in parts],
            status=answer.status,
            headers=dict(answer.headers),
            is_whole=answer.is_whole,
        )
        self._number += 1
        self._write({"exchange": {**asdict(taped), "answer": base64.b64encode(answer.body).decode()}})

    def close(self) -> None:
        """Raises `LimitExceeded` or `BackendUnavailable` where something could not be written. Idempotent."""
        self._file.close()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _masked(self, part: Part) -> Part:
        if not self._secret or self._secret not in part.text:
            return part
        return Part.of(part.place, json.loads(part.text.replace(self._secret, MASK)))

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._room <= 0 or self._file.closed or self._failure is not None:
            return
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
        self._room -= len(line)
        if self._room <= 0:
            line = json.dumps({_FULL: True}).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            self._failure = cannot_write(self._path, error)


@dataclass(slots=True)
class TapedAnswer:
    """What a client was sent, collected as it is sent."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False

    def take(self, message: Mapping[str, Any]) -> None:
        """One message to the client."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.is_whole = not message.get("more_body", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tape:
    """A tape as it was read."""

    opening: Opening
    exchanges: Sequence[TapedExchange]
    texts: Mapping[str, str]
    """Each part's text by its digest."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The tape in a file. `NotFound` where there is none, `InvalidRequest` that names its first odd line."""
        opening: Opening | None = None
        exchanges: list[TapedExchange] = []
        texts: dict[str, str] = {}
        for number, record in enumerate(_records(path), 1):
            try:
                if opening is None:
                    opening = _opening(record, path)
                elif "part" in record:
                    texts[record["part"]] = str(record["text"])
                elif record.get(_FULL):
                    raise InvalidRequest(
                        f"{path} is not whole: the session was longer than a tape may be",
                        hint="replay it at level R2",
                    )
                else:
                    exchanges.append(_exchange(record["exchange"], texts))
            except (KeyError, TypeError, ValueError) as error:
                raise _odd(path, number) from error
        if opening is None:
            raise _odd(path, 1)
        return cls(opening=opening, exchanges=exchanges, texts=texts)

    @property
    def date(self) -> str | None:
        """The day that the session took for today, as it told the model; `None` where it told none."""
        texts = (self.texts[digest] for taped in self.exchanges[:1] for _, digest in taped.parts)
        return next((found[1] for text in texts if (found := _DATE.search(text))), None)

    def told(self) -> Mapping[str, tuple[str, bool]]:
        """What the model was told of each tool call, by the call's id: the text, and whether it was an error."""
        found: dict[str, tuple[str, bool]] = {}
        for text in self.texts.values():
            if '"tool_result"' in text:
                for block in _tool_results(json.loads(text)):
                    found[str(block.get("tool_use_id"))] = (_plain(block.get("content")), bool(block.get("is_error")))
        return found


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise _odd(path, number) from error
                if not isinstance(record, dict):
                    raise _odd(path, number)
                yield record
    except FileNotFoundError:
        raise NotFound(
            f"there is no recording of the model's traffic: {path}",
            hint="runs of an earlier version and imported ones have none: replay it at level R2",
        ) from None


def _opening(record: Mapping[str, Any], path: Path) -> Opening:
    if record["format"] != TAPE_FORMAT:
        raise InvalidRequest(
            f"{path} has format {record['format']!r}", hint=f"this version reads format {TAPE_FORMAT}: update it"
        )
    return Opening(**{name: value for name, value in record.items() if name != "format"})


def _exchange(said: Mapping[str, Any], texts: Mapping[str, str]) -> TapedExchange:
    parts = [(str(place), str(digest)) for place, digest in said["parts"]]
    if any(digest not in texts for _, digest in parts):
        raise ValueError("a part that was never written")
    return TapedExchange(**{**said, "parts": parts, "answer": base64.b64decode(said["answer"], validate=True)})


def _tool_results(message: object) -> Iterator[Mapping[str, Any]]:
    content = message.get("content") if isinstance(message, dict) else None
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") == "tool_result":
            yield block


def _plain(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(str(block.get("text", "")) for block in blocks if isinstance(block, dict))


def _odd(path: Path, line: int) -> InvalidRequest:
    return InvalidRequest(
        f"line {line} of {path} is no record of a tape", hint="it was cut off or altered: see gloveport verify"
    )
