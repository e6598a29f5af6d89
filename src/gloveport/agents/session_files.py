"""What was said in a session, kept on the host while it goes on, so that it can be resumed in another jail."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from claude_agent_sdk import SessionKey, SessionStoreEntry

from gloveport.errors import InvalidRequest, NotFound
from gloveport.store import make_private

__all__ = ["SessionFiles"]

_SESSION = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SessionFiles:
    """One file of JSON lines a session, 0600, below a private directory: a `SessionStore` of the Agent SDK.

    A file holds all that was said, unredacted: that is what resuming needs.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = make_private(directory)

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Add entries at the end. Side conversations are left out: there are no subagents to have any."""
        if "subpath" in key or not _SESSION.fullmatch(key["session_id"]):
            return
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path(key["session_id"]), flags, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(lines)

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
            return self._path(session).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"no session {session}", hint="what was said in it is not on this machine") from error

    def _path(self, session: str) -> Path:
        return self._directory / f"{session}.jsonl"
