"""The sandboxes of one server: made, found, listed and closed for its clients, and gone with it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import anyio
import anyio.abc
import anyio.to_thread
from anyio.abc import TaskStatus

from gloveport.errors import GloveportError, LimitExceeded, NotFound
from gloveport.mcp.bounds import Bounds, check_source, make_spec
from gloveport.mcp.shapes import CreateSandbox, SandboxFacts
from gloveport.model import Policy, SandboxState, Verdict
from gloveport.sandbox import Held, Manager, Sandbox
from gloveport.sandbox.task_scope import task_scope
from gloveport.tools.claude import ClaudeTools, open_claude_tools

__all__ = ["Entry", "Sandboxes", "open_sandboxes"]

_IDLE_LOOK_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Entry:
    """One sandbox as the server holds it."""

    def __init__(self, held: Held, tasks: anyio.abc.TaskGroup) -> None:
        self.held = held
        self.sandbox = Sandbox(held)
        self.calls = 0
        """How many are going on."""
        self.used = time.monotonic()
        """When the last one ended."""
        self._tasks = tasks
        self._opening = anyio.Lock()
        self._claude: ClaudeTools | None = None
        self._closed = anyio.Event()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A call that goes on: meanwhile the sandbox is not idle."""
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            self.used = time.monotonic()

    async def claude(self) -> ClaudeTools:
        """The six tools of Claude Code in this sandbox, with what they remember from call to call."""
        async with self._opening:
            if self._claude is None:
                self._claude = await self._tasks.start(self._hold)
            return self._claude

    def close(self) -> None:
        """End what the tools have running in the background."""
        self._closed.set()

    def restart(self) -> None:
        """Forget what the tools remember: the sandbox is in another state."""
        self.close()
        self._claude, self._closed = None, anyio.Event()

    async def facts(self) -> SandboxFacts:
        """What is observed now."""
        sandbox, network = self.sandbox, _has_way_out(self.sandbox.policy)
        try:
            status = await sandbox.status()
        except GloveportError as error:
            return SandboxFacts(sandbox_id=sandbox.id, state="failed", reason=error.message, network=network)
        state = SandboxState(status.state)
        return SandboxFacts(
            sandbox_id=sandbox.id,
            state=state.value,
            reason=status.reason,
            created_at=status.created_at,
            source=status.source,
            isolation=status.isolation,
            network=network,
        )

    async def _hold(self, *, task_status: TaskStatus[ClaudeTools]) -> None:
        """One task opens and closes the tools: their scope has its own tasks."""
        closed = self._closed
        try:
            async with open_claude_tools(self.sandbox) as tools:
                task_status.started(tools)
                await closed.wait()
        except GloveportError as error:
            _log.warning("the tools of %s ended: %s", self.sandbox.id, error.message)
        finally:
            if closed is self._closed:
                self._claude = None


def _has_way_out(policy: Policy) -> bool:
    """Whether anything may be reached, if only after asking: a layer that leaves egress closed ends the question."""
    for layer in policy.layers:
        if layer.egress is None:
            continue
        if layer.egress_default is Verdict.ASK or any(rule.verdict is not Verdict.DENY for rule in layer.egress):
            return True
        if "egress" not in layer.open:
            return False
    return False


class Sandboxes:
    """Those of one server, and of nobody else; opened by `open_sandboxes`."""

    def __init__(self, manager: Manager, bounds: Bounds, tasks: anyio.abc.TaskGroup) -> None:
        self.manager = manager
        self._bounds = bounds
        self._tasks = tasks
        self._entries: dict[str, Entry] = {}
        self._coming = 0

    async def create(self, asked: CreateSandbox) -> Entry:
        """Make one. Raises what `make_spec` and `Manager.create` raise, and `LimitExceeded` beyond the bound."""
        with self.room(1):
            spec = await anyio.to_thread.run_sync(partial(make_spec, asked, self._bounds), abandon_on_cancel=True)
            if spec.snapshot is not None:
                check_source(self.manager.snapshots.get(spec.snapshot), self._bounds, self.manager.settings.data)
            return self.adopt(await self.manager.create(spec))

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Keep room for so many new ones meanwhile, or raise `LimitExceeded`."""
        if len(self._entries) + self._coming + count > self._bounds.most:
            raise LimitExceeded(
                f"this server holds at most {self._bounds.most} sandboxes, and has {len(self._entries)}",
                hint="close those that are not needed any more: close_sandbox",
                limit="sandboxes",
            )
        self._coming += count
        try:
            yield
        finally:
            self._coming -= count

    def adopt(self, held: Held) -> Entry:
        """Hold a sandbox that the manager has made."""
        entry = self._entries[held.ref.id] = Entry(held, self._tasks)
        return entry

    def forget_lost(self, entry: Entry) -> None:
        """Hold no sandbox that the manager has given up."""
        try:
            self.manager.get(entry.sandbox.id)
        except NotFound:
            entry.close()
            self._entries.pop(entry.sandbox.id, None)

    def get(self, sandbox: str) -> Entry:
        """By its id, whole. Raises `NotFound`."""
        entry = self._entries.get(sandbox)
        if entry is None:
            raise NotFound(
                f"this server has no sandbox {sandbox!r}",
                hint="list_sandboxes says which there are; create_sandbox makes one",
                id=sandbox,
            )
        return entry

    def all(self) -> list[Entry]:
        """The oldest first."""
        return list(self._entries.values())

    async def close(self, sandbox: str) -> None:
        """Kill everything in it and free everything. Raises `NotFound`; once begun it goes on to the end."""
        entry = self.get(sandbox)
        del self._entries[sandbox]
        with anyio.CancelScope(shield=True):
            entry.close()
            await self.manager.delete(sandbox)

    async def close_idle(self, seconds: float) -> None:
        """Close those that nobody has used for so long, now and from now on."""
        while True:
            now = time.monotonic()
            for entry in self.all():
                if not entry.calls and now - entry.used >= seconds:
                    _log.warning("closing %s: nobody has used it for %g s", entry.sandbox.id, seconds)
                    with contextlib.suppress(GloveportError):
                        await self.close(entry.sandbox.id)
            await anyio.sleep(min(seconds, _IDLE_LOOK_SECONDS))


@asynccontextmanager
async def open_sandboxes(manager: Manager, bounds: Bounds) -> AsyncIterator[Sandboxes]:
    """The sandboxes of one server. They end with the manager's scope, which is around this one."""
    async with task_scope() as tasks:
        try:
            yield Sandboxes(manager, bounds, tasks)
        finally:
            tasks.cancel_scope.cancel()
