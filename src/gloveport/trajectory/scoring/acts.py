"""What a recorded tool call was: a command, an edit or a look at a file, and whether it went well."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from gloveport.model import WORKSPACE
from gloveport.trajectory.caches import CACHES
from gloveport.trajectory.steps import Step

__all__ = [
    "command_of",
    "failed",
    "has_succeeded",
    "is_creation",
    "is_edit",
    "left_changes",
    "named_in",
    "path_of",
    "spellings",
    "writes",
]

_LONGEST_COMMAND = 100_000
"""Characters: what is beyond is not looked at."""
_WRITERS = frozenset({"Edit", "MultiEdit", "NotebookEdit", "Write", "file_write"})
_EDITORS = frozenset({"str_replace_based_edit_tool", "str_replace_editor"})
"""Of which a parameter `command` is a word of their own, and no command line."""
_EDITING = frozenset({"create", "insert", "str_replace"})
_PATHS = ("file_path", "path", "notebook_path")
_CREATED = "File created successfully"
_WORD = re.compile(r"[^\s'\"`;|&<>()$=,:]+")


def command_of(step: Step) -> str:
    """The command line that it ran; empty where it ran none."""
    if step.tool == "git":
        words = (step.params.get("subcommand"), step.params.get("args"))
        return " ".join(("git", *(word for word in words if isinstance(word, str))))[:_LONGEST_COMMAND]
    command = step.params.get("command")
    if step.tool in _EDITORS or not isinstance(command, str):
        return ""
    return command[:_LONGEST_COMMAND]


def failed(step: Step) -> bool | None:
    """Whether it ended as an error; `None` where the record does not say."""
    if step.refused:
        return True
    if step.outcome is None:
        return None
    if step.outcome.is_error is not None:
        return step.outcome.is_error
    return None if step.outcome.status is None else step.outcome.status != 0


def has_succeeded(step: Step) -> bool:
    """Whether its command is known to have ended with status 0: what goes on in the background is not."""
    if step.refused or step.outcome is None or step.params.get("run_in_background"):
        return False
    return step.outcome.status == 0 if step.outcome.status is not None else failed(step) is False


def writes(step: Step) -> bool:
    """Whether it is a call of a tool that writes a file, whatever came of it."""
    return step.tool in _WRITERS or (step.tool in _EDITORS and str(step.params.get("command")) in _EDITING)


def is_edit(step: Step) -> bool:
    """Whether it is such a call, and is not known to have failed."""
    return writes(step) and not failed(step)


def is_creation(step: Step) -> bool:
    """Whether an edit says that the file was not there before."""
    return step.outcome is not None and (step.outcome.text or "").startswith(_CREATED)


def left_changes(step: Step) -> bool:
    """Whether it is recorded that it changed files, caches apart."""
    return step.outcome is not None and any(not CACHES.search(path) for path in step.outcome.changed)


def path_of(step: Step) -> str:
    """The whole path of the file that it names as a parameter; empty where it names none."""
    named = next((path for name in _PATHS if isinstance(path := step.params.get(name), str) and path), "")
    return _whole(named) if named else ""


def named_in(command: str) -> Iterator[str]:
    """What may be a file in a command line: each of its words, as `spellings` has them."""
    for word in set(_WORD.findall(command)):
        yield posixpath.normpath(word) if "./" in word or "//" in word else word


def spellings(path: str) -> set[str]:
    """How a command may name a whole path: so, from the workspace, or by its bare name in whatever directory it is."""
    return {path, path.removeprefix(f"{WORKSPACE}/"), posixpath.basename(path)}


def _whole(path: str) -> str:
    return posixpath.normpath(posixpath.join(WORKSPACE, path))
