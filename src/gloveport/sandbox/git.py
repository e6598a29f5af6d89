"""Git in a workspace: always run in the guest, because a repository can make git run what it likes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import anyio

from gloveport.backends.base import Backend, ChangeSet
from gloveport.errors import BackendUnavailable, InvalidRequest, NotFound
from gloveport.model import Change, ExecRequest, ExecResult, Ref
from gloveport.sandbox.finish import finish

__all__ = ["Git", "keep_unignored"]

_QUIET = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
}
_NOT_A_REPOSITORY = 128
_NONE_IGNORED = 1
_ASK_SECONDS = 10.0
"""How long git in the guest may take to say what is ignored: its settings can make it read a pipe nobody writes to."""


class Git:
    """`sandbox.git`."""

    def __init__(self, backend: Backend, ref: Ref) -> None:
        self._backend = backend
        self._ref = ref

    async def exec(self, arguments: Sequence[str], *, input: bytes | None = None) -> ExecResult:  # noqa: A002
        """`git ARGUMENTS` in the workspace; a failure of git is a result."""
        return await _git(self._backend, self._ref, arguments, input)

    async def status(self) -> str:
        """`git status --short --branch`."""
        return await self._text(["status", "--short", "--branch"])

    async def diff(self, *revisions: str) -> str:
        """`git diff`, in colourless text."""
        return await self._text(["diff", "--no-color", "--no-ext-diff", *revisions])

    async def log(self, count: int = 20) -> str:
        """The last commits, one a line."""
        return await self._text(["log", "--oneline", "--no-color", f"--max-count={count}"])

    async def _text(self, arguments: Sequence[str]) -> str:
        done = await self.exec(arguments)
        if done.ok:
            return done.text
        said = done.stderr.decode("utf-8", "replace").strip()
        if done.exit.status == _NOT_A_REPOSITORY and "not a git repository" in said:
            raise NotFound("the workspace is not a Git repository", hint="start it from one with --repo")
        if done.exit.status in (126, 127):
            raise NotFound("git is not in this sandbox", hint="install git on this host: apt-get install git")
        raise InvalidRequest(f"git {arguments[0]} failed: {said[-500:]}", hint="check the revision's name")


async def keep_unignored(backend: Backend, ref: Ref, found: ChangeSet) -> ChangeSet:
    """`found` without the paths that the workspace's Git ignores.

    All of `found` where nobody answers: without git, without a repository, in a sandbox that has ended, or when git
    takes longer than 10 seconds.
    A hijacked guest can make git say anything here; then its changes are missing from the patch, which hurts nobody.
    """
    if not found.changes:
        return found
    paths = b"".join(os.fsencode(change.path) + b"\0" for change in found.changes)
    done: ExecResult | None = None
    # Timed on the host: nothing in the guest can make it longer.
    with anyio.move_on_after(_ASK_SECONDS), suppress(BackendUnavailable):
        done = await _git(backend, ref, ["check-ignore", "-z", "--stdin"], paths, shown_as="")
    if done is None or done.exit.status not in (0, _NONE_IGNORED):
        return found
    ignored = {os.fsdecode(path) for path in done.stdout.split(b"\0") if path}
    return _Kept([change for change in found.changes if change.path not in ignored], found)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Some of another change set's changes."""

    changes: Sequence[Change]
    whole: ChangeSet

    @property
    def skipped(self) -> Sequence[str]:
        return self.whole.skipped

    def before(self, change: Change) -> BinaryIO:
        return self.whole.before(change)

    def after(self, change: Change) -> BinaryIO:
        return self.whole.after(change)


async def _git(
    backend: Backend, ref: Ref, arguments: Sequence[str], data: bytes | None, shown_as: str | None = None
) -> ExecResult:
    request = ExecRequest(argv=("git", *arguments), env=_QUIET, stdin=data is not None, shown_as=shown_as)
    process = await backend.exec(ref, request)
    return await finish(process, data)
