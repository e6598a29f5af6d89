"""A runner as a backend: whoever can use a backend can use sandboxes that another process holds."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import anyio.to_thread

from gloveport.backends.base import BackendBase, Process
from gloveport.client.codec import decode
from gloveport.client.remote import RemoteCall, RemoteProcess
from gloveport.client.start import connect
from gloveport.errors import GloveportError, NotFound
from gloveport.model import Capability, ExecRequest, Finding, Isolation, Plan, Probe, Ref, SandboxStatus
from gloveport.settings import Settings

__all__ = ["RunnerBackend"]

_OFFERED = frozenset({Capability.PTY})
"""A change set reads the host's own copy of a workspace, which only the runner has: see its verb `diff`."""


class RunnerBackend(BackendBase):
    """The sandboxes of this installation's runner, which is started when there is none. They outlive this object."""

    name = "runner"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __aenter__(self) -> Self:
        runner = await anyio.to_thread.run_sync(connect, self._settings)
        runner.close()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held here."""

    def probe(self) -> Probe:
        """What the runner says of the backend it uses, as far as it can be used from here."""
        try:
            with connect(self._settings) as runner:
                probe = decode(Probe, runner.call("probe")["probe"])
        except GloveportError as error:
            finding = Finding(problem=error.message, remedy=error.hint)
            return Probe(backend=self.name, isolation=Isolation.NONE, findings=(finding,))
        return Probe(
            backend=self.name,
            isolation=probe.isolation,
            capabilities=probe.capabilities & _OFFERED,
            versions=probe.versions,
            limits=probe.limits,
            findings=probe.findings,
        )

    async def create(self, plan: Plan) -> Ref:
        """Have the runner apply the plan."""
        status = (await self._call("apply", plan=plan.to_json()))["status"]
        return Ref(id=status["ref"]["id"], backend=self.name)

    async def status(self, ref: Ref) -> SandboxStatus:
        """What the runner sees."""
        return decode(SandboxStatus, (await self._call("status", id=ref.id))["status"])

    async def refs(self) -> Sequence[Ref]:
        """Every sandbox of this installation."""
        found = (await self._call("list"))["sandboxes"]
        return [Ref(id=status["ref"]["id"], backend=self.name) for status in found]

    async def exec(self, ref: Ref, request: ExecRequest) -> Process:
        """One connection for each process."""
        return await RemoteProcess.start(self._settings.socket, ref.id, request)

    async def read(self, ref: Ref, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The runner reads, in the guest's view."""
        call = await RemoteCall.begin(self._settings.socket, "read", id=ref.id, path=path, offset=offset, length=length)
        _, data = await call.result()
        return data

    async def write(self, ref: Ref, path: str, data: bytes, *, mode: int | None = None) -> None:
        """The runner writes, in the guest's view."""
        call = await RemoteCall.begin(self._settings.socket, "write", id=ref.id, path=path, mode=mode)
        await call.result(data)

    async def delete(self, ref: Ref) -> None:
        """Kill and free everything. Idempotent."""
        with contextlib.suppress(NotFound):
            await self._call("delete", id=ref.id)

    async def _call(self, verb: str, **fields: Any) -> dict[str, Any]:
        call = await RemoteCall.begin(self._settings.socket, verb, **fields)
        result, _ = await call.result()
        return result
