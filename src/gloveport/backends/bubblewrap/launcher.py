"""Starting bubblewrap: the one place of this backend where a process of the host begins."""

from __future__ import annotations

import contextlib
import json
import os
import select
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
    writable: bool = False


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
            option = "--stage-writable" if stage.writable else "--stage"
            command += [option, stage.source, stage.target, owner, group]
        for descriptor in self.keep:
            command += ["--keep-fd", str(descriptor)]
        return [*command, "--", *self.argv]


class Launched:
    """A started bubblewrap: its outer process, and guestd, the guest's first process, on the host."""

    def __init__(self, outer: subprocess.Popen[bytes], info: int) -> None:
        self.last_words = ""
        """What bubblewrap or the launcher wrote on stderr, known once it is reaped."""
        self._outer = outer
        self._info = info
        self._said = ""
        self._handles = [os.pidfd_open(outer.pid)]
        self._guestd: int | None = None
        self._reaped = False
        self._mounts: int | None = None

    @property
    def status(self) -> int | None:
        """The outer process's exit status, known once it is reaped."""
        return self._outer.returncode

    def find_guestd(self) -> None:
        """Get hold of guestd itself, once bubblewrap has said its number: the outer process may be killed apart.

        A number that another process has by then is passed over.
        """
        try:
            self._said += _read_now(self._info)  # bubblewrap writes it in pieces
            said = json.loads(self._said)
            pid, namespace = int(said["child-pid"]), int(said["pid-namespace"])
            handle = os.pidfd_open(pid)
        except (OSError, ValueError, KeyError, TypeError):
            return
        if _is_in_namespace(pid, namespace) and not _has_ended(handle):
            self._handles.append(handle)
            self._guestd = pid
        else:
            os.close(handle)

    def open_proc(self) -> int | None:
        """A new descriptor of the guest's own `/proc`, which lists its processes and no other; `None` once it ended."""
        return self._open("root/proc")

    def open_root(self) -> int | None:
        """A new descriptor of the guest's root directory; `None` once it ended."""
        return self._open("root")

    def hold_mounts(self) -> None:
        """Keep the guest's mounts when its processes are gone: taking them down waits for the disk under them."""
        if self._guestd is None or self._reaped or self._mounts is not None:
            return
        with contextlib.suppress(OSError):
            self._mounts = os.open(f"/proc/{self._guestd}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def let_go_of_mounts(self) -> None:
        """Have the kernel take them down, which may take a while. Idempotent."""
        mounts, self._mounts = self._mounts, None
        if mounts is not None:
            os.close(mounts)

    async def begun(self) -> None:
        """Wait until bubblewrap has forked the process that mounts and becomes guestd, or has ended."""
        await anyio.wait_readable(self._info)

    async def gone(self) -> None:
        """Wait until guestd has ended, which it has when every process of the guest is dead, and none before."""
        if not self._reaped:
            await anyio.wait_readable(self._handles[-1])

    async def reap(self) -> None:
        """Wait until bubblewrap and guestd, and with it every process of the guest, are gone. Idempotent.

        What has not ended by itself after a few seconds is killed.
        """
        if self._reaped:
            return
        if self._guestd is None:
            self.find_guestd()
        try:
            with anyio.CancelScope(shield=True):
                await self._wait()
        finally:
            self._free()

    async def _wait(self) -> None:
        for force in (False, True):
            if force:
                if self._guestd is None:
                    self.find_guestd()
                self._kill()
            with anyio.move_on_after(_REAP_SECONDS) as patience:
                for handle in self._handles:
                    await anyio.wait_readable(handle)
            if not patience.cancelled_caught:
                break

    def _free(self) -> None:
        self._reaped = True
        self.let_go_of_mounts()
        self._outer.poll()
        for descriptor in (*self._handles, self._info):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if self._outer.stderr is not None:
            self.last_words = _read_now(self._outer.stderr.fileno())
            self._outer.stderr.close()

    def _open(self, where: str) -> int | None:
        if self._guestd is None or self._reaped:
            return None
        try:
            opened = os.open(f"/proc/{self._guestd}/{where}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        if _has_ended(self._handles[1]):  # the number may be another process's
            os.close(opened)
            return None
        return opened

    def _kill(self) -> None:
        for handle in self._handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)


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


def _is_in_namespace(pid: int, namespace: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino == namespace
    except OSError:
        return False


def _has_ended(handle: int) -> bool:
    poll = select.poll()  # `select.select` takes no descriptor from 1024 on
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def _read_now(descriptor: int) -> str:
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, _LAST_WORDS).decode("utf-8", "replace").strip()
    except OSError:
        return ""
