"""The default backend: one long-lived bubblewrap sandbox a `create`, with guestd as its first process."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.to_thread

from gloveport.backends.base import BackendBase, ChangeSet, Process, builtin_error
from gloveport.backends.bubblewrap.cgroups import Cgroups, find_cgroups
from gloveport.backends.bubblewrap.changes import CopyChanges, OverlayChanges
from gloveport.backends.bubblewrap.freezing import freeze, frozen, thaw
from gloveport.backends.bubblewrap.helpers import install_helpers
from gloveport.backends.bubblewrap.lifecycle import Lifecycle, contain
from gloveport.backends.bubblewrap.live import LiveSandbox, Means, encode_env
from gloveport.backends.bubblewrap.place import empty_trash, find_places, sweep
from gloveport.backends.bubblewrap.probe import probe_host
from gloveport.backends.bubblewrap.processors import can_bind
from gloveport.backends.bubblewrap.render import Places, render
from gloveport.backends.bubblewrap.sealing import seal
from gloveport.errors import (
    BackendUnavailable,
    Conflict,
    LimitExceeded,
    NotFound,
    Unsupported,
)
from gloveport.guest.channel import CREDIT, GuestProcess
from gloveport.guest.wire import Start
from gloveport.model import (
    MIB,
    Base,
    ExecRequest,
    OutputStream,
    Overlay,
    Plan,
    Probe,
    Ref,
    SandboxState,
    SandboxStatus,
)
from gloveport.store import Draft, make_private
from gloveport.store.lower import LowerFacts

__all__ = ["LARGEST_READ", "BubblewrapBackend"]

LARGEST_READ = 64 * MIB
"""Bytes that one `read` returns at most."""
_log = logging.getLogger(__name__)
_KEEP_EVERYTHING = 2**63 - 1
_TIDY_SECONDS = 10.0
"""How long the end of the scope waits for the removal of what its sandboxes wrote."""


class BubblewrapBackend(BackendBase):
    """Sandboxes made of Linux namespaces by bubblewrap; works for ordinary users and for root, without a daemon.

    `state` is a directory of this installation. Sandboxes live as long as this object's scope; what another process
    that died left behind is removed when the scope is entered. `render` is bubblewrap's command line for a plan: the
    doctor has another one, which leaves a guard out.
    """

    name = "bubblewrap"

    def __init__(self, state: Path, *, render: Callable[[Plan, Places], list[str]] = render) -> None:
        self._state = state
        self._render = render
        self._sandboxes: dict[str, LiveSandbox] = {}
        self._cgroups = Cgroups(version=2, roots={})
        self._lives: Lifecycle | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        make_private(self._state, mode=0o711)
        self._cgroups = find_cgroups(str(self._state))
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(contain, self._sweep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Each step is taken whatever became of those before it; the last failure is told, the others are its context.
        async with AsyncExitStack() as stack:
            stack.callback(self._cgroups.close)
            stack.push_async_callback(self._end_tasks)
            stack.push_async_callback(self._tidy)
            for sandbox in self._sandboxes:
                stack.push_async_callback(self.delete, Ref(id=sandbox, backend=self.name))

    async def _end_tasks(self) -> None:
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.cancel()  # whatever is left: nobody may wait for ever
            # Told of no error, the group wraps none: what the caller raised passes as it is.
            await tasks.__aexit__(None, None, None)

    async def _tidy(self) -> None:
        """Empty the trash here: a cancelled group starts nothing more. What takes longer is the next sweep's."""
        with anyio.move_on_after(_TIDY_SECONDS, shield=True):
            await anyio.to_thread.run_sync(empty_trash, self._state, abandon_on_cancel=True)

    async def sweep(self) -> None:
        """Remove what owners that died left behind: processes, directories, control groups."""
        await anyio.to_thread.run_sync(self._sweep)

    def _sweep(self) -> None:
        sweep(self._state)
        self._cgroups.sweep(lambda sandbox: (self._state / "sandboxes" / sandbox).exists())

    def probe(self) -> Probe:
        """Look at this host; starts one empty sandbox for a moment."""
        return probe_host(self.name, self._cgroups if self._cgroups.roots else find_cgroups(str(self._state)))

    async def create(self, plan: Plan) -> Ref:
        """Make one sandbox: directories, workspace, control group, bubblewrap, guestd's hello."""
        self._check(plan)
        self._sandboxes[plan.sandbox] = await self._open().create(plan, self._known_of(plan))
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
                layer=str(sandbox.workspace.sealed or ""),
                plan_digest=sandbox.digest,
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
                    layer=record.layer,
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
        while sandbox.thawed is not None:
            await sandbox.thawed.wait()
            sandbox = self._running(ref)
        limits = sandbox.plan.limits
        timeout = request.timeout if request.timeout is not None else limits.exec_seconds
        keep = request.output_bytes if request.output_bytes is not None else limits.output_bytes
        # Most execs have the sandbox's own variables, which are encoded once.
        env = sandbox.env if not request.env else encode_env({**sandbox.plan.env, **request.env})
        start = Start(
            argv=tuple(os.fsencode(part) for part in request.argv),
            cwd=os.fsencode(request.cwd),
            env=env,
            terminal=(request.terminal.rows, request.terminal.columns) if request.terminal else None,
            stdin=request.stdin or request.terminal is not None,
            builtin=request.builtin,
            credit=CREDIT,
            keep=keep,
            timeout_ms=max(1, round(timeout * 1000)),
        )
        return await sandbox.channel.start(start)

    async def read(self, ref: Ref, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Guestd reads, as the guest's user, in the guest's view."""
        wanted = LARGEST_READ + 1 if length is None else min(length, LARGEST_READ + 1)
        data = await self._builtin(ref, path, "read", path, str(offset), str(wanted))
        if len(data) > LARGEST_READ:
            raise LimitExceeded(
                f"{path} is larger than {LARGEST_READ // MIB} MiB",
                hint="read it in parts: give an offset and a length",
            )
        return data

    async def write(self, ref: Ref, path: str, data: bytes, *, mode: int | None = None) -> None:
        """Guestd writes beside the file and renames."""
        text = "-" if mode is None else f"{mode:o}"
        await self._builtin(ref, path, "write", path, text, "1", stdin=data)

    async def delete(self, ref: Ref) -> None:
        """End guestd, and with it every process; free the directories."""
        sandbox = self._sandboxes.get(ref.id)
        if sandbox is None:
            return
        try:
            await self._open().delete(sandbox)
        finally:
            self._sandboxes.pop(ref.id, None)

    async def egress(self, ref: Ref) -> socket.socket:
        """Made by guestd in the guest's network, before any program of the guest ran."""
        listener = self._running(ref).listener
        if listener is None:
            raise NotFound(f"sandbox {ref.id} has no way out", hint="its policy allows no egress", id=ref.id)
        return listener

    async def pause(self, ref: Ref) -> None:
        """Stop every process. Wall times go on, and end what is paused."""
        sandbox = self._running(ref)
        async with sandbox.saving:
            await freeze(self._running(ref))
            sandbox.state = SandboxState.PAUSED

    async def resume(self, ref: Ref) -> None:
        """Let every process go on; nothing where none was stopped."""
        sandbox = self._known(ref)
        async with sandbox.saving:
            if sandbox.state is SandboxState.PAUSED:
                sandbox.state = SandboxState.RUNNING
                await thaw(sandbox)

    async def snapshot(self, ref: Ref, draft: Draft) -> Base:
        """Copy the workspace's upper layer, `/tmp` and home, while nothing of the guest runs."""
        sandbox = self._known(ref)
        if sandbox.state is not SandboxState.PAUSED:
            self._running(ref)
        async with frozen(sandbox):
            return await seal(sandbox, draft)

    async def reset(self, ref: Ref, plan: Plan) -> None:
        """End everything in the sandbox, and start it anew by `plan`, under the same id.

        Where nothing new can be prepared it goes on as it was; where that cannot start, the sandbox has failed, and
        its workspace is still there.
        """
        sandbox = self._known(ref)
        self._check(plan)
        self._sandboxes[ref.id] = await self._open().reset(sandbox, plan)

    async def changes(self, ref: Ref) -> ChangeSet:
        """Read the workspace's upper layer on the host; works for a failed or stopped sandbox too."""
        sandbox = self._known(ref)
        work = sandbox.workspace
        if work.copied_at is not None:
            return await anyio.to_thread.run_sync(CopyChanges, work.original, sandbox.place.upper, work.copied_at)
        trees = (sandbox.place.upper, *((work.sealed,) if work.sealed is not None else ()))
        scan = partial(OverlayChanges, work.original, trees, is_covered=work.is_covered)
        return await anyio.to_thread.run_sync(scan)

    def _known_of(self, plan: Plan) -> LowerFacts | None:
        """What is known of the plan's source from the sandbox that it is to stand beside."""
        overlay = next(mount for mount in plan.mounts if isinstance(mount, Overlay))
        beside = self._sandboxes.get(overlay.beside)
        return beside.workspace.facts if beside is not None and beside.workspace.source == overlay.lower else None

    def _check(self, plan: Plan) -> None:
        if plan.network not in ("none", "proxy"):
            raise Unsupported(f"no network {plan.network!r}", hint="`none` or `proxy`", capability="egress")
        if plan.seccomp != "standard":
            raise Unsupported(f"no system-call filter {plan.seccomp!r}", hint="use `standard`")
        cpus = plan.limits.cpus
        if cpus is not None and not self._cgroups.has("cpu") and not can_bind(cpus):
            raise Unsupported(
                "this user can bind a sandbox to whole CPUs and to no part of one: no control group is delegated to it",
                hint="ask for 1 CPU, run as root, or start it under: systemd-run --user --scope -p Delegate=yes",
                limit="cpus",
            )

    def _open(self) -> Lifecycle:
        if self._tasks is None:
            raise BackendUnavailable("the backend is closed", hint="use it inside `async with`")
        if self._lives is None:
            helpers = install_helpers(self._state)
            means = Means(helpers=helpers, cgroups=self._cgroups, tasks=self._tasks, render=self._render)
            self._lives = Lifecycle(self._state, means)
        return self._lives

    async def _builtin(self, ref: Ref, path: str, *argv: str, stdin: bytes | None = None) -> bytes:
        request = ExecRequest(argv=argv, builtin=True, stdin=stdin is not None, output_bytes=_KEEP_EVERYTHING)
        return await _collect(await self._start_process(ref, request), path, stdin)

    def _known(self, ref: Ref) -> LiveSandbox:
        sandbox = self._sandboxes.get(ref.id)
        if sandbox is None:
            raise self._unknown(ref)
        return sandbox

    def _running(self, ref: Ref) -> LiveSandbox:
        sandbox = self._known(ref)
        if sandbox.state is SandboxState.PAUSED:
            raise Conflict(f"sandbox {ref.id} is paused", hint="let it go on first", id=ref.id)
        if sandbox.state is not SandboxState.RUNNING:
            raise BackendUnavailable(
                f"sandbox {ref.id} has {sandbox.state}: {sandbox.reason}",
                hint=f"save its changes with: gloveport diff {ref.id}; remove it with: gloveport rm {ref.id}",
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
