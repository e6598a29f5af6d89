"""The append-only, hash-chained file of events, and its verification."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gloveport.errors import InvalidRequest, LimitExceeded
from gloveport.model import Event, EventKind, new_trace
from gloveport.store.redact import Redactor

__all__ = ["GENESIS", "Trail", "read_trail", "verify_trail"]

GENESIS = "0" * 64
"""What the first record calls its predecessor's hash."""

_encode = json.JSONEncoder(separators=(",", ":")).encode
_SEAL = ',"hash":"'
_SEAL_BYTES = len(_SEAL) + 64 + len('"}')


class Trail:
    """Appends events to one JSON-lines file (0600).

    A line is one record; its last field is the SHA-256 of the previous record's hash and of the line's own bytes
    before that field, so that no byte can change and no record can be taken out without `verify_trail` naming the
    place. A record is written with one `write`, before the operation it announces goes on.
    """

    def __init__(
        self,
        path: Path,
        *,
        trace: str | None = None,
        redactor: Redactor | None = None,
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        self.path = path
        self.trace = trace or new_trace()
        self._redactor = redactor or Redactor()
        self._listener = listener
        self._sequence = 0
        self._previous = GENESIS
        self._descriptor: int | None = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
        )

    def append(self, kind: EventKind, data: Mapping[str, Any]) -> Event:
        """Redact, chain and write one event."""
        if self._descriptor is None:
            raise InvalidRequest(f"the trail {self.path} is closed", hint="this is a defect: please report it")
        raw = _encode(data)
        clean = self._redactor.text(raw)
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        sealed = (
            f'{{"sequence":{self._sequence},"time":"{time}","trace":"{self.trace}","kind":"{kind}",'
            f'"data":{clean},"previous":"{self._previous}"'
        ).encode()
        digest = hashlib.sha256(self._previous.encode() + sealed).hexdigest()
        _write_whole(self._descriptor, sealed + f'{_SEAL}{digest}"}}\n'.encode(), self.path)
        event = Event(
            sequence=self._sequence,
            time=time,
            trace=self.trace,
            kind=kind,
            data=data if clean == raw else json.loads(clean),
            previous=self._previous,
            hash=digest,
        )
        self._sequence += 1
        self._previous = digest
        if self._listener is not None:
            self._listener(event)
        return event

    def close(self) -> None:
        """End the file; idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _write_whole(descriptor: int, line: bytes, path: Path) -> None:
    written = os.write(descriptor, line)
    if written != len(line):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        raise LimitExceeded(f"no space for the trail {path}", hint="free disk space: nothing goes on unrecorded")


def read_trail(path: Path) -> Iterator[Event]:
    """The events of a trail file, unverified. A broken line raises `InvalidRequest`."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                yield Event(**{**record, "kind": EventKind(record["kind"])})
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidRequest(
                    f"{path}: line {number} is not an event",
                    hint="check it with: gloveport verify",
                    line=number,
                ) from error


def verify_trail(path: Path, *, last: EventKind | None = None) -> int:
    """Check every record's seal, sequence and chain, and that the last record is of kind `last`; the number of records.

    Raises `InvalidRequest` that names the first broken record. The chain has no key: who can write the file can make a
    new one, whole. Keep the last hash elsewhere where that matters.
    """
    previous = GENESIS
    count = 0
    kind = ""
    with path.open("rb") as lines:
        for line in lines:
            problem = _broken(line, count, previous)
            if problem:
                raise InvalidRequest(
                    f"{path}: record {count} {problem}",
                    hint="the trail was altered after it was written: do not rely on it from this record on",
                    record=count,
                )
            previous = line[-67:-3].decode()
            kind = json.loads(line)["kind"]
            count += 1
    if last is not None and kind != last:
        raise InvalidRequest(
            f"{path}: record {count} is missing: the trail ends with {kind or 'nothing'}, not with {last}",
            hint="the end was cut off, or the run died before it could write it",
            record=count,
        )
    return count


def _broken(line: bytes, sequence: int, previous: str) -> str:
    if not line.endswith(b'"}\n') or line[-_SEAL_BYTES - 1 : -67] != _SEAL.encode():
        return "has no seal"
    sealed, seal = line[: -_SEAL_BYTES - 1], line[-67:-3].decode("ascii", "replace")
    if hashlib.sha256(previous.encode() + sealed).hexdigest() != seal:
        return "does not match its seal"
    record = json.loads(line)
    if record["sequence"] != sequence or record["previous"] != previous:
        return "is out of order"
    return ""
