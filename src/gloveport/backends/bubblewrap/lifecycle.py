"""How sandboxes begin, begin anew and end; and what waits ready, so that a second reset takes hardly any time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from gloveport.backends.bubblewrap.live import LiveSandbox, Means, starting
from gloveport.backends.bubblewrap.place import Place, empty_trash, make_place
from gloveport.backends.bubblewrap.sealing import fill
from gloveport.backends.bubblewrap.successor import Successor, is_worth_it, seen_by
from gloveport.backends.bubblewrap.workspace import (
    MixedOwners,
    Workspace,
    copy_instead,
    copy_mixed,
    look_through,
    prepare_workspace,
)
from gloveport.errors import BackendUnavailable, GloveportError
from gloveport.model import Plan, SandboxState
from gloveport.store.lower import LowerFacts

__all__ = ["Lifecycle", "contain"]

_GONE_SECONDS = 5.0
"""How long what a reset ends may take to be gone, before guestd is killed."""
_log = logging.getLogger(__name__)


class Lifecycle:
    """Makes, resets and ends the sandboxes of one backend. `state` is a directory of this installation."""

    def __init__(self, state: Path, means: Means) -> None:
        self._state = state
        self._means = means
        self._successors: dict[str, Successor] = {}

    async def create(self, plan: Plan, known: LowerFacts | None) -> LiveSandbox:
        """Directories, workspace, control group, bubblewrap, guestd's hello; nothing is left where one of them fails.

        `known` is what is known of its source already.
        """
        place = self._on_disk(partial(make_place, self._state, plan.sandbox))
        try:
            sandbox = await self._prepare_and_start(plan, place, known)
            try:
                self._begin(sandbox)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await sandbox.end()
                raise
        except BaseException as error:
            self._free(place.discard, error)
            raise
        return sandbox

    async def reset(self, sandbox: LiveSandbox, plan: Plan) -> LiveSandbox:
        """End everything in a sandbox; what it is from then on, by `plan` and under the same id.

        The first time, what is new starts while what was there ends. From then on its successor waits already, unless
        the plan or what it shows is another. Where nothing new can be prepared, it goes on as it was; where it cannot
        start, the sandbox has failed, and its workspace is still there.
        """
        with anyio.CancelScope(shield=True):  # half of it would be the loss of everything
            seen = seen_by(plan, self._means.helpers)
            successor = self._successors.pop(plan.sandbox, None)
            ready = await successor.take(plan, seen) if successor is not None else None
            new = await self._replace(sandbox, plan, ready)
        self._successors[plan.sandbox] = successor = Successor(plan=plan, seen=seen)
        self._means.tasks.start_soon(self._succeed, sandbox, new, successor)
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

    async def _replace(self, sandbox: LiveSandbox, plan: Plan, ready: LiveSandbox | None) -> LiveSandbox:
        had_ended = sandbox.state in (SandboxState.STOPPED, SandboxState.FAILED)
        new = ready
        try:
            if ready is not None:
                _leave(sandbox)
            new = ready or await self._start_anew(sandbox, plan)
            await _gone(sandbox)
            self._begin(new)
        except BaseException as error:
            if new is not None:
                await new.end()
                self._free(new.place.clear, error)
            if sandbox.is_left and not had_ended:
                await sandbox.end()
                sandbox.state = SandboxState.FAILED
                sandbox.reason = f"its reset failed: {_say(error)}"
            raise
        return new

    async def _start_anew(self, sandbox: LiveSandbox, plan: Plan) -> LiveSandbox:
        place = self._on_disk(sandbox.place.anew)
        try:
            workspace = await prepare_workspace(plan, place, sandbox.workspace.facts)
            _leave(sandbox)
            return await self._start(plan, place, workspace)
        except BaseException as error:
            self._free(place.clear, error)
            raise

    def _begin(self, sandbox: LiveSandbox) -> None:
        try:
            sandbox.begin(self._means.tasks)
        except OSError as error:
            raise _no_room(self._state, error) from error

    async def _succeed(self, old: LiveSandbox, new: LiveSandbox, successor: Successor) -> None:
        """Tidy up after a reset, start what the next one will need, and end that with the sandbox."""
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(old.launched.let_go_of_mounts)
                await old.end()
                self._free(old.place.clear)
            with successor.scope:
                await anyio.lowlevel.checkpoint()
                if await anyio.to_thread.run_sync(is_worth_it, new):
                    place = self._on_disk(new.place.anew)
                    try:
                        successor.live = await self._prepare_and_start(new.plan, place, new.workspace.facts)
                    except BaseException as error:
                        self._free(place.clear, error)
                        raise
        except Exception as error:  # noqa: BLE001 - nobody asked for it
            _log.warning("the next reset of sandbox %s takes longer: %s", new.plan.sandbox, _say(error))
        finally:
            successor.settled.set()
        await new.channel.ended()
        try:
            await successor.dismiss()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no other sandbox's end
            _log.warning("the successor of sandbox %s cannot be removed: %s", new.plan.sandbox, _say(error))

    async def _prepare_and_start(self, plan: Plan, place: Place, known: LowerFacts | None) -> LiveSandbox:
        return await self._start(plan, place, await prepare_workspace(plan, place, known))

    async def _start(self, plan: Plan, place: Place, workspace: Workspace) -> LiveSandbox:
        """Start with the workspace as it was prepared, or with a copy where this host cannot show it."""
        while True:
            try:
                async with starting(plan, place, workspace, self._means) as sandbox:
                    workspace = sandbox.workspace = await look_through(plan, workspace)
                break
            except MixedOwners as found:
                workspace = await copy_mixed(workspace, place, found.facts)
            except OSError as error:
                raise BackendUnavailable(
                    f"a sandbox cannot be started: {error.strerror}",
                    hint="raise the limit of open files (ulimit -n), make room on the disk, or delete sandboxes",
                ) from error
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
            raise _no_room(self._state, error) from error

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


def _leave(sandbox: LiveSandbox) -> None:
    if sandbox.state in (SandboxState.RUNNING, SandboxState.PAUSED):
        sandbox.reason = "it is being reset"
    sandbox.launched.hold_mounts()  # what their end takes the kernel is for later
    sandbox.leave()


async def _gone(sandbox: LiveSandbox) -> None:
    """Wait until nothing of a sandbox that was left runs, not even the rest of a system call."""
    with anyio.move_on_after(_GONE_SECONDS) as patience:
        await sandbox.launched.gone()
    if patience.cancelled_caught:
        await sandbox.end()


def _no_room(state: Path, error: OSError) -> BackendUnavailable:
    return BackendUnavailable(
        f"{state} cannot be written: {error.strerror}",
        hint="make room on its disk, or point GLOVEPORT_STATE elsewhere",
    )


def _say(error: BaseException) -> str:
    return error.message if isinstance(error, GloveportError) else repr(error)


async def contain(work: Callable[[], object]) -> None:
    """Do housekeeping in a thread; its failure is logged, and no reason to end anybody's sandbox."""
    try:
        await anyio.to_thread.run_sync(work)
    except Exception:  # noqa: BLE001 - whatever it is
        _log.exception("cannot tidy up; the next sweep tries again")
