"""Unix sockets below a directory: whoever can see one can speak to the service of the host behind it."""

from __future__ import annotations

import os
import stat
from typing import Final

from gloveport.errors import PolicyDenied

__all__ = ["MOST_ENTRIES", "check_no_socket", "find_socket"]

MOST_ENTRIES: Final = 20_000
"""How many entries of a directory are looked at, which takes some 20 ms: a look, and no wall."""


def find_socket(directory: str, most: int = MOST_ENTRIES) -> str | None:
    """A socket among the first `most` entries below `directory`; links are not followed."""
    pending, seen = [directory], 0
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    seen += 1
                    if seen > most:
                        return None
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif not entry.is_file(follow_symlinks=False) and _is_socket(entry):
                        return entry.path
        except OSError:
            continue  # what this user cannot list, a guest of theirs cannot either
    return None


def check_no_socket(path: str) -> None:
    """Raise `PolicyDenied` where a socket is found below a host path that somebody names."""
    found = find_socket(os.path.realpath(path))
    if found is not None:
        raise PolicyDenied(
            f"{path} is never shown to a sandbox: a service of this host listens, or listened, at {found}",
            hint="stop it and remove its socket, or name the directories that the sandbox needs",
            rule="built-in: no sockets",
            path=path,
        )


def _is_socket(entry: os.DirEntry[str]) -> bool:
    return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
