"""Files of a sandbox, through its backend; paths are the guest's, relative ones from the workspace."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from gloveport.backends.base import Process, builtin_error
from gloveport.errors import BackendUnavailable, Conflict, InvalidRequest, LimitExceeded, NotFound
from gloveport.model import MIB, WORKSPACE, ExecRequest, Exit, FileStat, FileType, OutputStream, WatchEvent
from gloveport.policy import encode_text
from gloveport.sandbox.background import lasting
from gloveport.sandbox.finish import end, finish
from gloveport.sandbox.manager import Held

__all__ = ["Files", "absolute"]

_LONGEST_LIST = 1_000_000
_LONGEST_OUTPUT = 256 * MIB
_LONGEST_REASON = 4096
"""Bytes of error output that are looked at."""


class Files:
    """`sandbox.files`."""

    def __init__(self, held: Held) -> None:
        self._backend = held.backend
        self._ref = held.ref
        self._limits = held.limits

    async def read(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a regular file, at most 64 MiB at once."""
        if offset < 0 or (length is not None and length < 0):
            raise InvalidRequest("offset and length must not be negative", hint="leave them out to read the whole file")
        return await self._backend.read(self._ref, absolute(path), offset=offset, length=length)

    async def read_text(self, path: str) -> str:
        """A whole file as UTF-8; other bytes appear as U+FFFD."""
        return (await self.read(path)).decode("utf-8", "replace")

    async def read_lines(self, path: str, start: int = 1, end: int | None = None) -> list[str]:
        """Lines `start` to `end`, counted from 1, both included, with their line ends."""
        if start < 1 or (end is not None and end < start):
            raise InvalidRequest(f"not a range of lines: {start} to {end}", hint="lines count from 1, start before end")
        text = await self.read_text(path)
        return text.splitlines(keepends=True)[start - 1 : end]

    async def write(self, path: str, data: bytes | str, *, mode: int | None = None) -> None:
        """Replace a file atomically, making missing directories. An existing file keeps its mode unless given one."""
        raw = encode_text(data, "the content") if isinstance(data, str) else data
        await self._backend.write(self._ref, absolute(path), raw, mode=mode)

    async def stat(self, path: str) -> FileStat:
        """`lstat` of one path. `NotFound` when there is none."""
        raw = await self._builtin(path, "stat", absolute(path))
        for found in _records(raw):
            return found
        raise NotFound(f"no such file: {path}", hint="list its directory", path=path)

    async def exists(self, path: str) -> bool:
        """Whether something is there, a dangling link included."""
        try:
            await self.stat(path)
        except NotFound:
            return False
        return True

    async def list(self, path: str = ".", *, depth: int = 1, limit: int = _LONGEST_LIST) -> list[FileStat]:
        """Entries below a directory, `depth` levels of them, sorted by path."""
        raw = await self._builtin(path, "list", absolute(path), str(depth), str(limit))
        return sorted(_records(raw), key=lambda entry: entry.path)

    async def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        """Make a directory and its parents; an existing one is fine."""
        await self._builtin(path, "mkdir", absolute(path), f"{mode:o}", "1")

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, or with `recursive` a tree."""
        await self._builtin(path, "remove", absolute(path), "1" if recursive else "0")

    async def rename(self, old: str, new: str) -> None:
        """Rename, replacing what is at `new`."""
        await self._builtin(old, "rename", absolute(old), absolute(new))

    @asynccontextmanager
    async def watch(self, path: str = ".", *, recursive: bool = True) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Changes below a directory, from now on until the scope is left or the directory is gone.

        None is left out without a word: an `overflow` says that some were missed, and a watch that is cut short raises
        `LimitExceeded` or `Conflict`.
        """
        watching = ExecRequest(argv=("watch", absolute(path), "1" if recursive else "0"), builtin=True, stdin=True)
        process = await self._backend.exec(self._ref, lasting(watching, self._limits))
        try:
            events = _events(process, path)
            await anext(events)  # the first one says that everything is watched
            yield events
        finally:
            await end(process)

    async def _builtin(self, path: str, *argv: str) -> bytes:
        request = ExecRequest(argv=argv, builtin=True, output_bytes=_LONGEST_OUTPUT)
        done = await finish(await self._backend.exec(self._ref, request), None)
        if done.exit.truncated:
            raise LimitExceeded(
                f"{path}: more entries than fit in one answer", hint="list fewer levels, or set a limit"
            )
        if not done.ok:
            raise builtin_error(path, done.stderr)
        return done.stdout


def absolute(path: str) -> str:
    """The guest's absolute spelling of `path`; `..` stays for the guest's kernel to resolve."""
    if not path or "\0" in path:
        raise InvalidRequest("an empty path, or one with a NUL byte", hint="name a file")
    encode_text(path, "the path")
    return posixpath.join(WORKSPACE, path)


_TYPES = {
    b"f": FileType.FILE,
    b"d": FileType.DIRECTORY,
    b"l": FileType.SYMLINK,
    b"p": FileType.FIFO,
    b"s": FileType.SOCKET,
    b"c": FileType.DEVICE,
    b"b": FileType.DEVICE,
}


_RECORD = re.compile(rb"([fdlpscb]) ([0-7]+) (\d+) (-?\d+) (\d+) ")
_LINK = re.compile(rb" (\d+) ")
_EVENT = re.compile(rb"(ready|created|modified|deleted|moved|overflow) (\d+) ")


def _records(raw: bytes) -> Iterator[FileStat]:
    """The records of `stat` and `list`; names may hold any byte, so each is counted."""
    at = 0
    while at < len(raw):
        head = _match(_RECORD, raw, at)
        at = head.end() + int(head[5])
        name, target = raw[head.end() : at], None
        if head[1] == b"l":
            link = _match(_LINK, raw, at)
            at = link.end() + int(link[1])
            target = os.fsdecode(raw[link.end() : at])
        at += 1
        yield FileStat(
            path=os.fsdecode(name),
            type=_TYPES[head[1]],
            mode=int(head[2], 8),
            size=int(head[3]),
            mtime=int(head[4]) / 1e9,
            target=target,
        )


async def _events(process: Process, path: str) -> AsyncIterator[WatchEvent]:
    raw = said = b""
    async for chunk in process:
        if chunk.stream is OutputStream.STDERR:
            said = (said + chunk.data)[:_LONGEST_REASON]
            continue
        raw += chunk.data
        while (head := _EVENT.match(raw)) and len(raw) > head.end() + int(head[2]):
            name_end = head.end() + int(head[2])
            yield WatchEvent(event=head[1].decode(), path=os.fsdecode(raw[head.end() : name_end]))
            raw = raw[name_end + 1 :]
    ended = await process.wait()
    if ended.signal is not None:
        raise _cut_short(path, ended)
    if not ended.ok:
        raise builtin_error(path, said)


def _cut_short(path: str, ended: Exit) -> LimitExceeded | Conflict:
    hint = "watch again, and look at everything once: some changes may have been missed"
    limits = {"sandbox_seconds": ended.timed_out, "memory_bytes": ended.oom, "disk_bytes": ended.disk_full}
    for limit in (name for name, passed in limits.items() if passed):
        return LimitExceeded(f"the watch of {path} ended with a limit of its sandbox", hint=hint, limit=limit)
    return Conflict(f"the watch of {path} was ended by signal {ended.signal}", hint=hint, path=path)


def _match(pattern: re.Pattern[bytes], raw: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(raw, at)
    if found is None:
        raise BackendUnavailable("guestd answered nonsense", hint="make a new sandbox: this one cannot be trusted")
    return found
