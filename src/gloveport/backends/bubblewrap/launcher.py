"""Starting bubblewrap: the one place of this backend where a process of the host begins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from gloveport.errors import BackendUnavailable

__all__ = ["IDMAP_UNSUPPORTED", "Launch", "Launched", "Stage", "launch"]

IDMAP_UNSUPPORTED = 124
"""The launcher's exit status when this file system cannot be shown with other owners."""
_LAST_WORDS = 4096
_REAP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A host path that the launcher, as root, shows at `target` before it becomes the sandbox's user."""

    source: str
    target: str
    owner: tuple[int, int] | None = None
    """The uid and gid that appear as the sandbox's user; `None` shows owners as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start one sandbox's bubblewrap."""

    launcher: str
    argv: Sequence[str]
    user: tuple[int, int] | None
    """Whom root becomes; `None` stays the caller."""
    cgroups: Sequence[str] = ()
    stages: Sequence[Stage] = ()
    keep: Sequence[int] = ()
    """Descriptors that bubblewrap inherits."""

    def command(self) -> list[str]:
        """The launcher's whole command line."""
        command = [self.launcher]
        if self.user is not None:
            command += ["--uid", str(self.user[0]), "--gid", str(self.user[1])]
        for directory in self.cgroups:
            command += ["--cgroup", directory]
        for stage in self.stages:
            owner, group = ("-", "-") if stage.owner is None else map(str, stage.owner)
            command += ["--stage", stage.source, stage.target, owner, group]
        for descriptor in self.keep:
            command += ["--keep-fd", str(descriptor)]
        return [*command, "--", *self.argv]


class Launched:
    """A started bubblewrap: its outer process, and the guest's first process on the host."""

    def __init__(self, outer: subprocess.Popen[bytes], info: int) -> None:
        self.last_words = ""
        """What bubblewrap or the launcher wrote on stderr, known once it is reaped."""
        self._outer = outer
        self._info = info
        self._pidfd: int | None = os.pidfd_open(outer.pid)

    def first_process(self) -> int | None:
        """The host's number for the guest's first process, once bubblewrap has said it."""
        try:
            said = json.loads(os.read(self._info, _LAST_WORDS))
            return int(said["child-pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def status(self) -> int | None:
        """The outer process's exit status, known once it is reaped."""
        return self._outer.returncode

    async def reap(self, first: int | None) -> None:
        """Wait for the end, forcing it after a few seconds. Idempotent."""
        if self._pidfd is None:
            return
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_REAP_SECONDS) as patience:
                await anyio.wait_readable(self._pidfd)
            if patience.cancelled_caught:
                for pid in (first, self._outer.pid):
                    if pid is not None:
                        _kill(pid)
                with anyio.move_on_after(_REAP_SECONDS):
                    await anyio.wait_readable(self._pidfd)
        self._outer.poll()
        pidfd, self._pidfd = self._pidfd, None
        os.close(pidfd)
        os.close(self._info)
        if self._outer.stderr is not None:
            self.last_words = _read_now(self._outer.stderr.fileno())
            self._outer.stderr.close()


def launch(request: Launch, info: int) -> Launched:
    """Start the launcher with an empty environment; the result keeps `info`, the read end of `--info-fd`."""
    try:
        outer = subprocess.Popen(
            request.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            pass_fds=tuple(request.keep),
        )
    except OSError as error:
        raise BackendUnavailable(
            f"cannot start {request.launcher}: {error.strerror}", hint="see: gloveport doctor"
        ) from error
    return Launched(outer, info)


def _read_now(descriptor: int) -> str:
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, _LAST_WORDS).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
