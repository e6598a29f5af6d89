"""The record of one tool call: what is asked, what its commands do under its id, what it leaves, what it answers."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from gloveport.errors import GloveportError
from gloveport.model import EventKind, Ref
from gloveport.sandbox.recorded import RECORDED_ANSWER, RECORDED_INPUT, length, recorded, recorded_fields
from gloveport.sandbox.workspace_digest import Difference
from gloveport.store import Trail

__all__ = ["OpenCalls", "ToolCall", "ToolCallRecord", "record_call"]

_LISTED = 200
"""Changed paths that the record of one call lists; all of them are in the digest."""
_TOLD = 16
"""Small text files among them whose content it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call that is about to be carried out."""

    tool: str
    """The tool's plain name."""
    params: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    id: str | None = None
    """The id under which somebody else records what is asked and answered; empty where that is not known. Without
    one (`None`) the call gets an id, and both are recorded here."""
    reads_only: bool = False
    """Whether the tool changes nothing, so that the workspace need not be looked at afterwards."""


class OpenCalls:
    """The tool calls that are being carried out in one sandbox."""

    def __init__(self) -> None:
        self._open: dict[str, set[str]] = {}

    @contextmanager
    def one(self, call: str) -> Iterator[set[str]]:
        """Count `call` among them; the others that were open meanwhile, at any moment."""
        others = set(self._open) - {call}
        for name in others:
            self._open[name].add(call)
        self._open[call] = others
        try:
            yield others
        finally:
            self._open.pop(call, None)


class _Recorder(Protocol):
    """What this needs of the recorder of a sandbox."""

    trail: Trail
    open_calls: OpenCalls
    save: Callable[[], Awaitable[str]] | None
    """Saves the sandbox before a call that may change something; the snapshot's id."""

    async def look(self, ref: Ref) -> Difference:
        """How the workspace differs from its first state."""
        ...


class ToolCallRecord:
    """One tool call while it is carried out."""

    def __init__(self, call: str) -> None:
        self.call = call
        """The id that the records of all it does must have; empty where it has none."""
        self.answered: Mapping[str, Any] | None = None
        """What the tool answers, once it has."""

    def answer(self, text: str, *, is_error: bool = False, error: str = "") -> None:
        """Say what the tool answers, and what it says of an error beside that."""
        self.answered = {"text": text, "is_error": is_error, "error": error}


@asynccontextmanager
async def record_call(recorder: _Recorder, ref: Ref, call: ToolCall) -> AsyncIterator[ToolCallRecord]:
    """Record what happens in the scope as one tool call's.

    What is asked is written down before it begins, as everything is; its end is written where that is possible: a call
    that was carried out is never lost to the record of it.
    """
    if call.id == "":
        yield ToolCallRecord("")
        return
    name = call.id or f"call-{uuid.uuid4().hex}"
    facts = {"call": name, "name": call.tool}
    trail, redactor = recorder.trail, recorder.trail.redactor
    if call.id is None:
        cut = {"cut": True} if length(dict(call.params)) > RECORDED_INPUT else {}
        asked = recorded_fields(dict(call.params), redactor, RECORDED_INPUT)
        trail.append(EventKind.TOOL_CALLED, {**facts, "input": asked, **cut})
    record = ToolCallRecord(name)
    saved = {} if call.reads_only or recorder.save is None else await _saved(recorder.save)
    began, clock = time.time(), time.monotonic()
    with recorder.open_calls.one(name) as overlapping:
        failure: Mapping[str, Any] = {}
        try:
            yield record
        except BaseException as error:
            failure = _failure(error)
            raise
        finally:
            done = {"sandbox": ref.id, "call": name, "tool": call.tool, "started_at": round(began, 6)}
            done["duration"] = round(time.monotonic() - clock, 6)
            done |= saved
            left: Mapping[str, Any] = {}
            if not failure and not call.reads_only:
                left = await _what_it_left(recorder, ref)
            overlapped = {"overlapped": sorted(overlapping)} if overlapping else {}
            with contextlib.suppress(GloveportError):
                trail.append(EventKind.TOOL_DONE, {**done, **failure, **left, **overlapped})
    if call.id is None and record.answered is not None:
        said = {key: recorded(value, redactor, RECORDED_ANSWER) for key, value in record.answered.items()}
        cut = {"cut": True} if length(record.answered["text"]) > RECORDED_ANSWER else {}
        with contextlib.suppress(GloveportError):
            trail.append(EventKind.TOOL_RETURNED, {**facts, **said, "duration": done["duration"], **cut})


async def _saved(save: Callable[[], Awaitable[str]]) -> dict[str, Any]:
    """A snapshot that could not be taken is no reason to leave a call out."""
    try:
        return {"snapshot": await save()}
    except GloveportError as error:
        return {"snapshot_lost": str(error)}


async def _what_it_left(recorder: _Recorder, ref: Ref) -> Mapping[str, Any]:
    try:
        found = await recorder.look(ref)
    except (GloveportError, OSError) as error:
        return {"lost": str(error)}
    listed = dict(itertools.islice(found.changed.items(), _LISTED))
    texts = dict(itertools.islice(found.contents.items(), _TOLD))
    return {
        "changes": found.digest,
        "total": found.total,
        "changed": listed,
        "changed_total": len(found.changed),
        "contents": texts,
    }


def _failure(error: BaseException) -> Mapping[str, Any]:
    if isinstance(error, GloveportError):
        return {"error": error.code, "message": error.message}
    return {"error": "internal" if isinstance(error, Exception) else "cancelled", "message": str(error)}
