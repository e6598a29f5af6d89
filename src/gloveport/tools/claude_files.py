"""Read, Write and Edit as Claude Code has them, on a sandbox's files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gloveport.errors import LimitExceeded, NotFound
from gloveport.model import KIB
from gloveport.policy import encode_text
from gloveport.tools.claude_session import Answer, ToolSession, refuse
from gloveport.tools.text import is_binary, size_of

__all__ = ["edit", "read", "write"]

_DEFAULT_LINES = 2000
_LONGEST_LINE = 2000
_LONGEST_UNASKED = 256 * KIB
"""Bytes of a file that is read without saying which lines."""
_LONGEST_ANSWER = 100_000
"""Characters: about what Claude Code itself lets one tool result take of the model's context."""
_NOT_READ = "File has not been read yet. Read it first before writing to it."
_CHANGED = (
    "File has been modified since read, either by the user or by a linter. Read it again before attempting to write it."
)
_CURRENT = "(file state is current in your context — no need to Read it back)"
_STALE = (
    "(note: the file had been modified on disk since you last read it — the edit applied cleanly, but the file "
    "contains other changes not in your context. Read it before edits that depend on surrounding content.)"
)


async def read(session: ToolSession, arguments: dict[str, Any]) -> Answer:
    """Some lines of a text file, numbered."""
    path = session.resolve(arguments["file_path"])
    offset, limit = arguments["offset"], arguments["limit"]
    try:
        data = await session.sandbox.files.read(path)
    except NotFound:
        return refuse(f"File does not exist. {session.where}")
    if is_binary(data):
        return refuse(
            f"{path} is a binary file ({size_of(len(data))}). Look at it with Bash, for example `file` or `xxd`."
        )
    if offset is None and limit is None and len(data) > _LONGEST_UNASKED:
        return refuse(
            f"File content ({size_of(len(data))}) exceeds maximum allowed size ({_LONGEST_UNASKED // KIB}KB). Use "
            "offset and limit parameters to read specific portions of the file, or search for specific content instead "
            "of reading the whole file."
        )
    session.see(path, data)
    if not data:
        return Answer("<system-reminder>Warning: the file exists but the contents are empty.</system-reminder>")
    lines = data.decode("utf-8", "replace").removeprefix("\ufeff").split("\n")
    first = max(1, offset or 1)
    if first > len(lines):
        return Answer(
            f"<system-reminder>Warning: the file exists but is shorter than the provided offset ({offset}). "
            f"The file has {len(lines)} lines.</system-reminder>"
        )
    return Answer(_numbered(lines, first, limit))


async def write(session: ToolSession, arguments: dict[str, Any]) -> Answer:
    """A whole file, over one that the model knows or where none is."""
    path = session.resolve(arguments["file_path"])
    try:
        old = await session.sandbox.files.read(path)
    except NotFound:
        old = None
    except LimitExceeded:
        return refuse(_NOT_READ)
    if old is not None and not session.has_seen(path):
        return refuse(_NOT_READ)
    if old is not None and not session.is_current(path, old):
        return refuse(_CHANGED)
    data = _encode(arguments["content"])
    await session.sandbox.files.write(path, data)
    session.see(path, data)
    if old is None:
        return Answer(f"File created successfully at: {path} {_CURRENT}")
    return Answer(f"The file {path} has been updated successfully. {_CURRENT}")


async def edit(session: ToolSession, arguments: dict[str, Any]) -> Answer:
    """One exact replacement, or all of them, in a file that the model knows."""
    path = session.resolve(arguments["file_path"])
    old, new = arguments["old_string"], arguments["new_string"]
    if old == new:
        return refuse("No changes to make: old_string and new_string are exactly the same.")
    try:
        data = await session.sandbox.files.read(path)
    except NotFound:
        if old:
            return refuse(f"File does not exist. {session.where}")
        return await _create(session, path, new)
    if not old:
        return refuse("Cannot create new file - file already exists.") if data else await _create(session, path, new)
    if not session.has_seen(path):
        return refuse(_NOT_READ)
    if is_binary(data):
        return refuse(f"{path} is a binary file: change it with a command.")
    return await _replace(session, path, data, arguments)


async def _replace(session: ToolSession, path: str, data: bytes, arguments: dict[str, Any]) -> Answer:
    text = data.decode("utf-8", "surrogateescape")
    old, new = _as_in(text, arguments["old_string"], arguments["new_string"])
    count = text.count(old)
    if count == 0:
        return refuse(f"String to replace not found in file.\nString: {arguments['old_string']}")
    if count > 1 and not arguments["replace_all"]:
        return refuse(
            f"Found {count} matches of the string to replace, but replace_all is false. To replace all occurrences, "
            "set replace_all to true. To replace only one occurrence, please provide more context to uniquely identify "
            f"the instance.\nString: {arguments['old_string']}"
        )
    note = _CURRENT if session.is_current(path, data) else _STALE
    changed = _encode(text.replace(old, new))
    await session.sandbox.files.write(path, changed)
    session.see(path, changed)
    if arguments["replace_all"]:
        return Answer(f"The file {path} has been updated. All occurrences were successfully replaced. {note}")
    return Answer(f"The file {path} has been updated successfully. {note}")


async def _create(session: ToolSession, path: str, content: str) -> Answer:
    data = _encode(content)
    await session.sandbox.files.write(path, data)
    session.see(path, data)
    return Answer(f"The file {path} has been updated successfully. {_CURRENT}")


def _as_in(text: str, old: str, new: str) -> tuple[str, str]:
    """`old` and `new` with the line ends that `text` has around `old`: Read does not show a carriage return."""
    if old not in text and "\r\n" in text:
        dos = old.replace("\r\n", "\n").replace("\n", "\r\n")
        if dos in text:
            return dos, new.replace("\r\n", "\n").replace("\n", "\r\n")
    return old, new


def _numbered(lines: Sequence[str], first: int, limit: int | None) -> str:
    """`limit` lines from number `first` on; says so when fewer are shown than were asked for."""
    wanted = lines[first - 1 : None if limit is None else first - 1 + limit]
    shown: list[str] = []
    size = 0
    for number, line in enumerate(wanted[: limit or _DEFAULT_LINES], first):
        text = f"{number}\t{_cut(line)}"
        size += len(text) + 1
        if shown and size > _LONGEST_ANSWER:
            break
        shown.append(text)
    last = first + len(shown) - 1
    if len(shown) < len(wanted):
        shown.append(f"\n[Lines {first} to {last} of {len(lines)}. Read on with offset {last + 1}.]")
    return "\n".join(shown)


def _cut(line: str) -> str:
    line = line.removesuffix("\r")
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[:_LONGEST_LINE]}... [{len(line) - _LONGEST_LINE} more characters]"


def _encode(text: str) -> bytes:
    return encode_text(text, "the text")
