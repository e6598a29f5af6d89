"""One living sandbox: bubblewrap started, guestd answering, and the orderly end of both."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.lowlevel

from gloveport.backends.bubblewrap.cgroups import Cgroups, SandboxCgroup
from gloveport.backends.bubblewrap.helpers import Helpers
from gloveport.backends.bubblewrap.launcher import IDMAP_UNSUPPORTED, Launch, Launched, launch
from gloveport.backends.bubblewrap.place import Place, Record
from gloveport.backends.bubblewrap.processors import started_on
from gloveport.backends.bubblewrap.render import Places, render
from gloveport.backends.bubblewrap.watch import Watch, Watched
from gloveport.backends.bubblewrap.way_out import take_listener
from gloveport.backends.bubblewrap.workspace import IDMAP_TROUBLE, Workspace, stages_for
from gloveport.errors import BackendUnavailable, GloveportError
from gloveport.guest.channel import Channel
from gloveport.guest.wire import Environment
from gloveport.model import Assembled, Overlay, Plan, SandboxState

__all__ = ["LiveSandbox", "Means", "encode_env", "starting"]

_START_SECONDS = 20.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every sandbox of one backend is started with."""

    helpers: Helpers
    cgroups: Cgroups
    tasks: anyio.abc.TaskGroup
    render: Callable[[Plan, Places], list[str]] = render


@dataclass(slots=True, kw_only=True)
class LiveSandbox:
    """What this process holds of one sandbox."""

    plan: Plan
    place: Place
    workspace: Workspace
    cgroup: SandboxCgroup | None
    launched: Launched
    channel: Channel
    created_at: float
    env: Environment
    """The plan's environment as processes get it."""
    digest: str = ""
    """The plan's."""
    state: SandboxState = SandboxState.CREATING
    reason: str = ""
    listener: socket.socket | None = None
    """The guest's way out; `None` where its plan has none."""
    watch: Watch | None = None
    thawed: anyio.Event | None = None
    """While the guest is frozen: set when it goes on. No exec may start meanwhile."""
    saving: anyio.Lock = field(default_factory=anyio.Lock)
    """A pause and a snapshot take turns."""
    is_left: bool = False
    """Its end has begun."""
    ending: anyio.Lock = field(default_factory=anyio.Lock)
    """The end of its wall time and a `delete` may come together."""

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Be the sandbox of its id: other processes read so, its limits are kept, its wall time begins."""
        self.created_at = time.time()
        self.place.record(
            Record(
                id=self.plan.sandbox,
                created_at=self.created_at,
                plan_digest=self.digest,
                image="host",
                source=self.workspace.source,
                layer=str(self.workspace.sealed or ""),
            )
        )
        watched = Watched(upper=self.place.upper, workspace=_workspace(self.plan), open_proc=self.launched.open_proc)
        self.watch = Watch(self.plan.limits, self.channel, watched, self.expire)
        tasks.start_soon(self.guard, self.watch)

    def lost(self, reason: str) -> None:
        """Guestd is gone without having been asked to go."""
        if self.state in (SandboxState.RUNNING, SandboxState.CREATING):
            self.state = SandboxState.FAILED
            self.reason = reason

    async def expire(self) -> None:
        """The sandbox's wall time is over: stop it, and keep its workspace until it is deleted."""
        self.state = SandboxState.STOPPED
        self.reason = "timeout"
        await self.end()

    def leave(self) -> None:
        """Begin the end: guestd's stream is closed, and the kernel ends what lives below it. `end` waits for that."""
        self.is_left = True
        if self.state is SandboxState.RUNNING:
            self.state = SandboxState.STOPPED
        if self.watch is not None:
            self.watch.cancel()
        if self.listener is not None:
            # Whoever serves it lets go of it; only then may its number be another's, which `end` sees to.
            with suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
        if self.channel.lost is None:
            self.channel.close()

    async def end(self) -> None:
        """Leave, wait until every process is gone, remove the control group. Idempotent, bounded."""
        async with self.ending:
            try:
                self.leave()
            finally:
                try:
                    await self.launched.reap()
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                finally:
                    if self.listener is not None:
                        self.listener.close()
                    if self.cgroup is not None:
                        self.cgroup.remove()

    async def guard(self, watch: Watch) -> None:
        """Watch until the end. A watch that fails is the end of this sandbox, and of no other."""
        try:
            await watch.run()
        except Exception as error:  # noqa: BLE001 - a limit nobody watches is no limit, whatever the reason
            _log.exception("the watch of sandbox %s failed", self.plan.sandbox)
            self.lost(f"its limits cannot be watched any more: {_say(error)}")
            with anyio.CancelScope(shield=True):
                await self._give_up()

    async def _give_up(self) -> None:
        try:
            await self.end()
        except Exception:  # noqa: BLE001 - what is left of it is a delete's to free
            _log.exception("sandbox %s cannot be ended", self.plan.sandbox)


def encode_env(env: Mapping[str, str]) -> tuple[bytes, ...]:
    """Variables as the protocol carries them."""
    return tuple(os.fsencode(f"{name}={value}") for name, value in env.items())


@asynccontextmanager
async def starting(plan: Plan, place: Place, workspace: Workspace, means: Means) -> AsyncIterator[LiveSandbox]:
    """Start bubblewrap: what is done in the scope is done while it mounts, and at the end of it guestd has answered.

    On failure everything started here is ended again.
    """
    cgroup = _make_cgroup(plan, means.cgroups)
    sandbox: LiveSandbox | None = None
    try:
        started = _launch(plan, place, workspace, means, cgroup)
        sandbox = LiveSandbox(
            plan=plan,
            place=place,
            workspace=workspace,
            cgroup=cgroup,
            launched=started.launched,
            channel=Channel(started.control, cgroup.oom_kills if cgroup is not None else None),
            created_at=time.time(),
            env=Environment(encode_env(plan.env)),
        )
        means.tasks.start_soon(sandbox.channel.run, sandbox.lost)
        with started.way_out or nullcontext() as way_out:
            await _wait(sandbox, started.launched.begun())
            sandbox.digest = plan.digest()
            yield sandbox
            await _wait(sandbox, sandbox.channel.ready())
            sandbox.listener = take_listener(way_out) if way_out is not None else None
    except BaseException:
        with anyio.CancelScope(shield=True):
            if sandbox is not None:
                await sandbox.end()
            elif cgroup is not None:
                cgroup.remove()
        raise
    sandbox.state = SandboxState.RUNNING
    started.launched.find_guestd()


async def _wait(sandbox: LiveSandbox, sign: Awaitable[None]) -> None:
    """Wait for a sign of a sandbox that starts; where none comes, end it and say what bubblewrap said."""
    try:
        with anyio.fail_after(_START_SECONDS):
            await sign
    except (BackendUnavailable, TimeoutError) as error:
        with anyio.CancelScope(shield=True):
            await sandbox.end()
        raise _start_failure(sandbox.launched.last_words, sandbox.launched.status) from error


@dataclass(frozen=True, slots=True)
class _Started:
    """Bubblewrap, and our ends of what it inherited."""

    launched: Launched
    control: socket.socket
    way_out: socket.socket | None
    """Where guestd sends the guest's listening socket."""


def _launch(plan: Plan, place: Place, workspace: Workspace, means: Means, cgroup: SandboxCgroup | None) -> _Started:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    way_out, way_in = _way_out(plan)
    info = os.pipe()
    seccomp = os.open(means.helpers.seccomp, os.O_RDONLY | os.O_CLOEXEC)
    try:
        places = Places(
            bwrap=means.helpers.bwrap,
            guestd=means.helpers.guestd,
            assembled={m.target: means.helpers.assemble(m) for m in plan.mounts if isinstance(m, Assembled)},
            upper=str(place.upper),
            work=str(place.work),
            lower=workspace.lower,
            layer=workspace.layer,
            copied=workspace.copied_at is not None,
            staged=workspace.staged,
            control_fd=theirs.fileno(),
            seccomp_fd=seccomp,
            info_fd=info[1],
            guestd_memory=0 if means.cgroups.has("memory") else plan.limits.memory_bytes,
            covered=means.helpers.covered,
            egress_fd=way_in.fileno() if way_in is not None else None,
        )
        request = Launch(
            launcher=means.helpers.launch,
            argv=means.render(plan, places),
            user=(place.user.uid, place.user.gid) if os.geteuid() == 0 else None,
            cgroups=[str(directory) for directory in cgroup.directories] if cgroup else [],
            stages=stages_for(workspace),
            keep=(theirs.fileno(), seccomp, info[1], *([way_in.fileno()] if way_in is not None else ())),
        )
        with started_on(None if means.cgroups.has("cpu") else plan.limits.cpus):
            return _Started(launch(request, info[0]), ours, way_out)
    except BaseException:
        ours.close()
        if way_out is not None:
            way_out.close()
        os.close(info[0])
        raise
    finally:
        theirs.close()
        if way_in is not None:
            way_in.close()
        os.close(info[1])
        os.close(seccomp)


def _way_out(plan: Plan) -> tuple[socket.socket, socket.socket] | tuple[None, None]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) if plan.network == "proxy" else (None, None)


def _make_cgroup(plan: Plan, cgroups: Cgroups) -> SandboxCgroup | None:
    try:
        return cgroups.make(plan.sandbox, plan.limits)
    except OSError as error:
        raise BackendUnavailable(
            f"cannot make a control group: {error.strerror} ({error.filename})",
            hint="see how limits are kept here with: gloveport doctor",
        ) from error


def _workspace(plan: Plan) -> str:
    return next(mount.target for mount in plan.mounts if isinstance(mount, Overlay))


def _say(error: Exception) -> str:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error.message if isinstance(error, GloveportError) else repr(error)


def _start_failure(words: str, status: int | None) -> BackendUnavailable:
    if status == IDMAP_UNSUPPORTED:
        return BackendUnavailable(
            f"this file system {IDMAP_TROUBLE}: {words}",
            hint="copy the repository to a local file system (ext4, xfs, btrfs)",
        )
    return BackendUnavailable(
        f"bubblewrap did not start: {words or f'exit {status}'}",
        hint="see what is missing with: gloveport doctor",
    )
