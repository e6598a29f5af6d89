"""The default backend: one long-lived bubblewrap sandbox a `create`, with guestd as its first process."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.to_thread

from gloveport.backends.base import BackendBase, ChangeSet, Process, builtin_error
from gloveport.backends.bubblewrap.cgroups import Cgroups, SandboxCgroup, find_cgroups
from gloveport.backends.bubblewrap.changes import CopyChanges, OverlayChanges
from gloveport.backends.bubblewrap.helpers import Helpers, install_helpers
from gloveport.backends.bubblewrap.launcher import IDMAP_UNSUPPORTED, Launch, Launched, launch
from gloveport.backends.bubblewrap.place import Place, Record, find_places, make_place, sweep
from gloveport.backends.bubblewrap.probe import probe_host
from gloveport.backends.bubblewrap.render import Places, render
from gloveport.backends.bubblewrap.watch import Watch
from gloveport.backends.bubblewrap.workspace import Workspace, prepare_workspace, stages_for
from gloveport.errors import (
    BackendUnavailable,
    LimitExceeded,
    NotFound,
    Unsupported,
)
from gloveport.guest.channel import CREDIT, Channel, GuestProcess
from gloveport.guest.wire import Start
from gloveport.model import (
    MIB,
    Assembled,
    ExecRequest,
    OutputStream,
    Plan,
    Probe,
    Ref,
    SandboxState,
    SandboxStatus,
)
from gloveport.store import make_private, remove_tree

__all__ = ["LARGEST_READ", "BubblewrapBackend"]

LARGEST_READ = 64 * MIB
"""Bytes that one `read` returns at most."""
_START_SECONDS = 20.0
_KEEP_EVERYTHING = 2**63 - 1


@dataclass(slots=True)
class _Sandbox:
    """What this process holds of one sandbox."""

    plan: Plan
    place: Place
    workspace: Workspace
    cgroup: SandboxCgroup | None
    launched: Launched
    channel: Channel
    first_process: int | None
    created_at: float
    state: SandboxState = SandboxState.RUNNING
    reason: str = ""
    watch: Watch | None = None


class BubblewrapBackend(BackendBase):
    """Sandboxes made of Linux namespaces by bubblewrap; works for ordinary users and for root, without a daemon.

    `state` is a directory of this installation. Sandboxes live as long as this object's scope; what another process that died
    left behind is removed when the scope is entered.
    """

    name = "bubblewrap"

    def __init__(self, state: Path) -> None:
        self._state = state
        self._sandboxes: dict[str, _Sandbox] = {}
        self._cgroups = Cgroups(version=2, roots={})
        self._helpers: Helpers | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        make_private(self._state, mode=0o711)
        self._cgroups = find_cgroups()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(anyio.to_thread.run_sync, self.sweep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            for sandbox in list(self._sandboxes):
                await self.delete(Ref(id=sandbox, backend=self.name))
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            # Told of no error, the group wraps none: what the caller raised passes as it is.
            await tasks.__aexit__(None, None, None)

    def sweep(self) -> list[str]:
        """Remove what owners that died left behind; the ids of their sandboxes."""
        swept = sweep(self._state)
        self._cgroups.sweep(frozenset(name for name, _ in find_places(self._state)))
        return swept

    def probe(self) -> Probe:
        """Look at this host; starts one empty sandbox for a moment."""
        return probe_host(self.name, self._cgroups if self._cgroups.roots else find_cgroups())

    async def create(self, plan: Plan) -> Ref:
        """Make one sandbox: directories, workspace, control group, bubblewrap, guestd's hello."""
        self._check(plan)
        helpers = self._ready_helpers()
        place = make_place(self._state, plan.sandbox)
        try:
            workspace = await prepare_workspace(plan, place)
            sandbox = await self._start(plan, place, helpers, workspace)
        except BaseException:
            self._discard(place)
            raise
        self._sandboxes[plan.sandbox] = sandbox
        sandbox.watch = Watch(plan.limits, sandbox.channel, place.upper, partial(self._expire, sandbox))
        self._group().start_soon(sandbox.watch.run)
        return Ref(id=plan.sandbox, backend=self.name)

    async def status(self, ref: Ref) -> SandboxStatus:
        """What this process holds, or what another one wrote down."""
        sandbox = self._sandboxes.get(ref.id)
        if sandbox is not None:
            return SandboxStatus(
                ref=ref,
                state=sandbox.state,
                reason=sandbox.reason,
                created_at=sandbox.created_at,
                source=sandbox.workspace.source,
                plan_digest=sandbox.plan.digest(),
                processes=len(sandbox.channel.processes),
            )
        for name, record in find_places(self._state):
            if name == ref.id and record is not None:
                return SandboxStatus(
                    ref=ref,
                    state=SandboxState.RUNNING,
                    reason="held by another process",
                    created_at=record.created_at,
                    image=record.image,
                    source=record.source,
                    plan_digest=record.plan_digest,
                )
        raise self._unknown(ref)

    async def refs(self) -> Sequence[Ref]:
        """Every sandbox directory of this installation."""
        return [Ref(id=name, backend=self.name) for name, _ in find_places(self._state)]

    async def exec(self, ref: Ref, request: ExecRequest) -> Process:
        """One message to guestd."""
        return await self._start_process(ref, request)

    async def _start_process(self, ref: Ref, request: ExecRequest) -> GuestProcess:
        sandbox = self._running(ref)
        limits = sandbox.plan.limits
        timeout = request.timeout if request.timeout is not None else limits.exec_seconds
        keep = request.output_bytes if request.output_bytes is not None else limits.output_bytes
        env = {**sandbox.plan.env, **request.env}
        start = Start(
            argv=tuple(os.fsencode(part) for part in request.argv),
            cwd=os.fsencode(request.cwd),
            env=tuple(os.fsencode(f"{name}={value}") for name, value in env.items()),
            terminal=(request.terminal.rows, request.terminal.columns) if request.terminal else None,
            stdin=request.stdin or request.terminal is not None,
            builtin=request.builtin,
            credit=CREDIT,
            keep=keep,
            timeout_ms=max(1, round(timeout * 1000)),
        )
        return await sandbox.channel.start(start)

    async def read(self, ref: Ref, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """guestd reads, as the guest's user, in the guest's view."""
        wanted = LARGEST_READ + 1 if length is None else min(length, LARGEST_READ + 1)
        data = await self._builtin(ref, path, "read", path, str(offset), str(wanted))
        if len(data) > LARGEST_READ:
            raise LimitExceeded(
                f"{path} is larger than {LARGEST_READ // MIB} MiB", hint="read it in parts: give an offset and a length"
            )
        return data

    async def write(self, ref: Ref, path: str, data: bytes, *, mode: int | None = None) -> None:
        """guestd writes beside the file and renames."""
        text = "-" if mode is None else f"{mode:o}"
        await self._builtin(ref, path, "write", path, text, "1", stdin=data)

    async def delete(self, ref: Ref) -> None:
        """End guestd, and with it every process; free the directories."""
        sandbox = self._sandboxes.get(ref.id)
        if sandbox is None:
            return
        with anyio.CancelScope(shield=True):
            await self._end(sandbox)
            self._sandboxes.pop(ref.id, None)
            self._discard(sandbox.place)

    async def changes(self, ref: Ref) -> ChangeSet:
        """Read the workspace's upper layer on the host; works for a failed or stopped sandbox too."""
        sandbox = self._known(ref)
        work = sandbox.workspace
        if work.copied:
            return await anyio.to_thread.run_sync(CopyChanges, work.original, sandbox.place.upper)
        return await anyio.to_thread.run_sync(OverlayChanges, work.original, sandbox.place.upper)

    def _check(self, plan: Plan) -> None:
        if plan.network != "none":
            raise Unsupported(f"no network {plan.network!r} yet", hint="leave the network out", capability="egress")
        if plan.seccomp != "standard":
            raise Unsupported(f"no system-call filter {plan.seccomp!r}", hint="use `standard`")
        if plan.limits.cpus is not None and not self._cgroups.has("cpu"):
            raise Unsupported(
                "this user cannot limit CPU time here: no control group is delegated to it",
                hint="leave --cpu out, run as root, or start gloveport under: systemd-run --user --scope -p Delegate=yes",
                limit="cpus",
            )

    async def _start(self, plan: Plan, place: Place, helpers: Helpers, workspace: Workspace) -> _Sandbox:
        cgroup = self._make_cgroup(plan)
        launched: Launched | None = None
        channel: Channel | None = None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            info = os.pipe()
            seccomp = os.open(helpers.seccomp, os.O_RDONLY | os.O_CLOEXEC)
            try:
                places = Places(
                    bwrap=helpers.bwrap,
                    guestd=helpers.guestd,
                    assembled={m.target: helpers.assemble(m) for m in plan.mounts if isinstance(m, Assembled)},
                    upper=str(place.upper),
                    work=str(place.work),
                    lower=workspace.lower,
                    copied=workspace.copied,
                    staged=workspace.staged,
                    control_fd=theirs.fileno(),
                    seccomp_fd=seccomp,
                    info_fd=info[1],
                    guestd_memory=0 if self._cgroups.has("memory") else plan.limits.memory_bytes,
                )
                request = Launch(
                    launcher=helpers.launch,
                    argv=render(plan, places),
                    user=(place.user.uid, place.user.gid) if os.geteuid() == 0 else None,
                    cgroups=[str(directory) for directory in cgroup.directories] if cgroup else [],
                    stages=stages_for(workspace),
                    keep=(theirs.fileno(), seccomp, info[1]),
                )
                launched = launch(request, [theirs], info)
            finally:
                os.close(seccomp)
            channel = Channel(ours)
            sandbox = _Sandbox(
                plan=plan,
                place=place,
                workspace=workspace,
                cgroup=cgroup,
                launched=launched,
                channel=channel,
                first_process=None,
                created_at=time.time(),
            )
            self._group().start_soon(channel.run, partial(self._lost, sandbox))
            with anyio.fail_after(_START_SECONDS):
                await channel.ready()
            sandbox.first_process = launched.first_process()
            place.record(
                Record(
                    id=plan.sandbox,
                    created_at=sandbox.created_at,
                    plan_digest=plan.digest(),
                    image="host",
                    source=workspace.source,
                )
            )
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                if channel is not None:
                    channel.close()
                status = await launched.reap(None) if launched is not None else None
                words = launched.last_words() if launched is not None else ""
                if cgroup is not None:
                    cgroup.remove()
            if isinstance(error, BackendUnavailable | TimeoutError):
                raise self._start_failure(words, status) from error
            raise
        return sandbox

    def _start_failure(self, words: str, status: int | None) -> BackendUnavailable:
        if status == IDMAP_UNSUPPORTED:
            return BackendUnavailable(
                f"this file system cannot be shown with other owners: {words}",
                hint="copy the repository to a local file system (ext4, xfs, btrfs)",
            )
        return BackendUnavailable(
            f"bubblewrap did not start: {words or f'exit {status}'}", hint="see what is missing with: gloveport doctor"
        )

    def _make_cgroup(self, plan: Plan) -> SandboxCgroup | None:
        try:
            return self._cgroups.make(plan.sandbox, plan.limits)
        except OSError as error:
            raise BackendUnavailable(
                f"cannot make a control group: {error.strerror} ({error.filename})",
                hint="see how limits are kept here with: gloveport doctor",
            ) from error

    async def _end(self, sandbox: _Sandbox) -> None:
        sandbox.state = SandboxState.STOPPED if sandbox.state is SandboxState.RUNNING else sandbox.state
        if sandbox.watch is not None:
            sandbox.watch.cancel()
        if sandbox.channel.lost is None:
            sandbox.channel.close()
        await sandbox.launched.reap(sandbox.first_process)
        if sandbox.cgroup is not None:
            sandbox.cgroup.remove()

    async def _expire(self, sandbox: _Sandbox) -> None:
        sandbox.state = SandboxState.STOPPED
        sandbox.reason = "timeout"
        await self._end(sandbox)

    def _lost(self, sandbox: _Sandbox, reason: str) -> None:
        if sandbox.state is SandboxState.RUNNING:
            sandbox.state = SandboxState.FAILED
            sandbox.reason = reason

    def _discard(self, place: Place) -> None:
        place.discard()
        if self._tasks is not None:
            self._tasks.start_soon(anyio.to_thread.run_sync, self._empty_trash)

    def _empty_trash(self) -> None:
        trash = self._state / "trash"
        with contextlib.suppress(FileNotFoundError):
            for path in trash.iterdir():
                remove_tree(path)

    async def _builtin(self, ref: Ref, path: str, *argv: str, stdin: bytes | None = None) -> bytes:
        request = ExecRequest(argv=argv, builtin=True, stdin=stdin is not None, output_bytes=_KEEP_EVERYTHING)
        return await _collect(await self._start_process(ref, request), path, stdin)

    def _ready_helpers(self) -> Helpers:
        if self._helpers is None:
            self._helpers = install_helpers(self._state)
        return self._helpers

    def _group(self) -> anyio.abc.TaskGroup:
        if self._tasks is None:
            raise BackendUnavailable("the backend is closed", hint="use it inside `async with`")
        return self._tasks

    def _known(self, ref: Ref) -> _Sandbox:
        sandbox = self._sandboxes.get(ref.id)
        if sandbox is None:
            raise self._unknown(ref)
        return sandbox

    def _running(self, ref: Ref) -> _Sandbox:
        sandbox = self._known(ref)
        if sandbox.state is not SandboxState.RUNNING:
            raise BackendUnavailable(
                f"sandbox {ref.id} has {sandbox.state}: {sandbox.reason}",
                hint=f"its changes are still there (gloveport diff {ref.id}); make a new one, or remove it: gloveport rm {ref.id}",
            )
        return sandbox

    def _unknown(self, ref: Ref) -> NotFound:
        return NotFound(f"no sandbox {ref.id!r}", hint="see what there is with: gloveport list", id=ref.id)


async def _collect(process: GuestProcess, path: str, stdin: bytes | None) -> bytes:
    """A builtin's output, or the error its stderr names."""
    parts: dict[OutputStream, list[bytes]] = {OutputStream.STDOUT: [], OutputStream.STDERR: []}
    try:
        if stdin is not None:
            await process.send(stdin)
            await process.close_stdin()
        async for chunk in process:
            parts[chunk.stream].append(chunk.data)
    except anyio.get_cancelled_exc_class():
        await process.kill()
        raise
    ended = await process.wait()
    if ended.ok:
        return b"".join(parts[OutputStream.STDOUT])
    raise builtin_error(path, b"".join(parts[OutputStream.STDERR]))
