"""How sandboxes begin, begin anew and end; and what waits ready, so that a second reset takes hardly any time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from gloveport.backends.bubblewrap.live import LiveSandbox, Means, start_sandbox
from gloveport.backends.bubblewrap.place import Place, empty_trash, make_place
from gloveport.backends.bubblewrap.sealing import fill
from gloveport.backends.bubblewrap.workspace import Workspace, copy_instead, prepare_workspace
from gloveport.errors import BackendUnavailable, GloveportError
from gloveport.model import Plan, SandboxState
from gloveport.store.lower import LowerFacts

__all__ = ["Lifecycle", "contain"]

_GONE_SECONDS = 5.0
"""How long guestd may take to say that all it had is dead, before it is killed itself."""
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Successor:
    """What a sandbox is after its next reset by the same plan. Nothing runs in it but guestd until then."""

    plan: Plan
    live: LiveSandbox | None = None
    """`None` until it has started, and where it could not."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    settled: anyio.Event = field(default_factory=anyio.Event)

    async def take(self, plan: Plan) -> LiveSandbox | None:
        """The sandbox. `None`, and it is gone, where it is by another plan or does not run."""
        if plan == self.plan:
            await self.settled.wait()
            if self.live is not None and self.live.state is SandboxState.RUNNING:
                return self.live
        await self.dismiss()
        return None

    async def dismiss(self) -> None:
        """End it, and throw away what it has."""
        self.scope.cancel()
        with anyio.CancelScope(shield=True):
            await self.settled.wait()
            if self.live is not None:
                await self.live.end()
                self.live.place.clear()


class Lifecycle:
    """Makes, resets and ends the sandboxes of one backend. `state` is a directory of this installation."""

    def __init__(self, state: Path, means: Means) -> None:
        self._state = state
        self._means = means
        self._successors: dict[str, _Successor] = {}

    async def create(self, plan: Plan, known: LowerFacts | None) -> LiveSandbox:
        """Directories, workspace, control group, bubblewrap, guestd's hello; nothing is left where one of them fails.

        `known` is what is known of its source already.
        """
        place = self._on_disk(partial(make_place, self._state, plan.sandbox))
        try:
            workspace = await prepare_workspace(plan, place, known)
            sandbox = await self._start(plan, place, workspace)
        except BaseException as error:
            self._free(place.discard, error)
            raise
        sandbox.watch_from_now(self._means.tasks)
        return sandbox

    async def reset(self, sandbox: LiveSandbox, plan: Plan) -> LiveSandbox:
        """End everything in a sandbox; what it is from then on, by `plan` and under the same id.

        The first time, what is new starts while what was there ends: both take the kernel about as long. From then on
        its successor waits already, unless the plan is another one. Where nothing new can start, the sandbox has
        failed, and what it had is still there.
        """
        successor = self._successors.pop(plan.sandbox, None)
        with anyio.CancelScope(shield=True):  # half of it would be the loss of everything
            ready = await successor.take(plan) if successor is not None else None
            if ready is not None:
                sandbox.leave()
            new = ready or await self._start_anew(sandbox, plan)
            with anyio.move_on_after(_GONE_SECONDS) as patience:
                await sandbox.channel.ended()  # all it had is dead; its mounts take the kernel a while longer
            if patience.cancelled_caught:
                await sandbox.end()
        new.watch_from_now(self._means.tasks)
        self._successors[plan.sandbox] = _Successor(plan=plan)
        self._means.tasks.start_soon(self._succeed, sandbox, new, self._successors[plan.sandbox])
        return new

    async def delete(self, sandbox: LiveSandbox) -> None:
        """End it, and with it every process; free its directories."""
        with anyio.CancelScope(shield=True):
            try:
                if (successor := self._successors.pop(sandbox.plan.sandbox, None)) is not None:
                    await successor.dismiss()
            finally:
                try:
                    await sandbox.end()
                finally:
                    self._free(sandbox.place.discard)

    async def _start_anew(self, sandbox: LiveSandbox, plan: Plan) -> LiveSandbox:
        place = self._on_disk(sandbox.place.anew)
        try:
            workspace = await prepare_workspace(plan, place, sandbox.workspace.facts)
            sandbox.reason = "it is being reset"
            sandbox.leave()
            try:
                return await self._start(plan, place, workspace)
            except BaseException as error:
                await sandbox.end()
                sandbox.state = SandboxState.FAILED
                sandbox.reason = f"its reset failed: {error.message if isinstance(error, GloveportError) else error!r}"
                raise
        except BaseException as error:
            self._free(place.clear, error)
            raise

    async def _succeed(self, old: LiveSandbox, new: LiveSandbox, successor: _Successor) -> None:
        """Tidy up after a reset, and start what the next one will need."""
        try:
            await old.end()
            self._free(old.place.clear)
            with successor.scope:
                await anyio.lowlevel.checkpoint()
                successor.live = await self._start_beside(new)
        except Exception:  # noqa: BLE001 - nobody asked for it
            _log.exception("sandbox %s has no successor: its next reset takes longer", new.plan.sandbox)
        finally:
            successor.settled.set()

    async def _start_beside(self, sandbox: LiveSandbox) -> LiveSandbox:
        place = self._on_disk(sandbox.place.anew)
        try:
            workspace = await prepare_workspace(sandbox.plan, place, sandbox.workspace.facts)
            return await self._start(sandbox.plan, place, workspace)
        except BaseException as error:
            self._free(place.clear, error)
            raise

    async def _start(self, plan: Plan, place: Place, workspace: Workspace) -> LiveSandbox:
        """Start with the workspace as it was prepared, or with a copy where this host cannot show it."""
        while True:
            try:
                sandbox = await start_sandbox(plan, place, workspace, self._means)
                break
            except BackendUnavailable as error:
                other = await copy_instead(workspace, place, error.message)
                if other is None:
                    raise
                workspace = other
        try:
            await fill(sandbox)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.end()
            raise
        return sandbox

    def _on_disk(self, make: Callable[[], Place]) -> Place:
        try:
            return make()
        except OSError as error:
            raise BackendUnavailable(
                f"{self._state} cannot be written: {error.strerror}",
                hint="make room on its disk, or point GLOVEPORT_STATE elsewhere",
            ) from error

    def _free(self, free: Callable[[], None], error: BaseException | None = None) -> None:
        """Throw directories away; that it fails is told with `error`, or else raised."""
        try:
            free()
        except BackendUnavailable as further:
            if error is None:
                raise
            error.add_note(further.message)
        finally:
            self._means.tasks.start_soon(contain, partial(empty_trash, self._state))


async def contain(work: Callable[[], object]) -> None:
    """Do housekeeping in a thread; its failure is logged, and no reason to end anybody's sandbox."""
    try:
        await anyio.to_thread.run_sync(work)
    except Exception:  # noqa: BLE001 - whatever it is
        _log.exception("cannot tidy up; the next sweep tries again")
