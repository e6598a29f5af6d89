"""Makes sandboxes and finds them again: from a spec to a source, a plan and a recorded backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.from_thread
import anyio.to_thread

from gloveport.backends import Backend, make_backend
from gloveport.backends.bubblewrap.helpers import find_ripgrep
from gloveport.egress import Inspection, ParentProxy
from gloveport.errors import GloveportError, InvalidRequest, NotFound
from gloveport.model import (
    EventKind,
    Limits,
    Plan,
    Policy,
    Probe,
    Ref,
    SandboxStatus,
    Snapshot,
    Spec,
    new_id,
    resolve_id,
)
from gloveport.policy import HostView, PlanInputs, check_plan, check_shown, compile_plan, survey
from gloveport.policy.compile import is_fetched, is_sealed
from gloveport.sandbox.approvals import ASK_SECONDS, Desk, Window
from gloveport.sandbox.egress import MakeGate, make_gate, serve_way_out
from gloveport.sandbox.grants import Clock, KeptGrants
from gloveport.sandbox.inspection import Inspector
from gloveport.sandbox.recorder import Recorder
from gloveport.sandbox.snapshot_files import load_snapshot, save_snapshot
from gloveport.sandbox.snapshots import as_first, beneath, check_layers, layers_of, move_to, stand_on, take, while_made
from gloveport.sandbox.source import prepare_source
from gloveport.sandbox.task_scope import all_or_none, undivided
from gloveport.settings import Settings
from gloveport.store import Redactor, Snapshots, Trail, make_private

__all__ = ["Held", "Manager"]

OpenBackend = Callable[[str, Path], AbstractAsyncContextManager[Backend]]
"""A backend by its name and this installation's state directory, not yet entered."""
MOST_FORKS = 1000
"""Of one call."""
_SURVEY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """One sandbox as its manager holds it: what a handle is made of."""

    ref: Ref
    backend: Recorder
    """Recorded: every operation is decided and written down."""
    scratch: Path
    """A private directory of the host for throw-away repositories."""
    plan: Plan
    """What it was made by."""
    manager: Manager
    trail: Trail | None = None
    turn: anyio.Lock = field(default_factory=anyio.Lock, compare=False)
    """A reset and a delete take turns."""

    @property
    def limits(self) -> Limits:
        """What bounds it."""
        return self.plan.limits

    @property
    def policy(self) -> Policy:
        """What it may do."""
        return self.plan.policy


class Manager:
    """The owner of sandboxes in this process. They end when its scope does.

    `open_backend` and `make_gate` are seams: for the doctor, who takes one guard away and looks whether it is missed,
    and for tapes of what guests fetch.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        backends: Sequence[str] = ("bubblewrap",),
        ask_seconds: float = ASK_SECONDS,
        open_backend: OpenBackend = make_backend,
        make_gate: MakeGate = make_gate,
    ) -> None:
        self.settings = settings
        self._open_backend = open_backend
        self._make_gate = make_gate
        self.redactor = Redactor(secret for secret in (settings.api_key, settings.auth_token) if secret)
        """Masks what this installation knows to be secret."""
        clock = Clock()
        self.approvals = Desk(KeptGrants(settings.data / "grants.json", clock), seconds=ask_seconds, clock=clock)
        """Where sandboxes wait `ask_seconds` for a person to allow what their policy asks about."""
        self.snapshots = Snapshots(settings.data / "snapshots")
        """What sandboxes were saved as."""
        self._inspector = Inspector(settings, self.redactor)
        self._parent = ParentProxy.parse(settings.parent_proxy, settings.parent_credentials)
        self._names = backends
        self._backends: dict[str, Backend] = {}
        self._held: dict[str, Held] = {}
        self._stack = AsyncExitStack()
        self._surveyed: tuple[float, HostView] | None = None
        ripgrep = find_ripgrep()
        self._guest_tools = (("rg", str(ripgrep)),) if ripgrep is not None else ()
        self._ways_out: dict[str, anyio.CancelScope] = {}

    async def __aenter__(self) -> Self:
        make_private(self.settings.state, mode=0o711)
        make_private(self.settings.data)
        self._scratch = make_private(self.settings.state / "scratch")
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        # Told of no error, the group wraps none: what the caller raised passes as it is.
        self._stack.push_async_callback(self._tasks.__aexit__, None, None, None)
        self._stack.callback(self._tasks.cancel_scope.cancel)
        self._tasks.start_soon(anyio.to_thread.run_sync, self.snapshots.sweep)
        for name in self._names:
            self._backends[name] = await self._stack.enter_async_context(self._open_backend(name, self.settings.state))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        for sandbox in self._held:
            self._stack.push_async_callback(self.delete, sandbox)  # each is tried, whatever becomes of the others
        return await self._stack.__aexit__(kind, error, trace)

    def probes(self) -> list[Probe]:
        """Every backend's self-examination."""
        return [backend.probe() for backend in self._backends.values()]

    async def plan(self, spec: Spec, sandbox: str | None = None) -> Plan:
        """What `create` would apply. Nothing is written, but for a source that is no plain directory: it is fetched."""
        self._backend(spec.backend)
        host = self._survey()
        lower: str | None = None
        snapshot: Snapshot | None = None
        if spec.snapshot is not None:
            snapshot, spec = beneath(spec, self.snapshots)
            lower = self.snapshots.lower(snapshot)
        elif spec.source is not None:
            lower = (await prepare_source(spec.source, cache=self._fetched, scratch=self._scratch)).lower
        if lower is not None and not (is_fetched(lower, self._fetched) or is_sealed(lower, self.snapshots.root)):
            check_shown(lower, host)
        inputs = PlanInputs(
            sandbox=sandbox or new_id(),
            host=host,
            lower=lower,
            tools=self._guest_tools,
            trust=str(self._inspector.trust),
            placeholders=self._inspector.prepare(spec.policy),
        )
        plan = compile_plan(spec, inputs)
        return plan if snapshot is None else stand_on(plan, snapshot, self.snapshots)

    async def create(self, spec: Spec, *, trail: Trail | None = None) -> Held:
        """Make one sandbox. With `trail` its events join that trail; otherwise they get a file of their own."""
        return await self._make(await self.plan(spec), spec.backend, trail)

    async def apply(self, plan: Plan, *, backend: str = "bubblewrap", trail: Trail | None = None) -> Held:
        """Make the sandbox of a plan compiled elsewhere. `trail` as for `create`.

        A plan that joins a trail was compiled in this process, such as the jail of an agent, and may show what is the
        platform's own: a socket to its proxy. Any other may have come from anywhere, so that it is checked whole:
        `PolicyDenied` for what no sandbox is shown, `InvalidRequest` for what no plan says.
        """
        if trail is None:
            self.check(plan)
        return await self._make(plan, backend, trail)

    def check(self, plan: Plan) -> None:
        """Whether a plan from anywhere may be applied; raises as `apply` does without a trail."""
        check_plan(
            plan,
            self._survey(),
            fetched=self._fetched,
            snapshots=self.snapshots.root,
            trust=str(self._inspector.trust),
        )

    async def snapshot(self, prefix: str, label: str = "") -> Snapshot:
        """Save a sandbox's files as they are at one moment. Processes go on; they are no part of it.

        Raises `Unsupported` where its backend cannot, `Conflict` where no one moment can be had, `LimitExceeded` where
        there is no room. A snapshot that fails leaves nothing.
        """
        held = self.get(prefix)
        made = await take(held.backend, held.ref, self.snapshots, fetched=self._fetched, label=label)
        facts = {
            "sandbox": held.ref.id,
            "snapshot": made.id,
            "label": label,
            "entries": made.entries,
            "size": made.size,
        }
        held.backend.trail.append(EventKind.SNAPSHOT_TAKEN, facts)
        return made

    async def forget(self, name: str) -> Snapshot:
        """Remove a snapshot. Raises `Conflict` while a sandbox of any process stands on it."""
        return await anyio.to_thread.run_sync(partial(self.snapshots.remove, name, used=self._used))

    async def prune(self, *, labelled: bool = False) -> list[Snapshot]:
        """Remove the snapshots that no sandbox stands on; those with a label only with `labelled`."""
        return await anyio.to_thread.run_sync(partial(self.snapshots.prune, used=self._used, labelled=labelled))

    async def save(self, name: str, path: Path) -> Snapshot:
        """Write a snapshot as one file; what it is once it is loaded. Raises as `write_snapshot`."""
        return await anyio.to_thread.run_sync(save_snapshot, self.snapshots, name, path)

    async def load(self, path: Path) -> Snapshot:
        """Take in a snapshot from a file that `save` wrote, here or elsewhere. Raises as `read_snapshot`."""
        return await anyio.to_thread.run_sync(load_snapshot, self.snapshots, path)

    def _used(self) -> list[str]:
        """What sandboxes stand on, and what their plain reset would stand on again. Called in a thread."""
        statuses = anyio.from_thread.run(self.statuses)
        begun = [path for held in list(self._held.values()) for path in layers_of(held.plan)]
        return [*begun, *(path for status in statuses for path in (status.layer, status.source) if path)]

    async def fork(self, prefix: str, count: int = 1) -> list[Held]:
        """So many new sandboxes that begin where this one is: all or none. Raises as `snapshot` and `create`."""
        if not 1 <= count <= MOST_FORKS:
            raise InvalidRequest(f"{count} forks", hint=f"1 to {MOST_FORKS} at once")
        held = self.get(prefix)
        async with while_made(self.snapshots):
            plan = stand_on(held.plan, await self.snapshot(prefix), self.snapshots, beside=held.ref.id)
            plans = [replace(plan, sandbox=new_id()) for _ in range(count)]
            make = partial(self._make, backend=held.ref.backend, trail=None)
            return await all_or_none(make, plans, undo=self._undo)

    async def _undo(self, plan: Plan) -> None:
        if plan.sandbox in self._held:
            with suppress(GloveportError):  # it is tried again when the manager ends
                await self.delete(plan.sandbox)

    async def reset(self, prefix: str, to: str | None = None) -> Held:
        """Make a sandbox what it was at its beginning, or in a snapshot, or with `base` what its source is.

        Every process is ended; workspace, `/tmp` and home are as they were then; the id stays. Raises `NotFound` and
        `BackendUnavailable` for a snapshot that is not there or damaged, and `Conflict` for one of another source,
        before anything is ended. Where the new start fails, the sandbox has failed, and can be read and reset.
        """
        held = self.get(prefix)
        await undivided(self._tasks, partial(self._reset, held, to))
        return held

    async def _reset(self, held: Held, to: str | None) -> None:
        async with held.turn, while_made(self.snapshots):
            await self._reset_to(self.get(held.ref.id), to)

    async def _reset_to(self, held: Held, to: str | None) -> None:
        plan = as_first(held.plan) if to == "base" else held.plan
        if to is not None and to != "base":
            plan = move_to(plan, self.snapshots.get(to), self.snapshots)
        await check_layers(plan, self.snapshots)
        inspection = await self._inspector.open(plan)
        await held.backend.reset(held.ref, plan)  # until it ends what there is, and where it does not, that goes on
        try:
            self._close_ways(held.ref.id)
            await self._open_ways(held, plan, inspection)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(GloveportError):
                await self._delete(held)
            raise

    async def _make(self, plan: Plan, backend: str, trail: Trail | None) -> Held:
        async with while_made(self.snapshots):
            await check_layers(plan, self.snapshots)
            return await self._make_whole(plan, backend, trail)

    async def _make_whole(self, plan: Plan, backend: str, trail: Trail | None) -> Held:
        inspection = await self._inspector.open(plan)
        own = trail or self._trail(plan.sandbox)
        recorder = Recorder(self._backend(backend), own)
        try:
            ref = await recorder.create(plan)
        except BaseException:
            if trail is None:
                own.close()
            raise
        kept = None if trail is not None else own
        held = Held(ref, recorder, self._scratch, plan, self, kept)
        self._held[ref.id] = held
        try:
            await self._open_ways(held, plan, inspection)
        except BaseException:
            # Nobody has its handle yet. Where this fails too, it is tried again when the manager ends.
            with anyio.CancelScope(shield=True), suppress(GloveportError):
                await self.delete(ref.id)
            raise
        return held

    async def _open_ways(self, held: Held, plan: Plan, inspection: Inspection) -> None:
        """To a person, and to hosts."""
        window = self.approvals.open(held.ref.id, held.backend.trail)
        held.backend.ask_at(window)
        if plan.network == "proxy":
            await self._open_way_out(held, plan, held.backend.trail, window, inspection)

    def _close_ways(self, sandbox: str) -> None:
        self.approvals.close(sandbox)
        if (way_out := self._ways_out.pop(sandbox, None)) is not None:
            way_out.cancel()

    async def _open_way_out(self, held: Held, plan: Plan, trail: Trail, window: Window, inspection: Inspection) -> None:
        listener = await held.backend.egress(held.ref)
        scope = self._ways_out[held.ref.id] = anyio.CancelScope()
        gate = self._make_gate(held.ref.id, plan.policy, trail, window, inspection)
        gate.parent = self._parent

        async def serve() -> None:
            with scope:
                await serve_way_out(listener, gate)

        self._tasks.start_soon(serve)

    def get(self, prefix: str) -> Held:
        """The sandbox that a unique prefix of its id names."""
        return self._held[resolve_id(prefix, self._held, noun="sandbox")]

    async def statuses(self) -> list[SandboxStatus]:
        """Every sandbox of this installation, those of other processes included."""
        found = []
        for backend in self._backends.values():
            for ref in await backend.refs():
                try:
                    found.append(await backend.status(ref))
                except NotFound:
                    continue
        return sorted(found, key=lambda status: status.created_at)

    async def delete(self, prefix: str) -> str:
        """Delete by id or prefix; the id. Waits for a reset that has begun."""
        held = self.get(prefix)
        async with held.turn:
            await self._delete(held)
        return held.ref.id

    async def _delete(self, held: Held) -> None:
        self._close_ways(held.ref.id)
        await held.backend.delete(held.ref)
        self._held.pop(held.ref.id, None)
        if held.trail is not None:
            held.trail.close()

    async def sweep(self) -> None:
        """Remove what other processes of this installation that died left behind."""
        for backend in self._backends.values():
            await backend.sweep()

    @property
    def held(self) -> Collection[Held]:
        """The sandboxes of this process."""
        return self._held.values()

    @property
    def _fetched(self) -> Path:
        """Where the trees are that the platform itself fetched."""
        return self.settings.data / "repositories"

    def _survey(self) -> HostView:
        """What this host is like, as of a few seconds ago at most: it changes seldom, and every create asks."""
        if self._surveyed is None or time.monotonic() - self._surveyed[0] > _SURVEY_SECONDS:
            self._surveyed = (time.monotonic(), survey(own=(self.settings.state, self.settings.data)))
        return self._surveyed[1]

    def _backend(self, name: str) -> Backend:
        backend = self._backends.get(name)
        if backend is None:
            raise InvalidRequest(f"no backend {name!r}", hint=f"one of: {', '.join(sorted(self._backends))}")
        return backend

    def _trail(self, sandbox: str) -> Trail:
        directory = make_private(self.settings.data / "audit")
        return Trail(directory / f"{sandbox}.jsonl", redactor=self.redactor)
