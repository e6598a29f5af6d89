"""What was said in a session, kept on the host while it goes on, so that it can be resumed in another jail."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from claude_agent_sdk import SessionKey, SessionStoreEntry

from gloveport.agents.bounds import Breach
from gloveport.errors import InvalidRequest, NotFound
from gloveport.model import MIB
from gloveport.store import MASK, make_private

__all__ = ["SessionFiles"]

_SESSION = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MOST_SESSIONS = 8
_MOST_BYTES = 512 * MIB


class SessionFiles:
    """One file of JSON lines a session, 0600, below a private directory: a `SessionStore` of the Agent SDK.

    A file holds all that was said, because that is what resuming needs; only `secret` is masked. What is appended comes
    from the command line: to a bounded number of sessions that it began or that were read before, and bounded in all.
    """

    def __init__(self, directory: Path, *, secret: str = "", most_bytes: int = _MOST_BYTES) -> None:
        self._directory = make_private(directory)
        self._secret = json.dumps(secret)[1:-1]
        self._bytes_left = most_bytes
        self._known: set[str] = set()
        self.on_breach: Callable[[Breach], None] | None = None
        """Told when entries are refused: they are left out, because the SDK would only try again."""

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Add entries at the end. Side conversations are left out: there are no subagents to have any."""
        session = key["session_id"]
        if "subpath" in key or not _SESSION.fullmatch(session):
            return
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        if self._secret:
            lines = lines.replace(self._secret, MASK)
        try:
            self._spend(session, len(lines))
            self._write(session, lines)
        except Breach as breach:
            if self.on_breach is not None:
                self.on_breach(breach)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """The entries of a session, or `None`."""
        try:
            lines = self.read(key["session_id"]).splitlines()
        except NotFound:
            return None
        return [json.loads(line) for line in lines]

    def read(self, session: str) -> bytes:
        """A session's file. `InvalidRequest` for what is no session id, `NotFound` for an unknown one."""
        if not _SESSION.fullmatch(session):
            raise InvalidRequest(f"not a session id: {session!r}", hint="it is the `session` of an earlier run")
        try:
            data = self._path(session).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"no session {session}", hint="what was said in it is not on this machine") from error
        self._known.add(session)
        return data

    def _spend(self, session: str, size: int) -> None:
        if size > self._bytes_left:
            raise Breach("wrote a longer transcript than is kept")
        if session not in self._known and len(self._known) >= _MOST_SESSIONS:
            raise Breach(f"began more than {_MOST_SESSIONS} sessions")
        self._bytes_left -= size

    def _write(self, session: str, lines: str) -> None:
        how = os.O_APPEND if session in self._known else os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(self._path(session), os.O_WRONLY | os.O_CLOEXEC | how, 0o600)
        except FileExistsError as error:
            raise Breach("went on with a session that is not its own") from error
        self._known.add(session)
        with os.fdopen(descriptor, "w") as file:
            file.write(lines)

    def _path(self, session: str) -> Path:
        return self._directory / f"{session}.jsonl"
