"""What clients may read of a sandbox by address: its files, its diff, its trajectory and its events."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

import anyio.to_thread
from mcp import types

from gloveport.errors import InvalidRequest, LimitExceeded
from gloveport.mcp.calls import read_patch
from gloveport.mcp.sandboxes import Entry, Sandboxes
from gloveport.model import MIB, Event, EventKind
from gloveport.store import read_trail
from gloveport.trajectory.events import from_events
from gloveport.trajectory.formats.knowlyr import write_knowlyr
from gloveport.trajectory.reading import check_size

__all__ = ["LARGEST", "list_resources", "list_templates", "read_resource"]

LARGEST = 8 * MIB
"""Bytes of one resource."""
_PREFIX = "gloveport://sandbox/"
_TEXT = "text/plain"
_DIFF, _JSON, _LINES = "text/x-diff", "application/json", "application/x-ndjson"
_WHOLE: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "diff": (_DIFF, "What changed in the workspace, as a patch."),
        "trajectory": (_JSON, "The tool calls since the sandbox was made or reset, as replay_trajectory takes them."),
        "events": (_LINES, "What was done and decided in the sandbox: its audit trail, one event a line."),
    }
)


def list_resources(sandboxes: Sandboxes) -> list[types.Resource]:
    """What each sandbox has beside its files."""
    return [
        types.Resource(
            uri=f"{_PREFIX}{entry.sandbox.id}/{name}",
            name=f"{entry.sandbox.id} {name}",
            description=description,
            mime_type=mime_type,
        )
        for entry in sandboxes.all()
        for name, (mime_type, description) in _WHOLE.items()
    ]


def list_templates() -> list[types.ResourceTemplate]:
    """The shapes of addresses."""
    file = types.ResourceTemplate(
        uri_template=f"{_PREFIX}{{sandbox_id}}/file/{{+path}}",
        name="file",
        description="A file of a sandbox. A path starts at /workspace; a whole one starts with %2F: file/%2Fetc/hosts.",
    )
    others = [
        types.ResourceTemplate(
            uri_template=f"{_PREFIX}{{sandbox_id}}/{name}", name=name, description=description, mime_type=mime_type
        )
        for name, (mime_type, description) in _WHOLE.items()
    ]
    return [file, *others]


async def read_resource(sandboxes: Sandboxes, uri: str) -> types.TextResourceContents | types.BlobResourceContents:
    """One resource. Raises `NotFound`, `InvalidRequest`, `LimitExceeded` beyond `LARGEST`, and what reading raises."""
    name, _, rest = uri.removeprefix(_PREFIX).partition("/")
    kind, _, path = rest.partition("/")
    if not uri.startswith(_PREFIX) or not name or (kind != "file" and (kind not in _READERS or path)):
        raise InvalidRequest(
            f"not an address of this server: {uri}", hint=f"for example {_PREFIX}SANDBOX_ID/file/README.md", uri=uri
        )
    entry = sandboxes.get(unquote(name))
    with entry.in_use():
        if kind == "file":
            return await _file(entry, uri, unquote(path))
        data = await _READERS[kind](entry)
    if len(data) > LARGEST:
        raise _too_large(uri)
    return types.TextResourceContents(uri=uri, mime_type=_WHOLE[kind][0], text=data.decode("utf-8", "replace"))


async def _file(entry: Entry, uri: str, path: str) -> types.TextResourceContents | types.BlobResourceContents:
    data = await entry.sandbox.files.read(path, length=LARGEST + 1)
    if len(data) > LARGEST:
        raise _too_large(uri)
    guessed = mimetypes.guess_type(path)[0]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        blob = base64.b64encode(data).decode()
        return types.BlobResourceContents(uri=uri, mime_type=guessed or "application/octet-stream", blob=blob)
    return types.TextResourceContents(uri=uri, mime_type=guessed or _TEXT, text=text)


async def _diff(entry: Entry) -> bytes:
    patch, _, _ = await read_patch(entry, LARGEST + 1)
    return patch


async def _trajectory(entry: Entry) -> bytes:
    return await anyio.to_thread.run_sync(_recorded, entry.held.backend.trail.path)


def _recorded(path: Path) -> bytes:
    check_size(path)
    return write_knowlyr(from_events(_since_reset(path)))


def _since_reset(path: Path) -> list[Event]:
    events: list[Event] = []
    for event in read_trail(path):
        if event.kind is EventKind.SANDBOX_RESET and "error" not in event.data:
            events.clear()
        events.append(event)
    return events


async def _events(entry: Entry) -> bytes:
    return await anyio.to_thread.run_sync(_beginning, entry.held.backend.trail.path)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST + 1)


def _too_large(uri: str) -> LimitExceeded:
    return LimitExceeded(
        f"{uri} is larger than {LARGEST // MIB} MiB",
        hint="look at parts of it with execute_tool",
        limit="resource_bytes",
    )


_READERS: Mapping[str, Callable[[Entry], Awaitable[bytes]]] = MappingProxyType(
    {"diff": _diff, "trajectory": _trajectory, "events": _events}
)
